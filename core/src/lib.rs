//! What Headstart decides: plans, orders and arithmetic, without I/O.
//!
//! Nothing here is async, reads a clock, draws a random number or touches a file, a socket or the
//! environment. Time is an argument. What is done with a decision is the business of the agent and
//! the daemon.

pub mod digest;
pub mod evict;
pub mod model;
pub mod pace;
pub mod quantity;
pub mod ranges;
