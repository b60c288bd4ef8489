//! The smallest thing that can change.

/// The value that the host waits for.
pub const NUMBER: u64 = 0;

// the middle

/// Asynchronous, because a controller is.
pub async fn run() -> u64 {
    NUMBER
}

/// The same for a host that calls a plain function.
#[allow(dead_code)]
pub fn value() -> u64 {
    NUMBER
}
