//! Digests: what a blob must hash to before anybody may see it.
//!
//! Two forms exist upstream. OCI registries and the Hub's large files name content by its sha256;
//! the Hub's small files are named by their git blob id, the sha1 of `"blob <len>\0"` followed by
//! the content.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A sha256 digest. Displays as 64 lower-case hex digits; parses those, with or without `sha256:`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256(pub [u8; 32]);

/// A git blob id: the sha1 of `"blob <len>\0"` and the content. Displays as 40 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GitSha1(pub [u8; 20]);

/// What a blob's bytes must hash to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The sha256 of the bytes.
    Sha256(Sha256),
    /// The git blob id of the bytes.
    GitSha1(GitSha1),
}

impl fmt::Display for Expected {
    /// `sha256:<hex>` or `gitsha1:<hex>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{digest}"),
            Self::GitSha1(digest) => write!(f, "gitsha1:{digest}"),
        }
    }
}

impl Sha256 {
    /// The OCI form, `sha256:<hex>`.
    pub fn prefixed(&self) -> String {
        format!("sha256:{self}")
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

/// A text that is not the digest it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a {kind} digest: expected {digits} lower-case hex digits")]
pub struct InvalidDigest {
    kind: &'static str,
    digits: usize,
    found: String,
}

fn parse<const N: usize>(kind: &'static str, text: &str) -> Result<[u8; N], InvalidDigest> {
    let invalid = || InvalidDigest {
        kind,
        digits: 2 * N,
        found: text.chars().take(80).collect(),
    };
    if text.len() != 2 * N {
        return Err(invalid());
    }
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
            return Err(invalid());
        };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

macro_rules! hex_form {
    ($name:ident, $kind:literal, $prefix:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidDigest;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse($kind, text.strip_prefix($prefix).unwrap_or(text)).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_form!(Sha256, "sha256", "sha256:");
hex_form!(GitSha1, "sha1", "sha1:");

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_parses_with_and_without_its_prefix_and_prints_as_it_was() {
        for text in [EMPTY.to_owned(), format!("sha256:{EMPTY}")] {
            let digest: Sha256 = text.parse().unwrap();
            assert_eq!(digest.to_string(), EMPTY);
            assert_eq!(digest.prefixed(), format!("sha256:{EMPTY}"));
        }
    }

    #[test]
    fn upper_case_short_and_non_hex_digests_are_refused_with_the_text_found() {
        for text in ["", "abc", &EMPTY.to_uppercase(), &EMPTY.replace('e', "g")] {
            let error = text.parse::<Sha256>().unwrap_err().to_string();
            assert!(error.contains("64 lower-case hex digits"), "{error}");
        }
    }
}
