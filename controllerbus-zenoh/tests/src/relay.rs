//! A TCP relay that can be cut: it stops reading, drops what it has, and heals.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What it does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Passes,
    /// Connections stay, and nothing gets through: as if a cable were pulled.
    Holds,
    /// Connections are closed, and new ones, too.
    Refuses,
    Ended,
}

struct Shared {
    mode: Mutex<Mode>,
    changed: Condvar,
    streams: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn mode(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while it holds. Whether it passes.
    fn passes(&self) -> bool {
        let mut mode = self.mode();
        while *mode == Mode::Holds {
            mode = self.changed.wait(mode).unwrap_or_else(PoisonError::into_inner);
        }
        *mode == Mode::Passes
    }
}

/// A relay to an address of this machine.
pub struct Relay {
    shared: Arc<Shared>,
    address: String,
}

impl Relay {
    /// A relay that passes everything.
    pub fn to(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("an address").to_string();
        let shared =
            Arc::new(Shared { mode: Mutex::new(Mode::Passes), changed: Condvar::new(), streams: Mutex::default() });
        let (relays, to) = (Arc::clone(&shared), address.to_owned());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if *relays.mode() == Mode::Ended {
                    return;
                }
                // One that is not let through is closed; while it holds, it waits.
                let (relays, to) = (Arc::clone(&relays), to.clone());
                std::thread::spawn(move || {
                    if relays.passes()
                        && let Ok(far) = TcpStream::connect(&to)
                    {
                        join(&relays, near, far);
                    }
                });
            }
        });
        Self { shared, address: own }
    }

    /// Its own address.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn set(&self, mode: Mode) {
        *self.shared.mode() = mode;
        self.shared.changed.notify_all();
    }

    /// Nothing gets through any more, and nobody is told.
    pub fn hold(&self) {
        self.set(Mode::Holds);
    }

    /// Closes all connections, and refuses new ones.
    pub fn refuse(&self) {
        self.set(Mode::Refuses);
        self.close();
    }

    /// Everything gets through. What was held is closed first, as a cable that was out for long does not bring it back.
    pub fn heal(&self) {
        self.close();
        self.set(Mode::Passes);
    }

    fn close(&self) {
        let streams = std::mem::take(&mut *self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.set(Mode::Ended);
        self.close();
        // The listener's thread looks at the mode.
        let _ = TcpStream::connect(&self.address);
    }
}

fn join(shared: &Arc<Shared>, near: TcpStream, far: TcpStream) {
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (Ok(near_2), Ok(far_2)) = (near.try_clone(), far.try_clone()) else { return };
    let kept = near.try_clone().into_iter().chain(far.try_clone());
    shared.streams.lock().unwrap_or_else(PoisonError::into_inner).extend(kept);
    let back = Arc::clone(shared);
    std::thread::spawn(move || pass(&back, far_2, near_2));
    pass(shared, near, far);
}

fn pass(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if !shared.passes() || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
