//! The images every cluster has: what holds a pod together, and a shell.
//!
//! Both are this machine's static busybox. Whatever else a test runs it builds on
//! [`shell_layer`].

use std::fs;

use anyhow::{Context as _, Result};

use crate::image::{Compression, Format, Image, Layer, Recipe, this_architecture};

const BUSYBOX: &str = "/bin/busybox";

/// Programs by whose name busybox is called in pods.
const APPLETS: [&str; 18] = [
    "sh",
    "head",
    "wc",
    "sleep",
    "cat",
    "ls",
    "wget",
    "httpd",
    "env",
    "echo",
    "true",
    "false",
    "test",
    "grep",
    "sha256sum",
    "nc",
    "dd",
    "ip",
];

/// The image of the container that holds a pod's namespaces; its command is what all images made
/// here have, `/bin/sh`.
pub(super) fn pause() -> Result<Image> {
    let sleeps = b"#!/bin/busybox sh\nexec /bin/busybox sleep 2000000000\n";
    let mut tar = busybox()?;
    append(&mut tar, "bin/sh", sleeps)?;
    image(vec![Layer::Tar(tar.into_inner()?.into())])
}

/// An image with a shell.
pub(super) fn shell() -> Result<Image> {
    image(vec![shell_layer()?])
}

/// A layer with a shell and what scripts call.
///
/// # Errors
/// If this machine has no static busybox.
pub fn shell_layer() -> Result<Layer> {
    let mut tar = busybox()?;
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    for directory in ["tmp/", "etc/", "proc/", "sys/", "dev/", "root/"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, directory, std::io::empty())?;
    }
    Ok(Layer::Tar(tar.into_inner()?.into()))
}

pub(super) fn image(layers: Vec<Layer>) -> Result<Image> {
    let recipe = Recipe {
        layers,
        compression: Compression::Gzip(1),
        format: Format::Oci,
        architecture: this_architecture().to_owned(),
    };
    Ok(Image::make(&recipe)?)
}

fn busybox() -> Result<tar::Builder<Vec<u8>>> {
    let program = fs::read(BUSYBOX)
        .with_context(|| format!("read {BUSYBOX}: install Debian's busybox-static"))?;
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "bin/busybox", &program)?;
    Ok(tar)
}

pub(super) fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}
