//! Layers to the byte, the odd ones that no program writes included.

/// One header of a layer; the fields that matter to the cases below.
pub(crate) struct Item<'a> {
    pub(crate) kind: u8,
    pub(crate) name: &'a str,
    pub(crate) link: &'a str,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) device: (u32, u32),
    pub(crate) data: &'a [u8],
    pub(crate) pax: Vec<(&'a str, &'a [u8])>,
}

pub(crate) fn item<'a>(kind: u8, name: &'a str) -> Item<'a> {
    Item {
        kind,
        name,
        link: "",
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        owner: (0, 0),
        device: (0, 0),
        data: b"",
        pax: vec![],
    }
}

pub(crate) fn dir(name: &str) -> Item<'_> {
    item(b'5', name)
}

pub(crate) fn file<'a>(name: &'a str, data: &'a str) -> Item<'a> {
    Item {
        data: data.as_bytes(),
        ..item(b'0', name)
    }
}

pub(crate) fn link<'a>(kind: u8, name: &'a str, link: &'a str) -> Item<'a> {
    Item {
        link,
        ..item(kind, name)
    }
}

pub(crate) fn layer(items: &[Item<'_>]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (at, item) in items.iter().enumerate() {
        if !item.pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in &item.pax {
                let rest = key.len() + value.len() + 3;
                let length = (rest..).find(|n| *n == rest + n.to_string().len()).unwrap();
                records.extend_from_slice(format!("{length} {key}=").as_bytes());
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            header(&mut archive, &super_item(&records), 0);
        }
        header(&mut archive, item, at as u64);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

pub(crate) fn super_item(records: &[u8]) -> Item<'_> {
    Item {
        data: records,
        ..item(b'x', "PaxHeaders/x")
    }
}

pub(crate) fn header(archive: &mut Vec<u8>, item: &Item<'_>, at: u64) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..item.name.len()].copy_from_slice(item.name.as_bytes());
    header.as_mut_bytes()[157..157 + item.link.len()].copy_from_slice(item.link.as_bytes());
    header.set_entry_type(tar::EntryType::new(item.kind));
    header.set_mode(item.mode);
    header.set_uid(item.owner.0);
    header.set_gid(item.owner.1);
    header.set_mtime(1_500_000_000 + at);
    header.set_device_major(item.device.0).unwrap();
    header.set_device_minor(item.device.1).unwrap();
    header.set_size(item.data.len() as u64);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(item.data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}
