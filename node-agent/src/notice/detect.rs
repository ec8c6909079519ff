//! Which cloud this machine is of, as its firmware says: nobody is asked over the network where it
//! names none.
//!
//! Sources: AWS "Detect whether a host is an EC2 instance" (DMI), Google "Detect if a VM is running in
//! Compute Engine" (`product_name`), Azure's chassis asset tag as cloud-init's DataSourceAzure knows it.

use std::path::Path;

use headstart_api::NoticeSource;

/// The chassis asset tag of every Azure machine; the vendor alone may be any Hyper-V host.
const AZURE_CHASSIS: &str = "7783-7084-3265-9085-8269-3286-77";

/// The cloud of the machine whose `/sys` is at `sys`.
pub(super) fn cloud(sys: &Path) -> Option<NoticeSource> {
    let read = |name: &str| {
        let path = sys.join("class/dmi/id").join(name);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().to_owned()
    };
    let (vendor, product) = (read("sys_vendor"), read("product_name"));
    // Nitro says it in the vendor, Xen in the version of its BIOS: `4.11.amazon`.
    if vendor == "Amazon EC2" || read("bios_version").ends_with(".amazon") {
        return Some(NoticeSource::Aws);
    }
    if vendor == "Google" && product == "Google Compute Engine" {
        return Some(NoticeSource::Gcp);
    }
    (read("chassis_asset_tag") == AZURE_CHASSIS).then_some(NoticeSource::Azure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(fields: &[(&str, &str)]) -> Option<NoticeSource> {
        let sys = tempfile::tempdir().unwrap();
        let dmi = sys.path().join("class/dmi/id");
        std::fs::create_dir_all(&dmi).unwrap();
        for (name, text) in fields {
            std::fs::write(dmi.join(name), format!("{text}\n")).unwrap();
        }
        cloud(sys.path())
    }

    #[test]
    fn a_machine_is_of_the_cloud_that_its_firmware_names_and_of_none_otherwise() {
        let aws = Some(NoticeSource::Aws);
        assert_eq!(machine(&[("sys_vendor", "Amazon EC2")]), aws);
        let xen = [("sys_vendor", "Xen"), ("bios_version", "4.11.amazon")];
        assert_eq!(machine(&xen), aws);
        let gcp = [
            ("sys_vendor", "Google"),
            ("product_name", "Google Compute Engine"),
        ];
        assert_eq!(machine(&gcp), Some(NoticeSource::Gcp));
        let hyper_v = ("sys_vendor", "Microsoft Corporation");
        let azure = [hyper_v, ("chassis_asset_tag", AZURE_CHASSIS)];
        assert_eq!(machine(&azure), Some(NoticeSource::Azure));
        assert_eq!(machine(&[hyper_v]), None);
        assert_eq!(machine(&[("product_name", "Google Pixelbook")]), None);
        assert_eq!(machine(&[]), None);
        assert_eq!(cloud(Path::new("/nowhere")), None);
    }
}
