//! Disks that are full, failing or read-only.
