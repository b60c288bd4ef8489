//! Where hubs listen in a test.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port of this machine that nobody listened at a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// An address of the loopback device that nobody listened at a moment ago.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// A socket in the file system for a test, in a folder.
pub fn socket(folder: &std::path::Path) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("unix:{}", folder.join(format!("hub-{}.sock", NEXT.fetch_add(1, Ordering::Relaxed))).display())
}
