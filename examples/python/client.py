"""Asks a daemon over the bus API, in Python.

    pip install grpcio-tools
    python -m grpc_tools.protoc -I ../../controllerbus-api/proto --python_out=. --grpc_python_out=. \
        controllerbus/api/v1/api.proto
    python client.py unix:$XDG_RUNTIME_DIR/cbus/default.sock
    python client.py unix:$XDG_RUNTIME_DIR/cbus/default.sock exec config.yaml

The first one prints an overview as JSON, the second one runs a config set for as long as it is attached, and prints the
states of its configs as they change. The daemon has to allow that (`--allow-exec`). With a token, over TCP:

    CBUS_TOKEN=... python client.py 127.0.0.1:7411
"""

import json
import os
import sys

import grpc
from google.protobuf.json_format import MessageToDict

from controllerbus.api.v1 import api_pb2, api_pb2_grpc


def connect(address):
    """The calls of a daemon's API, and what each of them has to be sent with."""
    token = os.environ.get("CBUS_TOKEN")
    metadata = [("authorization", f"Bearer {token}")] if token else []
    # On a socket there is no host's name; any other than this one is refused, because it would be a browser's.
    options = [("grpc.default_authority", "localhost")] if address.startswith("unix:") else []
    return api_pb2_grpc.BusApiStub(grpc.insecure_channel(address, options)), metadata


def overview(api, metadata):
    info = api.GetInfo(api_pb2.GetInfoRequest(), metadata=metadata)
    plugins = api.ListPlugins(api_pb2.ListPluginsRequest(), metadata=metadata)
    configs = api.ListConfigs(api_pb2.ListConfigsRequest(), metadata=metadata)
    told = {
        "version": info.version,
        "api_revision": info.api_revision,
        "plugins": {plugin.id: plugin.state for plugin in plugins.plugins},
        "configs": {config.key: config.state for config in configs.configs},
    }
    print(json.dumps(told))


def execute(api, metadata, path):
    with open(path, encoding="utf-8") as file:
        request = api_pb2.ExecuteRequest(config_set=file.read(), name=path, attach=True)
    # Ending the call, as Ctrl-C does, takes the configs off the bus again.
    for response in api.Execute(request, metadata=metadata):
        for config in response.configs:
            print(json.dumps(MessageToDict(config, preserving_proto_field_name=True)), flush=True)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    api, metadata = connect(sys.argv[1])
    try:
        if sys.argv[2:3] == ["exec"]:
            execute(api, metadata, sys.argv[3])
        else:
            overview(api, metadata)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
