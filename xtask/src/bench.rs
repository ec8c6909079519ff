//! Benchmarks beside real peers, in the same run; no part of what CI runs.

pub(crate) mod image;
