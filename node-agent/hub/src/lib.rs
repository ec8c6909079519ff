//! Hugging Face Hub: resolving a model and publishing it in cache layout.
