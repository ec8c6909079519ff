//! Platforms: `linux/arm64/v8`, and which of an index's images runs on one.
//!
//! Order and fallbacks are containerd's, so that an image warmed here is the one containerd would
//! have pulled: newer variants run older ones, amd64 runs 386, arm64 runs 32-bit arm.

use std::fmt;
use std::str::FromStr;

/// An operating system, an architecture in Go's words, and its variant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// A text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: expected OS/ARCHITECTURE[/VARIANT], such as linux/amd64")]
pub struct InvalidPlatform(String);

impl Platform {
    /// What this program runs on.
    pub fn host() -> Self {
        Self::new(std::env::consts::OS, std::env::consts::ARCH, None)
    }

    /// A platform from its parts; other names for the same thing are unified.
    pub(crate) fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = os.to_ascii_lowercase();
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.map(str::to_ascii_lowercase);
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", Some("" | "v1") | None) => ("amd64", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "x86", variant) => ("386", variant),
            ("aarch64" | "arm64", Some("" | "8" | "v8") | None) => ("arm64", None),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("arm", Some("" | "7") | None) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            (architecture, Some("")) => (architecture, None),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            os: match os.as_str() {
                "macos" => "darwin".to_owned(),
                _ => os,
            },
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// How well `offered` runs here: 0 is best, none is not at all.
    pub(crate) fn rank(&self, offered: &Self) -> Option<usize> {
        self.runs().iter().position(|runs| runs == offered)
    }

    /// Everything that runs here, best first.
    fn runs(&self) -> Vec<Self> {
        let of = |architecture: &str, variants: &[&str]| {
            let platform = |v: &&str| Self::new(&self.os, architecture, Some(v));
            variants.iter().map(platform).collect::<Vec<_>>()
        };
        let from = |variants: &'static [&'static str]| {
            let own = self.variant.as_deref();
            let start = variants.iter().position(|v| Some(*v) == own);
            &variants[start.unwrap_or(variants.len() - 1)..]
        };
        let mut runs = vec![self.clone()];
        match self.architecture.as_str() {
            "amd64" => {
                runs.extend(of("amd64", from(&["v4", "v3", "v2", "v1"])));
                runs.extend(of("386", &[""]));
            }
            "arm64" => {
                runs.extend(of("arm64", from(&["v9", "v8"])));
                runs.extend(of("arm", &["v8", "v7", "v6", "v5"]));
            }
            "arm" => runs.extend(of("arm", from(&["v8", "v7", "v6", "v5"]))),
            _ => {}
        }
        runs
    }

    /// What attestations and other things that run nowhere are filed under.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl FromStr for Platform {
    type Err = InvalidPlatform;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPlatform(text.chars().take(80).collect());
        let parts: Vec<&str> = text.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !parts.iter().all(plain) {
            return Err(invalid());
        }
        match parts.as_slice() {
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
