//! Prices, amounts of money and spans of time, as integers: the planner compares them exactly.

use std::fmt;

/// A price per hour, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HourlyPrice(pub u64);

/// An amount of money, in billionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(pub i64);

/// A span of time or a moment, in milliseconds. Moments count from the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

/// A number that is no price.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{0} is not a price in USD per hour: it must be a number from 0 to 100000")]
pub struct InvalidPrice(pub f64);

/// The highest price believed, in USD per hour.
const MOST: f64 = 100_000.0;

impl HourlyPrice {
    /// From US dollars per hour, rounded to a millionth.
    ///
    /// # Errors
    /// NaN, below zero, or absurdly high.
    pub fn from_usd(usd: f64) -> Result<Self, InvalidPrice> {
        if (0.0..=MOST).contains(&usd) {
            Ok(Self((usd * 1e6).round() as u64))
        } else {
            Err(InvalidPrice(usd))
        }
    }

    /// In US dollars per hour.
    pub fn usd(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// What `time` at this price costs.
    pub fn over(self, time: Millis) -> Money {
        let nanos = match self.0.checked_mul(time.0) {
            Some(product) => u128::from(product / 3600),
            None => u128::from(self.0) * u128::from(time.0) / 3600,
        };
        Money(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

impl Money {
    /// In US dollars.
    pub fn usd(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl std::ops::Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Millis {
    /// From whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// In seconds.
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e3
    }
}

impl std::ops::Add for Millis {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Saturating: no span is below zero.
impl std::ops::Sub for Millis {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for HourlyPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usd = self.usd();
        if usd < 0.1 {
            write!(f, "{usd:.4} USD/h")
        } else {
            write!(f, "{usd:.2} USD/h")
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usd = self.usd();
        if usd.abs() < 0.1 {
            write!(f, "{usd:.4} USD")
        } else {
            write!(f, "{usd:.2} USD")
        }
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.secs();
        if seconds < 10.0 {
            write!(f, "{seconds:.1} s")
        } else {
            write!(f, "{seconds:.0} s")
        }
    }
}
