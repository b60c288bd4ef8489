//! A host as hot-lib-reloader's README has it. It prints each new value.

use std::io::Write;

#[hot_lib_reloader::hot_module(dylib = "lib")]
mod hot_lib {
    hot_functions_from_file!("lib/src/lib.rs");
}

fn main() {
    let mut last = None;
    loop {
        let value = hot_lib::plugin_value();
        if last != Some(value) {
            println!("value {value}");
            let _ = std::io::stdout().flush();
            last = Some(value);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
