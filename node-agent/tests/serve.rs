//! The long-running agent as a program: the real binary, started, asked over its store's socket,
//! killed and replaced, against the testbed's Hub and registry on loopback.
//!
//! Nothing here needs root, containerd, a network or an API server; what an API server is needed
//! for is in the `serve` binary of the end-to-end tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

#[path = "warm/bed.rs"]
#[allow(
    dead_code,
    reason = "the bed of another binary, whose tests use the rest"
)]
mod bed;
#[path = "serve/boot.rs"]
mod boot;
#[path = "serve/handover.rs"]
mod handover;
#[path = "serve/running.rs"]
mod running;
