//! Tells the crate which target it is compiled for, so that it can refuse plugins of another.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=CBUS_TARGET={}", std::env::var("TARGET").unwrap_or_default());
}
