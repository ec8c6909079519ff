//! Quantities a person writes and reads: bytes and bytes per second.
//!
//! Units follow the field: `kB`, `MB`, `GB`, `TB` are powers of 1000, `KiB`, `MiB`, `GiB`, `TiB`
//! powers of 1024, and `bit` units (`Gbit/s`, `Gb/s`) divide by eight. A bare number is bytes.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// A rate in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(pub u64);

/// A text that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// No number at the start.
    #[error("{0:?} does not start with a number")]
    Number(String),
    /// A unit nobody knows.
    #[error("{found:?} is not a unit of {what}: use one of {known}")]
    Unit {
        /// What was being read.
        what: &'static str,
        /// The unit found.
        found: String,
        /// Units that are understood.
        known: &'static str,
    },
    /// Zero or more than 2^63.
    #[error("{0:?} is out of range")]
    Range(String),
}

const UNITS: [(&str, f64); 22] = [
    ("", 1.0),
    ("B", 1.0),
    ("k", 1e3),
    ("kB", 1e3),
    ("K", 1024.0),
    ("Ki", 1024.0),
    ("KiB", 1024.0),
    ("M", 1e6),
    ("MB", 1e6),
    ("Mi", 1024.0 * 1024.0),
    ("MiB", 1024.0 * 1024.0),
    ("G", 1e9),
    ("GB", 1e9),
    ("Gi", 1024.0 * 1024.0 * 1024.0),
    ("GiB", 1024.0 * 1024.0 * 1024.0),
    ("T", 1e12),
    ("TB", 1e12),
    ("Ti", 1024.0 * 1024.0 * 1024.0 * 1024.0),
    ("TiB", 1024.0 * 1024.0 * 1024.0 * 1024.0),
    ("kbit", 125.0),
    ("Mbit", 125e3),
    ("Gbit", 125e6),
];
const BYTE_UNITS: &str = "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB";
const RATE_UNITS: &str = "MB/s, MiB/s, GB/s, Mbit/s, Gbit/s";

fn split(text: &str) -> Result<(f64, &str), InvalidQuantity> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number = text[..end]
        .parse()
        .map_err(|_| InvalidQuantity::Number(text.to_owned()))?;
    Ok((number, text[end..].trim()))
}

fn scaled(text: &str, number: f64, scale: f64) -> Result<u64, InvalidQuantity> {
    let value = number * scale;
    if !(0.0..9e18).contains(&value) {
        return Err(InvalidQuantity::Range(text.to_owned()));
    }
    Ok(value as u64)
}

impl FromStr for Bytes {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split(text)?;
        let known = UNITS
            .iter()
            .find(|(name, _)| *name == unit && !name.ends_with("bit"));
        let Some((_, scale)) = known else {
            let found = unit.to_owned();
            return Err(InvalidQuantity::Unit {
                what: "size",
                found,
                known: BYTE_UNITS,
            });
        };
        scaled(text, number, *scale).map(Self)
    }
}

impl FromStr for Rate {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split(text)?;
        let per_second = unit
            .strip_suffix("/s")
            .or(unit.strip_suffix("ps"))
            .unwrap_or(unit);
        let name = match per_second {
            "kb" => "kbit",
            "Mb" => "Mbit",
            "Gb" => "Gbit",
            other => other,
        };
        let Some((_, scale)) = UNITS.iter().find(|(known, _)| *known == name) else {
            let found = unit.to_owned();
            return Err(InvalidQuantity::Unit {
                what: "rate",
                found,
                known: RATE_UNITS,
            });
        };
        match scaled(text, number, *scale)? {
            0 => Err(InvalidQuantity::Range(text.to_owned())),
            rate => Ok(Self(rate)),
        }
    }
}

impl fmt::Display for Bytes {
    /// Three significant digits in powers of 1000: `1.23 GB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["kB", "MB", "GB", "TB", "PB"] {
            if value < 999.5 {
                break;
            }
            value /= 1000.0;
            unit = next;
        }
        match value {
            _ if unit == "B" => write!(f, "{value:.0} B"),
            v if v < 9.995 => write!(f, "{value:.2} {unit}"),
            v if v < 99.95 => write!(f, "{value:.1} {unit}"),
            _ => write!(f, "{value:.0} {unit}"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_are_read_in_the_units_of_the_field() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1.5GB", 1_500_000_000),
            ("16 MiB", 16 << 20),
            ("2Gi", 2 << 30),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for (text, rate) in [
            ("5Gbit/s", 625_000_000),
            ("5Gb/s", 625_000_000),
            ("100 MB/s", 100_000_000),
            ("50MiB", 50 << 20),
            ("800Mbps", 100_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Rate(rate)), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused_with_the_units_that_are_understood() {
        assert!("fast".parse::<Rate>().is_err());
        assert!("0".parse::<Rate>().is_err());
        assert!(
            "10 parsecs"
                .parse::<Bytes>()
                .unwrap_err()
                .to_string()
                .contains("GiB")
        );
        assert!("10Gbit".parse::<Bytes>().is_err());
        assert!("1e400".parse::<Bytes>().is_err());
    }

    #[test]
    fn sizes_print_with_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345_678, "12.3 MB"),
            (999_600, "1.00 MB"),
            (4_294_967_296, "4.29 GB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
