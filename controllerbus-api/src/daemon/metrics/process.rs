//! What the system says of a process: this one, or that of a plugin.

/// What a process uses. On systems other than Linux nothing of it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// In bytes.
    pub resident: u64,
    /// In bytes.
    pub virtual_: u64,
    pub threads: u64,
    /// On all processors together, in seconds.
    pub cpu: f64,
}

/// How many ticks the kernel counts in a second for `/proc`, on every architecture that Rust runs on.
const TICKS: f64 = 100.0;

/// What a process uses; `who` is its number, or `self`. `None` if it is gone, or this is not known.
pub fn usage(who: &str) -> Option<Usage> {
    // A name in them may end within a character.
    let read =
        |file: &str| Some(String::from_utf8_lossy(&std::fs::read(format!("/proc/{who}/{file}")).ok()?).into_owned());
    let status = read("status")?;
    let number = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    let kib = |name: &str| number(name) * 1024;
    Some(Usage {
        resident: kib("VmRSS"),
        virtual_: kib("VmSize"),
        threads: number("Threads"),
        cpu: cpu_in(&read("stat")?),
    })
}

/// The time in user code and in the kernel, out of `/proc/PID/stat`.
fn cpu_in(stat: &str) -> f64 {
    // The name before may have spaces and parentheses in it.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / TICKS
}

/// How many files this process has open, and how many it may have.
pub fn files() -> Option<(u64, u64)> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let most = line.split_whitespace().next()?.parse().unwrap_or(u64::MAX);
    Some((open, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_used_is_known_although_the_system_cuts_a_name_within_a_character() {
        // Of these 18 bytes the system keeps 15.
        let thread = std::thread::Builder::new().name("überwachung-füü".to_owned()).spawn(|| {
            let own = std::fs::read_link("/proc/thread-self").expect("itself");
            assert!(String::from_utf8(std::fs::read("/proc/thread-self/comm").expect("its name")).is_err());
            usage(&own.display().to_string())
        });
        let used = thread.expect("a thread").join().expect("it ends").expect("it is known");
        assert!(used.resident > 0 && used.threads > 1, "{used:?}");
    }

    #[test]
    fn the_time_of_a_process_is_found_whatever_its_name_is() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 150 50 3 4 20 0 1 0 99 1 1 1";
        assert_eq!(cpu_in(stat), 2.0);
        assert_eq!(cpu_in(""), 0.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_threads_and_files_and_one_that_is_gone_has_nothing() {
        let own = usage("self").expect("it runs");
        assert!(own.resident > 0 && own.virtual_ >= own.resident && own.threads > 0, "{own:?}");
        let (open, most) = files().expect("it has files");
        assert!(open > 0 && open <= most, "{open} of {most}");
        assert_eq!(usage("0"), None);
    }
}
