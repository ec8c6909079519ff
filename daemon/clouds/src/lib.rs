//! Thin clients of the clouds' own APIs: only the calls that buying nodes needs.
//!
//! Types and fields have the API's own names. What is decided from the answers (which offering, when
//! again) is decided elsewhere; here an answer is read, and a refusal keeps the cloud's code, its
//! words and the request id. Nothing here knows Kubernetes.

pub mod aws;
pub mod azure;
pub mod bucket;
pub mod call;
pub mod gcp;
mod kept;
pub mod setting;
