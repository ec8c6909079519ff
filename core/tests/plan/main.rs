//! What the planner promises, held against it by a judge that shares no code with it.

mod generated;
mod judge;
mod properties;
#[expect(dead_code, reason = "the tests of the planner use the rest")]
mod world;
