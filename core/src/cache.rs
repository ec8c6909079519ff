//! What can be cached, and what is known to be cached where.
//!
//! One inventory type for the whole product: an item is absent, partial, unknown or verified, and
//! only verified counts as a hit.

use std::collections::BTreeMap;

use crate::digest::Sha256;
use crate::model::{Commit, RepoId};
use crate::money::Millis;

/// One thing that a node fetches as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Item {
    /// A container image.
    Image {
        /// Repository with its registry, without tag or digest: `docker.io/vllm/vllm-openai`.
        repository: String,
        /// What it was resolved to.
        pin: Pin<Sha256>,
    },
    /// A model on the Hub.
    Model {
        /// The repository.
        repo: RepoId,
        /// What it was resolved to.
        pin: Pin<Commit>,
        /// Digest of the file set chosen from it, as the agent computes it; empty for the default
        /// choice.
        files: String,
    },
}

impl Item {
    /// Whether it is resolved.
    pub fn is_pinned(&self) -> bool {
        match self {
            Self::Image { pin, .. } => matches!(pin, Pin::To(_)),
            Self::Model { pin, .. } => matches!(pin, Pin::To(_)),
        }
    }
}

/// Whether a moving name was resolved. Only what is resolved can be fetched or be a hit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pin<To> {
    /// It was, to this.
    To(To),
    /// Not yet: the tag, branch or other name that was written.
    Name(String),
}

/// What is known about an item's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ItemSize {
    /// Bytes to transfer.
    pub transfer: u64,
    /// Bytes on disk when done.
    pub unpacked: u64,
    /// Compressed bytes of its largest layer, which one core inflates; 0 where nothing is inflated.
    pub largest_layer: u64,
    /// Where these figures come from.
    pub basis: Basis,
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// Read from a manifest or file list.
    Known,
    /// Assumed, because nobody knows it yet; shown as such.
    Assumed,
}

/// How far an item is on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemState {
    /// Some of its bytes are there.
    Partial {
        /// How many.
        bytes: u64,
    },
    /// Something is there that nobody has verified.
    Unknown,
    /// All of it is there and was verified.
    Verified,
}

/// What one node's agent reported. An item that is not listed is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// When it was reported.
    pub observed: Millis,
    /// The items.
    pub items: BTreeMap<Item, ItemState>,
    /// Bytes that may still be written.
    pub room: u64,
    /// Items being fetched now, in order.
    pub fetching: Vec<Item>,
}
