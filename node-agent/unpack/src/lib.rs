//! Confined unpacker for container image layers.
