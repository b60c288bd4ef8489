//! What it does on request.

use std::time::{Duration, SystemTime};

use controllerbus::prelude::*;

use crate::{BLOCKS, Do, Done, ID, version};

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn raise(number: i32) -> i32;
}

/// A signal that nothing else uses.
const SIGUSR2: i32 = 12;

extern "C" fn handle(_: i32) {}

/// Performs one of these actions and returns its answer.
pub async fn act(what: &str, nonce: u64, context: &Context, values: &Values<Done>) -> Result<String> {
    let (what, argument) = what.split_once(' ').unwrap_or((what, ""));
    match what {
        "answer" => {}
        "panic" => panic!("resolve was asked to panic"),
        "fail" => return Err(Error::msg("resolve was asked to fail")),
        "hang" => std::future::pending().await,
        "block" => std::thread::sleep(BLOCKS),
        "task" => drop(tokio::spawn(async { panic!("a task was asked to panic") })),
        "thread" => drop(std::thread::spawn(|| std::thread::sleep(BLOCKS))),
        "thread-for-good" => {
            std::thread::Builder::new().name("for-good".to_owned()).spawn(|| {
                loop {
                    std::thread::sleep(BLOCKS);
                }
            })?;
        }
        "flood" => {
            for _ in 0..5_000 {
                values.add(Done("x".repeat(1000)));
            }
        }
        "ask" => {
            for number in 0..100 {
                let plugin = format!("trouble-{:02}", number % 20);
                let other = Do { plugin, what: "answer".to_owned(), nonce: nonce.wrapping_add(number << 32) };
                if argument == "and-leave" {
                    drop(context.bus().request(other)?);
                } else if let Ok(asked) =
                    tokio::time::timeout(Duration::from_millis(50), context.bus().try_resolve(other)).await
                {
                    asked?;
                }
            }
        }
        "signal" => {
            // SAFETY: the handler has the signature that `signal` expects, and does nothing.
            unsafe {
                signal(SIGUSR2, handle as *const () as usize);
                raise(SIGUSR2);
            }
        }
        "print" => {
            for line in 0..200 {
                println!("{ID} prints line {line}");
                eprintln!("{ID} complains in line {line}");
            }
        }
        "log" => {
            for line in 0..200 {
                tracing::warn!(line, "trouble logs");
            }
        }
        // Until a time in milliseconds since 1970 rather than for a duration: a request that is repeated after a swap
        // then ends on time, and no more than two spin at once.
        "spin" => {
            let until = SystemTime::UNIX_EPOCH + Duration::from_millis(argument.parse()?);
            while SystemTime::now() < until {
                std::hint::spin_loop();
            }
        }
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "segv" => {
            // SAFETY: none, on purpose: it is meant to crash.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
        }
        "overflow" => return Ok(deep(1).to_string()),
        other => return Err(Error::msg(format!("cannot do `{other}`"))),
    }
    Ok(version().to_owned())
}

/// Recurses until the stack overflows.
#[allow(unconditional_recursion)]
fn deep(below: u64) -> u64 {
    std::hint::black_box([below; 64])[7] + deep(below + 1)
}
