//! Azure: tokens, Resource Manager, the calls of AKS and of Compute that buying nodes needs, and the
//! Retail Prices API.

pub mod aks;
pub mod arm;
pub mod compute;
pub mod prices;
pub mod token;
