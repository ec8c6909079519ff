//! The Headstart command line.
fn main() {}
