//! A server that breaks HTTP in every way a transfer has to survive.
