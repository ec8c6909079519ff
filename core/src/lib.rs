//! What Headstart decides: plans, orders and arithmetic, without I/O.
//!
//! Nothing here is async, reads a clock, draws a random number or touches a file, a socket or the
//! environment. Time is an argument. What is done with a decision is the business of the agent and
//! the daemon.

pub mod amount;
mod bits;
pub mod cache;
pub mod capacity;
pub mod digest;
pub mod evict;
pub mod label;
mod market;
pub mod model;
pub mod money;
pub mod node;
pub mod offer;
pub mod pace;
pub mod plan;
pub mod pod;
pub mod pool;
pub mod prefetch;
pub mod quantity;
pub mod ranges;
pub mod ready;
pub mod reason;
pub mod snapshot;
pub mod solve;
pub mod verify;
pub mod world;
