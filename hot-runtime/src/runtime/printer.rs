//! Prints events for whoever sits in front of the program.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::RuntimeEvent;
use crate::output::{self, To};

/// How often a long build says what it is doing.
const PROGRESS: Duration = Duration::from_secs(2);

/// A listener that prints events on standard error.
pub(super) fn printer() -> impl Fn(&RuntimeEvent) + Send + Sync + 'static {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // As https://no-color.org and http://bixense.com/clicolors have it.
    let forced = is_set("CLICOLOR_FORCE") && std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    let wanted = std::env::var_os("CLICOLOR").is_none_or(|value| value != "0");
    let colours = !is_set("NO_COLOR") && (forced || wanted && std::io::stderr().is_terminal());
    let last = Mutex::new(Instant::now());
    move |event| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if is_printed(event, last.elapsed()) {
            *last = Instant::now();
            output::print(To::Stderr, if colours { format!("{event:#}") } else { event.to_string() });
        }
    }
}

/// Whether a person needs to see it, given how long nothing was printed.
fn is_printed(event: &RuntimeEvent, silent_for: Duration) -> bool {
    match event {
        // Compilers do hundreds of steps.
        RuntimeEvent::BuildProgress { .. } => silent_for >= PROGRESS,
        // What the compiler says comes with the end of the build, and a load with the swap.
        RuntimeEvent::CompilerSays { .. } | RuntimeEvent::Loading { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase::BuildPhase;

    #[test]
    fn a_long_build_is_not_silent_and_a_short_one_is_two_lines() {
        let plugin = || "one".to_owned();
        let progress = RuntimeEvent::BuildProgress {
            plugin: plugin(),
            phase: BuildPhase::Compiling,
            compiled: Some("serde".to_owned()),
            elapsed: Duration::from_secs(3),
        };
        assert!(!is_printed(&progress, Duration::from_millis(100)));
        assert!(is_printed(&progress, Duration::from_secs(3)));
        assert_eq!(progress.to_string(), "one: compiling, serde done");
        assert!(is_printed(&RuntimeEvent::BuildStarted { plugin: plugin() }, Duration::ZERO));
        let loading = RuntimeEvent::Loading { plugin: plugin(), generation: 1, schemas: Vec::new() };
        assert!(!is_printed(&loading, Duration::from_secs(60)));
    }
}
