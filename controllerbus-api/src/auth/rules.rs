//! The role that each call requires. A call without a rule is refused for everybody.

use super::caller::Need::{self, Apply, Control, Look};

/// The calls of the bus API.
const BUS: [(&str, Need); 17] = [
    ("GetInfo", Look),
    ("ListPlugins", Look),
    ("ListControllers", Look),
    ("ListDirectives", Look),
    ("ListConfigs", Look),
    ("ListFactories", Look),
    ("ListReloads", Look),
    ("WatchEvents", Look),
    ("WatchLogs", Look),
    ("OpenPage", Look),
    ("Ask", Apply),
    ("Execute", Apply),
    ("ExportConfigs", Apply),
    ("RemoveConfigs", Apply),
    ("ReloadPlugin", Control),
    ("RollBackPlugin", Control),
    ("UnloadPlugin", Control),
];

/// The calls of the standard gRPC services, and the page's requests.
const OTHERS: [(&str, Need); 14] = [
    ("POST /grpc.health.v1.Health/Check", Look),
    ("POST /grpc.health.v1.Health/List", Look),
    ("POST /grpc.health.v1.Health/Watch", Look),
    ("POST /grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Look),
    ("GET /api/state", Look),
    ("GET /api/events", Look),
    ("GET /metrics", Look),
    ("GET /healthz", Look),
    ("GET /readyz", Look),
    ("GET /api/directives", Apply),
    ("POST /api/ask", Apply),
    ("POST /api/plugins/reload", Control),
    ("POST /api/plugins/rollback", Control),
    ("POST /api/plugins/unload", Control),
];

/// The page itself. It is the same for everybody, and says nothing about the daemon.
pub const ASSETS: [&str; 14] = [
    "/",
    "/page.css",
    "/page.js",
    "/ask.js",
    "/bus.js",
    "/dom.js",
    "/fleet.js",
    "/keys.js",
    "/link.js",
    "/logs.js",
    "/plugins.js",
    "/rollouts.js",
    "/state.js",
    "/view.js",
];

/// What a request requires; none if there is no rule for it.
pub fn need(method: &str, path: &str) -> Option<Need> {
    if let Some(call) = path.strip_prefix("/controllerbus.api.v1.BusApi/") {
        let found = BUS.iter().find(|(name, _)| *name == call && method == "POST");
        return found.map(|(_, need)| *need);
    }
    if method == "GET" && ASSETS.contains(&path) {
        return Some(Look);
    }
    let asked = format!("{method} {path}");
    OTHERS.iter().find(|(known, _)| *known == asked).map(|(_, need)| *need)
}

/// Whether a path is a call of a gRPC service: `/package.Service/Method`.
pub fn is_grpc(path: &str) -> bool {
    path.strip_prefix('/').and_then(|path| path.split_once('/')).is_some_and(|(service, _)| service.contains('.'))
}

/// What anybody may request over TCP: whether the daemon is up, and nothing about what it does.
pub fn is_open(method: &str, path: &str) -> bool {
    method == "GET" && matches!(path, "/healthz" | "/readyz")
}
