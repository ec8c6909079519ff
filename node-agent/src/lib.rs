//! The node agent: brings images and weights onto a host's disk ahead of the pods that need them.
//!
//! [`cli`] is what a person or a unit file starts; [`warm`] is the main job; [`store`] is what is
//! on disk; [`housekeeping`] looks after it; [`report`] is what anybody hears of it; [`view`] shows a
//! model to one consumer.

mod agent;
pub mod cli;
pub mod csi;
pub mod housekeeping;
mod items;
pub mod report;
mod runtime;
mod settings;
pub mod store;
pub mod view;
pub mod warm;
