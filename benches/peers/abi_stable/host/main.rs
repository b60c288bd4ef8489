//! Opens each library that it is given, calls it, and prints how long that took, in milliseconds.

use std::path::Path;
use std::time::Instant;

use abi_stable::library::lib_header_from_path;
use interface::ValueModRef;

fn main() {
    for path in std::env::args().skip(1) {
        let begun = Instant::now();
        let header = lib_header_from_path(Path::new(&path)).expect("the library");
        let module = header.init_root_module::<ValueModRef>().expect("its root module");
        assert_eq!(module.value()(), 7);
        println!("{}", begun.elapsed().as_secs_f64() * 1000.0);
    }
}
