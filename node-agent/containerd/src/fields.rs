//! Every label and name that is written into containerd, as functions of the image alone.
//!
//! Nothing here is copied from an image's own labels or annotations: those are the image author's
//! words, and some of containerd's labels are commands.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::spec::{ImageSpec, Labels};

/// Marks a record that the CRI plugin shows.
pub(crate) const MANAGED: &str = "io.cri-containerd.image";
/// Keeps the kubelet from collecting the image.
pub(crate) const PINNED: &str = "io.cri-containerd.pinned";
/// When we take the pin off again.
pub(crate) const PINNED_UNTIL: &str = "headstart.dev/pinned-until";
/// On leases and snapshots: which session made it.
pub(crate) const SESSION: &str = "headstart.dev/session";
/// On leases: what it is for, `session` or `hold`.
pub(crate) const KIND: &str = "headstart.dev/kind";
/// On leases: the digest of the image's target.
pub(crate) const TARGET: &str = "headstart.dev/target";
/// When containerd lets go of a lease.
pub(crate) const EXPIRE: &str = "containerd.io/gc.expire";
const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

/// The key of a snapshot in preparation.
pub(crate) fn key(session: &str, attempt: u64, chain_id: &str) -> String {
    format!("headstart-{session}-{attempt} {chain_id}")
}

/// The labels of a layer's snapshot while it is prepared.
pub(crate) fn prepared(session: &str, chain_id: &str) -> Labels {
    [(SNAPSHOT_REF, chain_id), (SESSION, session)]
        .map(owned)
        .into()
}

/// The labels of a layer's snapshot once it is committed.
pub(crate) fn committed(chain_id: &str) -> Labels {
    [(SNAPSHOT_REF, chain_id)].map(owned).into()
}

/// Labels of the config: it keeps the snapshots.
pub(crate) fn config(spec: &ImageSpec, snapshotter: &str) -> Labels {
    let mut labels = source(spec);
    if let Some(top) = spec.layers.last() {
        let name = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
        labels.insert(name, top.chain_id.prefixed());
    }
    labels
}

/// Labels of the manifest: it keeps the config, and the layer blobs where they are stored.
pub(crate) fn manifest(spec: &ImageSpec, layers_stored: bool) -> Labels {
    let mut labels = source(spec);
    let config = spec.config.descriptor.digest.prefixed();
    labels.insert("containerd.io/gc.ref.content.config".into(), config);
    if layers_stored {
        for (i, layer) in spec.layers.iter().enumerate() {
            let blob = layer.descriptor.digest.prefixed();
            labels.insert(format!("containerd.io/gc.ref.content.l.{i}"), blob);
        }
    }
    labels
}

/// Labels of the index: it keeps the platform's manifest.
pub(crate) fn index(spec: &ImageSpec) -> Labels {
    let mut labels = source(spec);
    if let Some(position) = spec.manifest_position() {
        let name = format!("containerd.io/gc.ref.content.m.{position}");
        labels.insert(name, spec.manifest.descriptor.digest.prefixed());
    }
    labels
}

/// Labels of a layer blob of an image whose diff ids may be known on the node.
pub(crate) fn layer_blob(spec: &ImageSpec, layer: usize) -> Labels {
    let mut labels = source(spec);
    let diff_id = spec.layers[layer].diff_id.prefixed();
    labels.insert("containerd.io/uncompressed".into(), diff_id);
    labels
}

/// Which repository a blob came from, so that a push can mount it there. containerd takes the
/// host without its port.
pub(crate) fn source(spec: &ImageSpec) -> Labels {
    let host = match spec.source.host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => &spec.source.host,
    };
    let name = format!("containerd.io/distribution.source.{host}");
    Labels::from([(name, spec.source.repository.clone())])
}

/// The names of an image's records.
pub(crate) fn record_names(spec: &ImageSpec) -> Vec<String> {
    let mut names = spec.names.clone();
    for name in &spec.names {
        let repository = repository(name);
        names.push(format!("{repository}@{}", spec.target.digest.prefixed()));
    }
    names.push(spec.config.descriptor.digest.prefixed());
    names.sort();
    names.dedup();
    names
}

/// The labels of an image record, pinned until a time or not.
pub(crate) fn record(pinned_until: Option<&str>) -> Labels {
    let mut labels: Labels = [(MANAGED, "managed")].map(owned).into();
    if let Some(until) = pinned_until {
        labels.extend([(PINNED, "pinned"), (PINNED_UNTIL, until)].map(owned));
    }
    labels
}

/// The time `life` from now as containerd and we write it (RFC 3339, whole seconds).
pub(crate) fn after(life: Duration) -> String {
    let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
    let until = Timestamp::now().checked_add(life).unwrap_or(Timestamp::MAX);
    let seconds = Timestamp::from_second(until.as_second()).unwrap_or(Timestamp::MAX);
    seconds.to_string()
}

/// Whether the time written in a label is past. An unreadable one is.
pub(crate) fn is_past(written: &str) -> bool {
    written
        .parse::<Timestamp>()
        .is_ok_and(|until| until > Timestamp::now())
        .eq(&false)
}

/// `name` without its tag or digest.
fn repository(name: &str) -> &str {
    let name = name
        .split_once('@')
        .map_or(name, |(repository, _)| repository);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

fn owned((key, value): (&str, &str)) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests;
