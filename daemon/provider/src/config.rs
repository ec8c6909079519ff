//! What the configuration of every cloud's provider shares: how a wrong field is told, and addresses.

use serde::{Deserialize, Deserializer};
use url::Url;

/// A field of a provider's configuration that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found:?}: {fix}")]
pub struct ConfigError {
    /// Which.
    pub field: String,
    /// What it says.
    pub found: String,
    /// What it should.
    pub fix: String,
}

impl ConfigError {
    pub(crate) fn new(
        field: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            found: found.into(),
            fix: fix.into(),
        }
    }
}

/// Reads an address.
pub(crate) fn url<'de, D: Deserializer<'de>>(from: D) -> Result<Url, D::Error> {
    let text = String::deserialize(from)?;
    let wrong = |error| serde::de::Error::custom(format!("{text:?} is no URL: {error}"));
    Url::parse(&text).map_err(wrong)
}
