//! Hugging Face Hub: resolving a model and publishing it in cache layout.
//!
//! [`endpoint::Hub`] speaks to a Hub: [`resolve`] turns a reference into a plan, [`source`] gives
//! the engine each file of it, [`access`] asks on behalf of a consumer. A [`plan::ModelPlan`] is everything known about a model at one
//! commit. [`layout::Tree`] turns a plan and verified objects into a tree that every Hugging Face
//! client reads as its own cache, and [`view::View`] gives one consumer a small writable cache of
//! links into it.
//!
//! Nothing here downloads a body: bytes arrive as objects through the transfer engine.

pub mod access;
pub mod adopt;
pub mod endpoint;
pub mod layout;
pub mod plan;
pub mod resolve;
pub mod source;
pub mod view;
pub mod xet;

mod dir;

#[cfg(test)]
mod scripted;
