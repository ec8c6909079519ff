//! Fetches images and weights onto a node ahead of its pods.
