//! A server with the Hub's HTTP surface.
