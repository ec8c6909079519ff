//! The confined unpacker against hostile layers and other unpackers.
