//! The API as a controller: the config id `controllerbus/bus/api`, on the bus that it shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Info, factory};
use controllerbus::directive::wire;
use controllerbus::error::ErrorKind;
use controllerbus::prelude::*;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::address::{Address, is_loopback};
use super::auth::{Guard, check};
use super::proto::bus_api_server::BusApiServer;
use super::server::Service;
use crate::daemon::Host;
use crate::page;

/// How long the calls in flight may take when the API ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the API listens, who may use it, and for what.
#[derive(Config, Serialize, Deserialize, PartialEq, Clone, Debug)]
#[config(id = "controllerbus/bus/api")]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// `HOST:PORT`, or `unix:PATH`.
    pub listen: String,
    /// Whether clients may apply and remove configs.
    #[serde(default)]
    pub allow_exec: bool,
    /// Whether clients may reload and unload plugins.
    #[serde(default)]
    pub allow_control: bool,
    /// A file with the token that clients must show.
    #[serde(default)]
    pub token_file: Option<String>,
    /// The certificate chain of this API, PEM.
    #[serde(default)]
    pub tls_cert: Option<String>,
    /// The certificate's key, PEM.
    #[serde(default)]
    pub tls_key: Option<String>,
    /// Whose certificates clients must show, PEM.
    #[serde(default)]
    pub tls_client_ca: Option<String>,
}

/// Makes the controller; it knows the daemon that it shows.
pub struct ApiFactory {
    host: Weak<Host>,
}

impl ApiFactory {
    pub fn new(host: &Arc<Host>) -> Self {
        Self { host: Arc::downgrade(host) }
    }
}

impl Factory for ApiFactory {
    fn info(&self) -> Info {
        Info {
            id: super::CONFIG_ID.to_owned(),
            version: env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0)),
            description: "Shows the bus over gRPC, and a page of it.".to_owned(),
            config_id: super::CONFIG_ID.to_owned(),
        }
    }

    fn schema(&self) -> String {
        ApiConfig::SCHEMA.to_json()
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let host = self.host.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the daemon is ending"))?;
            let config: ApiConfig = wire::decode(&config)?;
            let prepared = host.prepared_api.lock().unwrap_or_else(PoisonError::into_inner).take();
            let api = match prepared {
                Some(api) if api.config == config => api,
                _ => Api::bind(config, host).await?,
            };
            Ok(factory::erase(api))
        })
    }
}

/// Listens already, so that what is wrong is told to who starts the daemon; its controller takes over. Says where.
pub async fn prepare(config: ApiConfig, host: &Arc<Host>) -> Result<String> {
    let api = Api::bind(config, Arc::clone(host)).await?;
    let address = api.address.clone();
    *host.prepared_api.lock().unwrap_or_else(PoisonError::into_inner) = Some(api);
    Ok(address)
}

/// The controller.
pub struct Api {
    host: Arc<Host>,
    config: ApiConfig,
    guard: Guard,
    tls: Option<ServerTlsConfig>,
    /// Where it is reached, with the port that it was given.
    address: String,
    listener: Mutex<Option<Listener>>,
}

enum Listener {
    Tcp(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

impl Controller for Api {
    type Config = ApiConfig;

    async fn construct(_: ApiConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("the API is made by its own factory, which knows the daemon"))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        let taken = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = match taken {
            Some(listener) => listener,
            // Executed again after an error.
            None => listen(&self.config).await?.0,
        };
        let service = Service {
            host: Arc::clone(&self.host),
            allow_exec: self.config.allow_exec,
            allow_control: self.config.allow_control,
            end: context.token().clone(),
        };
        let (health, healthy) = tonic_health::server::health_reporter();
        health.set_serving::<BusApiServer<Service>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(super::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let routes =
            Routes::from(page::router(service.clone())).add_service(BusApiServer::new(service)).add_service(healthy);
        let routes = routes.add_service(reflection).into_axum_router();
        let routes = routes.layer(axum::middleware::from_fn_with_state(self.guard.clone(), check));
        let mut server = Server::builder().accept_http1(true);
        if let Some(tls) = &self.tls {
            server = server.tls_config(tls.clone())?;
        }
        let server = server.add_routes(Routes::from(routes));
        let serving = async {
            match listener {
                Listener::Tcp(listener) => {
                    let incoming = TcpListenerStream::new(listener);
                    server.serve_with_incoming_shutdown(incoming, context.cancelled()).await
                }
                #[cfg(unix)]
                Listener::Unix(listener) => {
                    let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
                    server.serve_with_incoming_shutdown(incoming, context.cancelled()).await
                }
            }
        };
        let patience = async {
            context.cancelled().await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::select! {
            served = serving => served?,
            // A client that does not let go does not keep the daemon from ending.
            () = patience => {}
        }
        Ok(())
    }

    async fn close(&self) {
        if let Ok(Address::Unix(path)) = self.config.listen.parse() {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Api {
    /// Reads the secrets, refuses what is not safe, and listens.
    async fn bind(config: ApiConfig, host: Arc<Host>) -> Result<Self> {
        let token = match &config.token_file {
            None => None,
            Some(file) => {
                let token = read(file, "the token")?.trim().to_owned();
                if token.len() < 16 {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!("the token in {file} has {} characters; 16 are the least", token.len()),
                    ));
                }
                Some(token)
            }
        };
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => {
                let identity = Identity::from_pem(read(cert, "the certificate")?, read(key, "the certificate's key")?);
                let mut tls = ServerTlsConfig::new().identity(identity);
                if let Some(authority) = &config.tls_client_ca {
                    tls = tls.client_ca_root(Certificate::from_pem(read(authority, "the clients' authority")?));
                }
                // Whether they fit together is looked at by who uses them.
                Server::builder().tls_config(tls.clone()).map_err(|error| {
                    let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                    let message = format!("the certificate {cert} with the key {key} cannot be used: {why}");
                    Error::new(ErrorKind::Invalid, message)
                })?;
                Some(tls)
            }
            (None, None) if config.tls_client_ca.is_none() => None,
            _ => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "TLS needs a certificate and its key; give both tls_cert and tls_key",
                ));
            }
        };
        let guarded = token.is_some() || config.tls_client_ca.is_some();
        if let Ok(Address::Tcp { host, port }) = config.listen.parse()
            && !guarded
            && let Some(open) = addresses(&host, port).await?.iter().find(|address| !is_loopback(address))
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{open} can be reached from other machines, and nothing would keep anybody out: give --token-file, \
                     or --tls-cert, --tls-key and --tls-client-ca, or listen at 127.0.0.1"
                ),
            ));
        }
        let (listener, loopback) = listen(&config).await?;
        if matches!(listener, Listener::Tcp(_)) && !loopback && tls.is_none() {
            tracing::warn!(target: "cbus", "the token crosses the network as it is; --tls-cert and --tls-key hide it");
        }
        let guard = Guard::new(token.as_deref(), loopback && !guarded);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = match &listener {
            Listener::Tcp(listener) => {
                let address = listener.local_addr().map_or_else(|_| config.listen.clone(), |found| found.to_string());
                let address = format!("{scheme}://{address}");
                tracing::info!(target: "cbus", "the bus API and its page are at {address}");
                address
            }
            #[cfg(unix)]
            Listener::Unix(_) => {
                tracing::info!(target: "cbus", "the bus API is at {}", config.listen);
                config.listen.clone()
            }
        };
        Ok(Self { host, config, guard, tls, address, listener: Mutex::new(Some(listener)) })
    }
}

fn read(path: &str, what: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::new(ErrorKind::Invalid, format!("{what}, {path}: {error}")))
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let name = host.to_owned();
    let found = tokio::task::spawn_blocking(move || Address::resolve(&name, port)).await?;
    found.map_err(|error| Error::new(ErrorKind::Invalid, format!("there is no host `{host}`: {error}")))
}

/// Listens; and says whether only this machine can reach it by TCP.
async fn listen(config: &ApiConfig) -> Result<(Listener, bool)> {
    let address: Address = config.listen.parse().map_err(|error| Error::new(ErrorKind::Invalid, error))?;
    let failed = |error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "somebody else listens there; `cbus bus` tells whether it is a daemon, --listen names another address"
                    .to_owned()
            }
            std::io::ErrorKind::PermissionDenied => match &address {
                Address::Tcp { .. } => "no permission; ports below 1024 are the administrator's".to_owned(),
                Address::Unix(_) => "no permission for its folder; choose one that is yours".to_owned(),
            },
            std::io::ErrorKind::NotADirectory => "a part of the path is a file, not a folder".to_owned(),
            _ => error.to_string(),
        };
        Error::msg(format!("cannot listen at {address}: {why}"))
    };
    match &address {
        Address::Tcp { host, port } => {
            let addresses = addresses(host, *port).await?;
            let loopback = addresses.iter().all(is_loopback);
            let listener = tokio::net::TcpListener::bind(&*addresses).await.map_err(failed)?;
            Ok((Listener::Tcp(listener), loopback))
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            clear_stale(path).await.map_err(failed)?;
            // Nobody else may connect to it, from the moment that it is there.
            let listener = bind_private(path).map_err(failed)?;
            Ok((Listener::Unix(listener), false))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(Error::new(ErrorKind::Invalid, "there are no Unix sockets here")),
    }
}

/// Removes the socket of a daemon that is gone; fails if one answers.
#[cfg(unix)]
async fn clear_stale(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() || tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    std::fs::remove_file(path)
}

/// Binds under another name in a folder of its own, and moves the socket to its place with only the owner's rights.
#[cfg(unix)]
fn bind_private(path: &Path) -> std::io::Result<tokio::net::UnixListener> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder: PathBuf = parent.join(format!(".cbus-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let bound = (|| {
        let inside = folder.join("s");
        let listener = tokio::net::UnixListener::bind(&inside)?;
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&inside, path)?;
        Ok(listener)
    })();
    let _ = std::fs::remove_dir_all(&folder);
    bound
}
