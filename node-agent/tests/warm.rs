//! The agent as a program: the real binary against the testbed's Hub and registry on loopback.
//!
//! Nothing here needs root, containerd or a network. What needs them is in the `agent` binary of
//! the end-to-end tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

#[path = "warm/bed.rs"]
mod bed;
#[path = "warm/faults.rs"]
mod faults;
#[path = "warm/images.rs"]
mod images;
#[path = "warm/models.rs"]
mod models;
#[path = "warm/refusals.rs"]
mod refusals;
#[path = "warm/store.rs"]
mod store;
