//! The transfer engine: ranges, many connections, verified and journaled.
