//! OCI registries: references, manifests, authentication, mirrors.
//!
//! [`Registries::resolve`] turns a name into verified manifest, config and layer descriptors;
//! [`Registries::sources`] says where the engine may fetch a layer. Names, manifest types and
//! media types are `oci-client`'s. Its HTTP client is not used: it sends credentials to whatever
//! realm a registry names. Every request here, token requests included, goes through
//! `headstart_transfer::net::Http`.
//!
//! Invariants:
//! - nothing is believed before it is hashed: manifests, indexes and configs against the digest
//!   that named them, and nothing larger than its cap is read;
//! - a login goes to the registry it was configured for and to token realms of the same site or
//!   explicitly trusted, never to a mirror on another host and never along a redirect;
//! - names, labels, URLs and annotations found in manifests are never followed.
//!
//! Deliberately absent: pushing, credential helpers (they are programs), image signatures.

pub use self::error::{MirrorFailure, ResolveError};
pub use self::hosts::HostsDir;
pub use self::image::{Compression, Descriptor, Layer, RawBlob, Resolved, Secret};
pub use self::keychain::{InvalidKeychain, Keychain};
pub use self::platform::{InvalidPlatform, Platform};
pub use self::reference::{ImageRef, InvalidImageRef};
pub use self::registries::{Registries, RuntimeLogin};

mod access;
mod challenge;
mod error;
mod hosts;
mod image;
mod keychain;
mod manifest;
mod platform;
mod reference;
mod registries;
mod resolve;
mod source;
mod token;
