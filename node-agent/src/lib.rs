//! The node agent: brings images and weights onto a host's disk ahead of the pods that need them.
//!
//! [`cli`] is what a person or a unit file starts; [`serve`] is the agent of a node in a cluster and
//! [`boot`] the one before the kubelet; [`warm`] does the same once, for what a command line names;
//! [`store`] is what is on disk; [`housekeeping`] looks after it; [`report`] is what anybody hears of
//! it; [`view`] shows a model to one consumer, and [`csi`] to pods.

mod agent;
mod announce;
pub mod boot;
pub mod cli;
pub mod csi;
mod handover;
pub mod housekeeping;
mod items;
mod metrics;
mod notice;
pub mod report;
mod runtime;
pub mod serve;
mod settings;
pub mod store;
pub mod view;
pub mod warm;
