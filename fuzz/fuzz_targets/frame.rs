//! Whatever bytes another host of a fleet sends, they are read to an end or to an error.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = controllerbus_fleet::__private::read_frame(data);
    // Past the head, where a lane's messages begin.
    let _ = controllerbus_fleet::__private::read_frame(&[&[0; 16], data].concat());
});
