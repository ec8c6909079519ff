//! AWS: signing, credentials, and the few calls of EC2 that buying nodes needs.

pub mod credentials;
pub mod ec2;
pub mod sign;
mod xml;
