//! What Headstart decides: plans, orders and arithmetic, without I/O.
