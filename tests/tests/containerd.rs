//! Images handed to real containerd are as if it had pulled them.
