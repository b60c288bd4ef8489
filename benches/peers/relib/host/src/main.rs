//! A host as relib's documentation has it: it loads the module, calls it, unloads it, and again when the file is new.

use std::io::Write;
use std::time::{Duration, SystemTime};

fn main() {
    let path = std::env::args().nth(1).expect("the module's path");
    let changed = || std::fs::metadata(&path).and_then(|found| found.modified()).ok();
    let mut seen: Option<SystemTime> = None;
    loop {
        let now = changed();
        if now.is_none() || now == seen {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        // SAFETY: the module is this bench's own and exports what is called here.
        let Ok(module) = (unsafe { relib_host::load_module::<()>(&path, ()) }) else { continue };
        // SAFETY: as above.
        let value = unsafe { module.call_main::<u64>() }.expect("the module does not panic");
        println!("value {value}");
        let _ = std::io::stdout().flush();
        module.unload().expect("the module is unloaded");
        seen = now;
    }
}
