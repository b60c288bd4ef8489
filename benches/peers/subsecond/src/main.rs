//! A program as subsecond's documentation has it, with the plugin in it. It prints each new value.

use std::io::Write;

use dioxus_devtools::subsecond;

mod logic;

fn main() {
    dioxus_devtools::connect_subsecond();
    let mut last = None;
    loop {
        let value = subsecond::call(|| logic::value());
        if last != Some(value) {
            println!("value {value}");
            let _ = std::io::stdout().flush();
            last = Some(value);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
