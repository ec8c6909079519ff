//! Every Hugging Face client reads what the agent publishes.
