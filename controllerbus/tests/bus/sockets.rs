//! Sockets that the bus keeps: each generation and each config of a key accepts from the same one, and only while it serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use controllerbus::bus::{Bus, Source};
use controllerbus::controller::factory::{Factory, erase};
use controllerbus::controller::{AnyController, BoxFuture, Info, OnStarted, starting};
use controllerbus::listen::{Address, Service};
use controllerbus::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::kit::{info, soon};

#[derive(Config, Serialize, Deserialize, PartialEq, Clone)]
#[config(id = "test/door")]
struct DoorConfig {
    at: String,
    #[serde(default)]
    number: u64,
}

/// Writes its generation and its config's number to whoever connects, and hangs up.
struct Door {
    generation: u64,
    config: DoorConfig,
}

impl Controller for Door {
    type Config = DoorConfig;

    async fn construct(_: DoorConfig, _: &Context) -> Result<Self> {
        Err(Error::msg("it is made by its factory"))
    }

    async fn execute(&self, context: &Context) -> Result<()> {
        let mut listener = context.listen(&self.config.at).await?;
        while let Some((mut connection, _)) = listener.accept().await? {
            connection.write_all(format!("{}.{}", self.generation, self.config.number).as_bytes()).await?;
        }
        Ok(())
    }
}

struct Doors(u64);

impl Factory for Doors {
    fn info(&self) -> Info {
        info("test/door")
    }

    fn construct(self: Arc<Self>, config: Vec<u8>, _: Context) -> BoxFuture<'static, Result<Arc<dyn AnyController>>> {
        Box::pin(async move {
            let config = controllerbus::directive::wire::decode(&config)?;
            Ok(erase(Door { generation: self.0, config }))
        })
    }
}

fn doors(generation: u64) -> Vec<Arc<dyn Factory>> {
    vec![Arc::new(Doors(generation))]
}

fn config(at: &str, number: u64) -> ConfigSet {
    ConfigSet::from_yaml(&format!("door: {{ id: test/door, config: {{ at: '{at}', number: {number} }} }}")).unwrap()
}

/// The socket of a key, once there is one.
async fn socket_of(bus: &Bus, key: &str) -> Address {
    soon(async {
        loop {
            let found = bus.sockets().into_iter().find(|socket| socket.keys.iter().any(|own| own == key));
            if let Some(found) = found {
                return found.address;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

fn tcp(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(text) => text.parse().unwrap(),
        other => panic!("{other} is not TCP"),
    }
}

async fn knock(address: &Address) -> String {
    let mut text = String::new();
    let asked = async {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await?.read_to_string(&mut text).await,
            address => TcpStream::connect(tcp(address)).await?.read_to_string(&mut text).await,
        }
    };
    soon(asked).await.expect("nobody is refused");
    text
}

async fn problem(bus: &Bus, key: &str) -> String {
    let mut watch = bus.watch_config(key);
    soon(async {
        loop {
            if let Some(problem) = watch.next().await.and_then(|state| state.problem) {
                return problem.to_string();
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_accepts_from_the_same_socket_and_not_before_it_serves() {
    let bus = Bus::new();
    bus.add_factories(Source(1), doors(1));
    bus.apply(config("127.0.0.1:0", 0)).await.unwrap();
    let address = socket_of(&bus, "door").await;
    assert_eq!(knock(&address).await, "1.0");
    let staged = bus.stage(Source(1), Source(2), doors(2), Duration::from_secs(20)).await.unwrap();
    soon(async {
        while bus.sockets()[0].controllers.len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..20 {
        assert_eq!(knock(&address).await, "1.0", "the new one has its descriptor, and does not accept");
    }
    let committed = staged.commit(Duration::ZERO).await.unwrap();
    for _ in 0..20 {
        assert_eq!(knock(&address).await, "2.0");
    }
    soon(committed.drained()).await;
    assert_eq!(bus.sockets().len(), 1);
    // What is rolled back has accepted nothing.
    drop(bus.stage(Source(2), Source(3), doors(3), Duration::from_secs(20)).await.unwrap());
    assert_eq!(knock(&address).await, "2.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_and_everybody_is_answered_when_it_is_swapped_and_reconfigured_under_load() {
    let bus = Bus::new();
    bus.add_factories(Source(1), doors(1));
    bus.apply(config("127.0.0.1:0", 0)).await.unwrap();
    let address = socket_of(&bus, "door").await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, stopped) = (address.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut answers = BTreeMap::<String, usize>::new();
                while !*stopped.borrow() {
                    *answers.entry(knock(&address).await).or_default() += 1;
                }
                answers
            })
        })
        .collect();
    for step in 1..30 {
        let staged = bus.stage(Source(step), Source(step + 1), doors(step + 1), Duration::from_secs(20)).await.unwrap();
        staged.commit(Duration::ZERO).await.unwrap();
        if step % 3 == 0 {
            bus.apply(config("127.0.0.1:0", step)).await.unwrap();
        }
    }
    assert_eq!(socket_of(&bus, "door").await, address, "it is the same socket");
    stop.send(true).unwrap();
    let mut seen = BTreeMap::new();
    for client in clients {
        seen.extend(client.await.expect("every connection was answered"));
    }
    assert!(!seen.contains_key(""), "a connection was accepted and not answered: {seen:?}");
    assert!(seen.len() > 1, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_goes_with_the_last_key_that_wants_it() {
    let bus = Bus::new();
    bus.add_factories(Source(1), doors(1));
    bus.apply(config("127.0.0.1:0", 0)).await.unwrap();
    let address = socket_of(&bus, "door").await;
    // A plugin that is unloaded comes again: who connects meanwhile waits.
    bus.remove_source(Source(1)).await;
    assert_eq!(socket_of(&bus, "door").await, address);
    let waiting = tokio::spawn({
        let address = address.clone();
        async move { knock(&address).await }
    });
    bus.add_factories(Source(2), doors(2));
    assert_eq!(waiting.await.unwrap(), "2.0");
    bus.remove_config("door").await;
    assert!(bus.sockets().is_empty());
    let error = TcpStream::connect(tcp(&address)).await.expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_one_keys_alone_and_who_has_it_is_named() {
    let bus = Bus::new();
    bus.add_factories(Source(1), doors(1));
    bus.apply(config("127.0.0.1:0", 0)).await.unwrap();
    let address = socket_of(&bus, "door").await;
    let other = format!("other: {{ id: test/door, config: {{ at: '{address}' }} }}");
    bus.apply(ConfigSet::from_yaml(&other).unwrap()).await.unwrap();
    let error = problem(&bus, "other").await;
    assert!(error.contains(&format!("cannot listen at {address}: the controller of `door` already does")), "{error}");
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = elsewhere.local_addr().unwrap();
    let third = format!("third: {{ id: test/door, config: {{ at: '{taken}' }} }}");
    bus.apply(ConfigSet::from_yaml(&third).unwrap()).await.unwrap();
    let error = problem(&bus, "third").await;
    assert!(error.contains(&format!("cannot listen at {taken}: the address is already in use")), "{error}");
    let wrong = "fourth: { id: test/door, config: { at: '8080' } }";
    bus.apply(ConfigSet::from_yaml(wrong).unwrap()).await.unwrap();
    let error = problem(&bus, "fourth").await;
    assert!(error.contains("an address is like `127.0.0.1:8080`"), "{error}");
    assert_eq!(knock(&address).await, "1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_in_the_file_system_is_taken_over_from_one_that_was_killed_and_removed_at_the_end() {
    let folder = std::env::temp_dir().join(format!("controllerbus-sockets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("door.sock");
    // Left behind: nobody listens there.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let bus = Bus::new();
    bus.add_factories(Source(1), doors(1));
    bus.apply(config(&format!("unix:{}", path.display()), 0)).await.unwrap();
    let address = socket_of(&bus, "door").await;
    assert_eq!(knock(&address).await, "1.0");
    let staged = bus.stage(Source(1), Source(2), doors(2), Duration::from_secs(20)).await.unwrap();
    staged.commit(Duration::ZERO).await.unwrap();
    assert_eq!(knock(&address).await, "2.0");
    bus.close().await;
    assert!(!path.exists());
    std::fs::remove_dir(&folder).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_the_host_was_given_is_used_by_its_address_and_by_its_name() {
    let given = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(given.local_addr().unwrap().to_string());
    let bus = Bus::new();
    bus.adopt_listener("web", given.try_clone().unwrap()).unwrap();
    bus.add_factories(Source(1), doors(1));
    for at in [address.to_string(), "systemd:web".to_owned()] {
        bus.apply(config(&at, 0)).await.unwrap();
        assert_eq!(socket_of(&bus, "door").await, address);
        assert_eq!(knock(&address).await, "1.0");
        bus.remove_config("door").await;
        // It is not the bus's to close.
        let waiting = TcpStream::connect(tcp(&address)).await.expect("the queue is there");
        drop(waiting);
        drop(given.accept());
    }
    bus.apply(config("systemd:nothing", 0)).await.unwrap();
    let error = problem(&bus, "door").await;
    assert!(error.contains("the host was given no socket of that name"), "{error}");
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = bus.adopt_listener("x", datagrams).expect_err("it does not listen");
    assert!(error.to_string().contains("it is not listening"), "{error}");
}

/// Says in what order it is told what.
struct Told(tokio::sync::mpsc::UnboundedSender<Service>);

impl AnyController for Told {
    fn execute(self: Arc<Self>, context: Context, on_started: OnStarted) -> BoxFuture<'static, Result<()>> {
        let execution = async move {
            let listener = context.listen("127.0.0.1:0").await?;
            let mut service = listener.service();
            loop {
                let now = *service.borrow_and_update();
                let _ = self.0.send(now);
                if now.has_ended() || service.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        Box::pin(starting(execution, on_started))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_taken_off_is_told_so_and_its_socket_goes_with_it() {
    let bus = Bus::new();
    let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
    let id = bus.add_controller(Arc::new(Told(send)), info("test/told"));
    assert_eq!(soon(told.recv()).await, Some(Service::Serving));
    assert_eq!(bus.sockets().len(), 1);
    bus.remove_controller(id).await;
    assert_eq!(soon(told.recv()).await, Some(Service::Removed));
    assert!(bus.sockets().is_empty());
}
