//! Local Hub, registry, fault server and shaped links that tests and the demo run against.
//!
//! Everything here is real: sockets on loopback, bytes made on the spot, the protocols spoken as
//! their public servers speak them. What needs root, a network of its own or other programs is in
//! the `e2e` test binaries, which `cargo xtask e2e` runs.

mod parallel;
mod random;

#[cfg(feature = "e2e")]
pub mod cloud;
#[cfg(feature = "e2e")]
pub mod cluster;
pub mod containerd;
pub mod content;
pub mod debian;
pub mod docker_registry;
pub mod faults;
#[cfg(feature = "e2e")]
pub mod helm;
pub mod hub;
pub mod image;
pub mod link;
pub mod model;
pub mod registry;
pub mod serve;
pub mod tree;

#[cfg(test)]
mod testing;
