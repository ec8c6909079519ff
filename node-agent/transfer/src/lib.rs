//! The transfer engine: ranges, many connections, verified and journaled.
//!
//! [`net`] is the only door to the network: every connection of the agent is dialled by it, under
//! a host policy. The engine above it moves whole jobs of blobs from [`source::Source`]s to verified files or
//! ordered streams.

pub mod net;
pub mod source;
