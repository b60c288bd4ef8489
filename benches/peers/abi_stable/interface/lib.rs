//! The root module, as abi_stable's documentation has it: what both sides must agree on.

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::package_version_strings;
use abi_stable::sabi_types::VersionStrings;

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ValueModRef)))]
pub struct ValueMod {
    #[sabi(last_prefix_field)]
    pub value: extern "C" fn() -> u64,
}

impl RootModule for ValueModRef {
    abi_stable::declare_root_module_statics! {ValueModRef}
    const BASE_NAME: &'static str = "module";
    const NAME: &'static str = "module";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
