//! A library whose one function answers a number.

use abi_stable::export_root_module;
use abi_stable::prefix_type::PrefixTypeTrait;
use interface::{ValueMod, ValueModRef};

#[export_root_module]
fn root() -> ValueModRef {
    ValueMod { value }.leak_into_prefix()
}

extern "C" fn value() -> u64 {
    7
}
