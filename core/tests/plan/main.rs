//! What the planner promises, held against it by a judge that shares no code with it.

mod generated;
mod judge;
mod promises;
mod properties;
mod world;
