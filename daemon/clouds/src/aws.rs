//! AWS: signing, credentials, and the few calls that buying nodes for EKS needs.

pub mod credentials;
pub mod ec2;
pub mod eks;
pub mod pricing;
pub mod profile;
pub mod quotas;
pub mod sign;
pub mod sqs;
pub mod ssm;
pub mod sts;
mod wire;
mod xml;
