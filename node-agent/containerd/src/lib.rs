//! Makes images present in a container runtime.
//!
//! Two ways lead there. The **fast** one is for containerd with its overlayfs snapshotter: whoever
//! calls unpacks layers in any order into [`Session::staging`]; this crate renames each into a
//! snapshot that containerd prepared, commits them in chain order and writes the image's records,
//! all under a lease. The **cri** one asks the runtime to pull ([`Runtime::pull`]) and works with
//! every runtime and snapshotter. [`Runtime::detect`] says which.
//!
//! Invariants:
//! - Nothing is committed whose unpacked content is not what the image's config promises.
//! - Staging lies beside the snapshotter's directory on the same filesystem, never inside it, and
//!   is readable by root only.
//! - Everything that is made is under a lease of ours that expires, carries a label or a key of
//!   ours, or lies in a staging directory whose lock tells whether its session lives; so
//!   [`Runtime::sweep`] finds all of what a dead session left.
//! - At [`Depth::Layers`] and [`Depth::Content`] no image record, config or manifest is written,
//!   and neither diff ids nor chain ids leave this crate in a message: who knows them can run the
//!   layers without the image's secret.
//! - Deliberately absent: any registry, any unpacking, any choice of what to fetch.

mod client;
mod content;
mod cri;
mod detect;
mod error;
mod fields;
mod lease;
mod mounts;
mod pins;
mod proto;
mod session;
mod snapshots;
mod spec;
mod staging;
mod sweep;

pub use client::{Config, Durability, Runtime};
pub use content::BlobWriter;
pub use cri::{Auth, FsUsage, RuntimeImage};
pub use detect::{Detected, Verdict};
pub use error::Error;
pub use session::{Committed, Held, Session, StagedLayer};
pub use spec::{Blob, Depth, Descriptor, ImageSpec, LayerSpec, Source, chain_ids};
pub use sweep::Swept;
