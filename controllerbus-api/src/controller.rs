//! The API as a controller of the bus that it shows, with the config id `controllerbus/bus/api`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use controllerbus::controller::factory::Factory;
use controllerbus::controller::{AnyController, BoxFuture, Info, factory};
use controllerbus::directive::wire;
use controllerbus::error::{Code, ErrorKind};
use controllerbus::prelude::*;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::address::{Address, is_loopback};
use super::auth::{Door, Tokens, Way, check};
use super::connections::Connection;
use super::pages::Pages;
use super::proto::bus_api_server::BusApiServer;
use super::server::Service;
use crate::daemon::Host;
use crate::page;

/// How long calls in flight may take once the API ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where the API listens, who may use it, and for what.
#[derive(Config, Serialize, Deserialize, PartialEq, Clone, Debug)]
#[config(id = "controllerbus/bus/api")]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ApiConfig {
    /// `unix:PATH`, or `HOST:PORT`, which needs a token file or `tls_client_ca`.
    pub listen: String,
    /// Whether clients may apply and remove configs.
    #[serde(default)]
    pub allow_exec: bool,
    /// Whether clients may reload and unload plugins.
    #[serde(default)]
    pub allow_control: bool,
    /// A file with the tokens that clients must show: on each line a token, or a name, roles (`look`, `apply`, `control`)
    /// and a token. Changes to it are followed.
    #[serde(default)]
    pub token_file: Option<String>,
    /// The API's certificate chain (PEM).
    #[serde(default)]
    pub tls_cert: Option<String>,
    /// The certificate's key (PEM).
    #[serde(default)]
    pub tls_key: Option<String>,
    /// The authority that must have signed the clients' certificates (PEM).
    #[serde(default)]
    pub tls_client_ca: Option<String>,
}

impl ApiConfig {
    /// An API at `unix:PATH`, or at `HOST:PORT`, which needs tokens or client certificates. It only shows the bus.
    pub fn at(listen: impl Into<String>) -> Self {
        Self {
            listen: listen.into(),
            allow_exec: false,
            allow_control: false,
            token_file: None,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
        }
    }

    /// An API at the socket of this user's daemon with a name, where `cbus ... --connect NAME` finds it.
    ///
    /// # Errors
    /// The directory of this user's sockets cannot be used.
    pub fn named(name: &str) -> crate::Result<Self> {
        Ok(Self::at(crate::sockets::of(name)?.to_string()))
    }

    /// Allows clients to apply and remove configs.
    #[must_use]
    pub fn allow_exec(mut self, allow: bool) -> Self {
        self.allow_exec = allow;
        self
    }

    /// Allows clients to reload and unload plugins.
    #[must_use]
    pub fn allow_control(mut self, allow: bool) -> Self {
        self.allow_control = allow;
        self
    }

    /// Requires one of the tokens in a file.
    #[must_use]
    pub fn token_file(mut self, file: impl Into<String>) -> Self {
        self.token_file = Some(file.into());
        self
    }

    /// Serves TLS with a certificate chain and its key (PEM files).
    #[must_use]
    pub fn tls(mut self, cert: impl Into<String>, key: impl Into<String>) -> Self {
        (self.tls_cert, self.tls_key) = (Some(cert.into()), Some(key.into()));
        self
    }

    /// Requires client certificates that the authority in a PEM file has signed.
    #[must_use]
    pub fn tls_client_ca(mut self, authority: impl Into<String>) -> Self {
        self.tls_client_ca = Some(authority.into());
        self
    }
}

/// Constructs the controller; knows the daemon that it shows.
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
        let version = env!("CARGO_PKG_VERSION").parse().unwrap_or(semver::Version::new(0, 0, 0));
        Info::new(super::CONFIG_ID, version, super::CONFIG_ID)
            .with_description("Serves the bus API over gRPC, and the page.")
    }

    fn schema(&self) -> String {
        ApiConfig::SCHEMA.to_json()
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let host =
                self.host.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "the daemon is shutting down"))?;
            let config: ApiConfig = wire::decode(&config)?;
            let prepared = {
                let mut prepared = host.prepared_apis.lock().unwrap_or_else(PoisonError::into_inner);
                let found = prepared.iter().position(|api| api.config == config);
                found.map(|at| prepared.swap_remove(at))
            };
            let api = match prepared {
                Some(api) => api,
                None => Api::bind(config, host).await?,
            };
            Ok(factory::erase(api))
        })
    }
}

/// Starts to listen before the controller is constructed, so that errors reach whoever starts the daemon. Returns the
/// address.
pub async fn prepare(config: ApiConfig, host: &Arc<Host>) -> Result<String> {
    let api = Api::bind(config, Arc::clone(host)).await?;
    let address = api.address.clone();
    host.prepared_apis.lock().unwrap_or_else(PoisonError::into_inner).push(api);
    Ok(address)
}

/// The controller.
pub struct Api {
    host: Arc<Host>,
    config: ApiConfig,
    door: Arc<Door>,
    tls: Option<ServerTlsConfig>,
    /// Its address, with the actual port.
    address: String,
    listener: Mutex<Option<Listener>>,
}

/// What connections come in on.
pub enum Listener {
    Tcp(tokio::net::TcpListener),
    /// Of the page alone.
    Page(tokio::net::TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

impl Controller for Api {
    type Config = ApiConfig;

    async fn construct(_: ApiConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("only its own factory constructs the API, because that knows the daemon"))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        let taken = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = match taken {
            Some(listener) => listener,
            // Restarted after an error.
            None => listen(&self.config).await?.0,
        };
        let service = Service {
            host: Arc::clone(&self.host),
            allow_exec: self.config.allow_exec,
            allow_control: self.config.allow_control,
            end: context.token().clone(),
            pages: Arc::new(self.pages()),
        };
        service.pages.resume(&service);
        let (health, healthy) = tonic_health::server::health_reporter();
        health.set_serving::<BusApiServer<Service>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(super::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let routes =
            Routes::from(page::router(service.clone())).add_service(BusApiServer::new(service)).add_service(healthy);
        let routes = routes.add_service(reflection).into_axum_router();
        let following = async {
            let Some(tokens) = &self.door.tokens else { return std::future::pending().await };
            // Clients whose token is removed are disconnected, even if no request comes in.
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                tokens.refresh();
            }
        };
        tokio::select! {
            served = serve(listener, routes, &self.door, self.tls.clone(), context.token()) => served,
            () = following => Ok(()),
        }
    }

    async fn close(&self) {
        if let Ok(Address::Unix(path)) = self.config.listen.parse() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Serves the routes behind a door until `end` is cancelled; calls in flight then get a moment.
pub async fn serve(
    listener: Listener,
    routes: axum::Router,
    door: &Arc<Door>,
    tls: Option<ServerTlsConfig>,
    end: &CancellationToken,
) -> Result<()> {
    let routes = routes.layer(axum::middleware::from_fn_with_state(Arc::clone(door), check));
    let mut server = Server::builder().accept_http1(true);
    if let Some(tls) = tls {
        server = server.tls_config(tls)?;
    }
    let server = server.add_routes(Routes::from(routes));
    let serving = async {
        match listener {
            Listener::Tcp(listener) => {
                let incoming = TcpListenerStream::new(listener);
                server.serve_with_incoming_shutdown(incoming, end.cancelled()).await
            }
            Listener::Page(listener) => {
                let arrive = |stream| Connection::new(stream, end.clone());
                let incoming = TcpListenerStream::new(listener).map(|arrived| arrived.map(arrive));
                server.serve_with_incoming_shutdown(incoming, end.cancelled()).await
            }
            #[cfg(unix)]
            Listener::Unix(listener) => {
                let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener).filter_map(our_own);
                server.serve_with_incoming_shutdown(incoming, end.cancelled()).await
            }
        }
    };
    let patience = async {
        end.cancelled().await;
        tokio::time::sleep(PATIENCE).await;
    };
    tokio::select! {
        served = serving => served?,
        // A client that does not disconnect must not delay shutdown.
        () = patience => {}
    }
    Ok(())
}

/// A connection of this user or of root; others are rejected, should they ever get to the socket.
#[cfg(unix)]
fn our_own(arrived: std::io::Result<tokio::net::UnixStream>) -> Option<std::io::Result<tokio::net::UnixStream>> {
    let arrived = match arrived {
        Ok(arrived) => arrived,
        Err(error) => return Some(Err(error)),
    };
    let user = arrived.peer_cred().map(|peer| peer.uid());
    match user {
        Ok(user) if user == rustix::process::geteuid().as_raw() || user == 0 => Some(Ok(arrived)),
        Ok(user) => {
            tracing::warn!(target: "cbus::audit", "rejected a connection of user {user} to the socket");
            None
        }
        Err(_) => None,
    }
}

impl Api {
    /// The pages of a socket without tokens, to which this user needs no credentials, may come back after a restart.
    fn pages(&self) -> Pages {
        match self.config.listen.parse() {
            Ok(Address::Unix(socket)) if self.door.tokens.is_none() => Pages::beside(&socket),
            _ => Pages::default(),
        }
    }

    /// Reads the secrets, refuses what is unsafe, and listens.
    async fn bind(config: ApiConfig, host: Arc<Host>) -> Result<Self> {
        let tokens = match &config.token_file {
            None => None,
            Some(file) => Some(Arc::new(Tokens::read(Path::new(file))?)),
        };
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => {
                let identity = Identity::from_pem(read(cert, "the certificate")?, read(key, "the certificate's key")?);
                let mut tls = ServerTlsConfig::new().identity(identity);
                if let Some(authority) = &config.tls_client_ca {
                    tls = tls.client_ca_root(Certificate::from_pem(read(authority, "the clients' authority")?));
                }
                // Whether they match is checked by using them.
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
                    "TLS needs a certificate and its key; set both tls_cert and tls_key",
                ));
            }
        };
        let certificates = config.tls_client_ca.is_some();
        if let Ok(Address::Tcp { .. }) = config.listen.parse()
            && tokens.is_none()
            && !certificates
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "every user of this machine can reach {0}, others perhaps too, and nothing would keep them out: pass \
                     --token-file, or --tls-cert, --tls-key and --tls-client-ca; or omit --listen {0}, since your own \
                     commands and `cbus page` do not need it",
                    config.listen
                ),
            )
            .with_code(Code::UNPROTECTED));
        }
        let (listener, loopback) = listen(&config).await?;
        if matches!(listener, Listener::Tcp(_)) && !loopback && tls.is_none() {
            tracing::warn!(target: "cbus", "tokens cross the network unencrypted; --tls-cert and --tls-key encrypt them");
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (address, way) = match &listener {
            Listener::Tcp(listener) | Listener::Page(listener) => {
                let address = listener.local_addr()?;
                let way = Way::Tcp { port: address.port(), loopback, tls: tls.is_some(), certificates };
                (format!("{scheme}://{address}"), way)
            }
            #[cfg(unix)]
            Listener::Unix(_) => (config.listen.clone(), Way::Socket),
        };
        tracing::info!(target: "cbus", "the bus API is at {address}");
        let door = Door::new(way, tokens, true);
        Ok(Self { host, config, door, tls, address, listener: Mutex::new(Some(listener)) })
    }
}

fn read(path: &str, what: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::new(ErrorKind::Invalid, format!("{what}, {path}: {error}")))
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let name = host.to_owned();
    let found = tokio::task::spawn_blocking(move || Address::resolve(&name, port)).await?;
    found.map_err(|error| Error::new(ErrorKind::Invalid, format!("unknown host `{host}`: {error}")))
}

/// Listens. Also returns whether it is TCP that only this machine can reach.
async fn listen(config: &ApiConfig) -> Result<(Listener, bool)> {
    let refused = |error: crate::Error| {
        let made = Error::new(ErrorKind::Invalid, error.to_string());
        match error.code() {
            Some(code) => made.with_code(code),
            None => made,
        }
    };
    let address: Address = config.listen.parse().map_err(refused)?;
    let failed = |error: std::io::Error| {
        let why = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the address is in use; if another daemon of yours has it, give this one another name with --name or \
                 another address with --listen"
                    .to_owned()
            }
            std::io::ErrorKind::PermissionDenied => match &address {
                Address::Tcp { .. } => "permission denied; ports below 1024 are reserved for root".to_owned(),
                Address::Unix(_) | Address::Named(_) => {
                    "permission denied for its directory; choose one of your own".to_owned()
                }
            },
            std::io::ErrorKind::NotADirectory => "part of the path is a file, not a directory".to_owned(),
            _ => error.to_string(),
        };
        Error::msg(format!("cannot listen on {address}: {why}")).with_code(Code::CANNOT_LISTEN)
    };
    match &address {
        Address::Named(name) => {
            let what = format!("`{name}` is a name; `listen` must be unix:PATH or HOST:PORT");
            Err(Error::new(ErrorKind::Invalid, what))
        }
        Address::Tcp { host, port } => {
            let addresses = addresses(host, *port).await?;
            let loopback = addresses.iter().all(is_loopback);
            let listener = tokio::net::TcpListener::bind(&*addresses).await.map_err(failed)?;
            Ok((Listener::Tcp(listener), loopback))
        }
        #[cfg(unix)]
        Address::Unix(path) => {
            clear_stale(path).await.map_err(failed)?;
            // Nobody else can connect to it at any moment.
            let listener = bind_private(path).map_err(failed)?;
            Ok((Listener::Unix(listener), false))
        }
        #[cfg(not(unix))]
        Address::Unix(_) => Err(Error::new(ErrorKind::Invalid, "this system has no Unix sockets")),
    }
}

/// Removes the socket of a daemon that is gone; fails if somebody still answers.
#[cfg(unix)]
async fn clear_stale(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() || tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    std::fs::remove_file(path)
}

/// Binds in a private directory, restricts the socket to its owner, and then moves it to its place.
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
