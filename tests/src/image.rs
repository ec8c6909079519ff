//! Container images made on the spot.
