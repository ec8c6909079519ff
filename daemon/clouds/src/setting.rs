//! What the environment says of a program's identity, where it makes no sense.

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found:?}: {expected}")]
pub struct InvalidSetting {
    /// Which.
    pub name: &'static str,
    /// What it says.
    pub found: String,
    /// What it should.
    pub expected: &'static str,
}
