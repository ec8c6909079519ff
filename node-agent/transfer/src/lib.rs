//! The transfer engine: ranges, many connections, verified and journaled.
//!
//! [`net`] is the only door to the network: every connection of the agent is dialled by it, under
//! a host policy. [`engine`] moves whole jobs of blobs from [`source::Source`]s to verified files
//! or ordered streams.
//!
//! Inside: the `board` knows what every transfer lacks and gives out work; a `lane` is one
//! connection that does it; a `sink` is where bytes go.

pub mod engine;
pub mod net;
pub mod source;

pub use self::blocking::blocking;
pub use self::digesting::Digesting;
pub use self::error::{FetchError, chain};
pub use self::journal::BootId;

mod bandwidth;
mod blocking;
mod board;
mod digesting;
mod error;
mod journal;
mod lane;
mod sink;
