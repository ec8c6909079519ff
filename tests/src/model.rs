//! Models made on the spot: real safetensors with random weights.
