//! Opens a verified artifact, starts its guest, and closes it again: with `sys/library.rs`, the only unsafe code of
//! this crate.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use controllerbus::BusHandle;
use controllerbus::controller::factory::Factory;
use controllerbus::plugin::guest::Entry;
use controllerbus::plugin::{Connection, HostOptions, Leases};

use crate::artifact::PrivateCopy;
use crate::error::{Error, Result, WithCauses};
use crate::sys::library::{self, Library, never_closed};
use crate::sys::maps::is_mapped;
use crate::util::yield_core;

/// A library in this process whose guest is started. Dropping it leaves the library mapped: only [`Loaded::unload`] may
/// close it, because only that knows that none of its code runs any more.
pub struct Loaded {
    connection: Option<Connection>,
    library: Option<Library>,
    copy: PrivateCopy,
    leases: Arc<Leases>,
}

/// What a library is loaded for.
pub struct LoadOptions {
    /// The bus that its controllers use.
    pub bus: BusHandle,
    /// The plugin's id.
    pub plugin: String,
    /// The generation's number.
    pub generation: u64,
    /// Worker threads of its runtime.
    pub workers: u32,
}

/// The result of an unload.
#[derive(Debug, Clone)]
pub enum Unload {
    /// The library is closed.
    Closed {
        /// Whether no mapping of the file is left; `None` where the system does not say.
        unmapped: Option<bool>,
        /// Thread-local values left behind on the host's threads.
        leaked_thread_locals: u64,
    },
    /// Some of its code still runs, so it stays loaded; trying again may succeed.
    Stuck {
        /// The number of its threads.
        threads: usize,
        /// What does not end, with the threads' names.
        reason: String,
    },
    /// Something still uses it, so it stays loaded; trying again may succeed.
    Held,
    /// Its guest has ended, but libraries are never closed on this system: it stays mapped, and trying again does not
    /// help.
    NeverClosed {
        /// Why.
        reason: &'static str,
        /// Thread-local values left behind on the host's threads.
        leaked_thread_locals: u64,
    },
}

/// Why a closed library may still be mapped, as far as can be known.
pub(crate) const STAYS_MAPPED: &str = "it is closed, but its code is still mapped: a thread-local of C++ code in it \
                                       waits for the end of its thread, or another library uses it";

impl Loaded {
    /// Opens the private copy of a verified artifact and starts its guest. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Load`] with the error of the loader or the guest. If the guest was started and failed, the library
    /// stays mapped; otherwise nothing is left behind.
    pub fn open(copy: &PrivateCopy, options: LoadOptions) -> Result<Self> {
        let (path, entry) = (copy.path(), copy.entry());
        let refuse = |reason: String| Error::Load { path: copy.shown().to_owned(), reason };
        // SAFETY: a `PrivateCopy` is of a `Verified` artifact: a plugin that was built for this target and that the
        // host trusts, in a folder that only this user can write to.
        let library = unsafe { library::open(path) }.map_err(|error| refuse(said_by_loader(&error)))?;
        copy.needed().iter().for_each(|name| library::keep_needed(name));
        yield_core();
        // SAFETY: a `PrivateCopy` is of a `Verified` artifact: it is a plugin whose manifest names this symbol as its
        // entry and whose boundary we accept, so the symbol is an `Entry`.
        let entry: Entry = match unsafe { library.get::<Entry>(entry.as_bytes()) } {
            Ok(symbol) => *symbol,
            Err(error) => return Err(refuse(format!("no entry symbol {entry}: {}", said_by_loader(&error)))),
        };
        let leases = Leases::new();
        let host = HostOptions {
            bus: options.bus,
            plugin: options.plugin,
            generation: options.generation,
            workers: options.workers,
            leases: Arc::clone(&leases),
        };
        // SAFETY: as above; and `unload` closes the library only after a shutdown that left no thread, with the
        // connection dropped and every lease released.
        match unsafe { Connection::start(entry, host) } {
            Ok(connection) => {
                Ok(Self { connection: Some(connection), library: Some(library), copy: copy.clone(), leases })
            }
            Err(error) => {
                // Some of its code may still run.
                std::mem::forget(library);
                Err(refuse(error.to_string()))
            }
        }
    }

    /// The guest's factories; each holds a lease.
    pub fn factories(&self) -> Vec<Arc<dyn Factory>> {
        self.connection.as_ref().map(Connection::factories).unwrap_or_default()
    }

    /// Ends once every worker of the guest's runtime has answered; see [`Connection::ping`].
    ///
    /// # Errors
    /// A worker did not answer, or the guest is shut down.
    pub(crate) async fn ping(&self) -> controllerbus::Result<()> {
        match &self.connection {
            Some(connection) => Ok(connection.ping().await?),
            None => Err(controllerbus::Error::msg("the guest is shut down")),
        }
    }

    /// The names of the library's running threads, of which the system keeps the first 15 characters.
    pub fn threads(&self) -> Vec<String> {
        self.connection.as_ref().map(Connection::threads).unwrap_or_default()
    }

    /// Who uses the library.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// Waits for the library's threads to end and closes it, provided that nothing uses it. Blocks for up to `timeout`.
    pub fn unload(&mut self, timeout: Duration) -> Unload {
        let held = self.leases.holders();
        if held.to_drain() > 0 {
            return Unload::Held;
        }
        let Some(connection) = &self.connection else {
            return Unload::Closed { unmapped: self.is_unmapped(), leaked_thread_locals: 0 };
        };
        let shutdown = connection.shutdown(timeout);
        yield_core();
        if shutdown.threads_left > 0 {
            return Unload::Stuck { threads: shutdown.threads_left, reason: do_not_end(&self.threads()) };
        }
        if shutdown.handler_left {
            return Unload::Stuck { threads: 0, reason: "one of its signal handlers has not returned".to_owned() };
        }
        if self.leases.holders() != controllerbus::plugin::Holders::default() {
            return Unload::Held;
        }
        let leaked_thread_locals = shutdown.leaked_thread_locals;
        if let Some(reason) = never_closed() {
            self.copy.remove();
            return Unload::NeverClosed { reason, leaked_thread_locals };
        }
        if let Some(connection) = self.connection.take() {
            // SAFETY: the shutdown left no thread and no handler, no lease is held, and the library is closed next.
            let keys = unsafe { connection.end() };
            tracing::debug!(path = %self.copy.path().display(), keys, "deleted the keys of a plugin's thread-local data");
        }
        if let Some(library) = self.library.take()
            && let Err(error) = library.close()
        {
            tracing::warn!(path = %self.copy.path().display(), %error, "cannot close a plugin's library");
        }
        yield_core();
        let unmapped = self.is_unmapped();
        self.copy.remove();
        Unload::Closed { unmapped, leaked_thread_locals }
    }

    fn is_unmapped(&self) -> Option<bool> {
        is_mapped(self.copy.path()).map(|mapped| !mapped)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(library) = self.library.take() {
            // Its code may still run or be used, so the library stays mapped.
            std::mem::forget(self.connection.take());
            std::mem::forget(library);
        }
    }
}

/// Describes the threads that do not end.
fn do_not_end(threads: &[String]) -> String {
    let names: Vec<String> = threads.iter().map(|name| format!("`{name}`")).collect();
    match names.len() {
        0 => "one of its threads has not ended".to_owned(),
        1 => format!("its thread {} does not end", names[0]),
        many => format!("{many} of its threads do not end: {}", names.join(", ")),
    }
}

/// The loader's error with its causes, and what to do where that is known.
fn said_by_loader(error: &libloading::Error) -> String {
    let mut text = WithCauses(error).to_string();
    if text.contains("static TLS") {
        text.push_str(
            "; this process has run out of space for static thread-local data, which a C library in the plugin, often an \
             allocator, requires (`-ftls-model=initial-exec`). Build that library without it, give the plugin a process of \
             its own, or start the host with GLIBC_TUNABLES=glibc.rtld.optional_static_tls=65536",
        );
    }
    text
}
