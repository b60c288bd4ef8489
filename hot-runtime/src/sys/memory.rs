//! What using memory costs.

use std::path::Path;
use std::sync::OnceLock;

/// Whether large pages are worth asking for. Where free memory goes back to a hypervisor within seconds, what asks for more than it
/// needs has more of it fetched again.
pub(crate) fn large_pages_pay() -> bool {
    static PAY: OnceLock<bool> = OnceLock::new();
    *PAY.get_or_init(|| !gives_memory_back(Path::new("/sys/bus/virtio/devices")))
}

/// Whether one of these devices is a balloon that reports free pages.
fn gives_memory_back(devices: &Path) -> bool {
    let of = |device: &Path, name: &str| std::fs::read_to_string(device.join(name)).unwrap_or_default();
    // Of the virtio specification: the device's type, and which of its features has which place.
    let is_balloon = |device: &Path| of(device, "device").trim() == "0x0005";
    let reports = |device: &Path| of(device, "features").as_bytes().get(5) == Some(&b'1');
    let mut all = std::fs::read_dir(devices).into_iter().flatten().flatten();
    all.any(|device| is_balloon(&device.path()) && reports(&device.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_where_a_balloon_reports_what_is_free() {
        let folder = tempfile::tempdir().expect("a folder");
        let add = |name: &str, device: &str, features: &str| {
            let device_folder = folder.path().join(name);
            std::fs::create_dir(&device_folder).expect("a folder");
            std::fs::write(device_folder.join("device"), format!("{device}\n")).expect("writing");
            std::fs::write(device_folder.join("features"), format!("{features}\n")).expect("writing");
        };
        let gives = || gives_memory_back(folder.path());
        assert!(!gives_memory_back(&folder.path().join("none")) && !gives());
        add("virtio0", "0x0002", "1111111111");
        assert!(!gives(), "a disk");
        add("virtio1", "0x0005", "0110000000");
        assert!(!gives(), "a balloon that only does what it is told");
        add("virtio2", "0x0005", "0110010000");
        assert!(gives());
    }
}
