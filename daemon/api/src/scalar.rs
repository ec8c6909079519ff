//! Values that a person may write in more than one way: amounts, prices, spans of time.

use std::borrow::Cow;
use std::fmt;

use headstart_core::money::{HourlyPrice, Millis};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// An amount of a resource: `2`, `500m`, `10Gi`, as a number or a text. Read later, by resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amount(pub String);

/// US dollars per hour, as a number or a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price(pub HourlyPrice);

/// A span of time: `300s`, `5m`, `1h30m`, `720h`, `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Millis);

/// A span of time or `Never`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// After this long.
    After(Millis),
    /// Never.
    Never,
}

/// A number of nodes, or a share of them: `3` or `10%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountOrPercent {
    /// This many.
    Count(u32),
    /// This many of a hundred.
    Percent(u32),
}

const SPAN_FORM: &str = "write it as 300s, 5m, 1h30m or 30d";

impl Span {
    /// Reads a span.
    pub fn read(text: &str) -> Result<Self, String> {
        let fail = |problem: &str| Err(format!("{text:?} {problem}; {SPAN_FORM}"));
        let mut rest = text.trim();
        let mut total = 0_u64;
        if rest.is_empty() || rest.len() > 40 {
            return fail("is not a span of time");
        }
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            let letters = after
                .find(|c: char| !c.is_ascii_alphabetic())
                .unwrap_or(after.len());
            let (unit, after) = after.split_at(letters);
            let unit: u64 = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "" if rest == "0" => 1,
                "" => return fail("has no unit"),
                _ => return fail("has a unit that is not known"),
            };
            let Ok(number) = number.parse::<u64>() else {
                return fail("is not a span of time");
            };
            let part = number
                .checked_mul(unit)
                .and_then(|part| total.checked_add(part));
            match part {
                Some(part) if part < 1 << 48 => total = part,
                _ => return fail("is too long"),
            }
            rest = after;
        }
        Ok(Self(Millis(total)))
    }
}

impl CountOrPercent {
    fn read(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let read = match text.strip_suffix('%') {
            Some(percent) => number(percent).filter(|n| *n <= 100).map(Self::Percent),
            None => number(text).map(Self::Count),
        };
        read.ok_or_else(|| format!("{text:?} is neither a number nor a share; write 3 or 10%"))
    }
}

/// Reads a text or a number as a text.
struct AnyText(&'static str);

impl Visitor<'_> for AnyText {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.chars().take(100).collect())
    }
}

/// The schema of a value that the API server takes as `schema`.
macro_rules! written_as {
    ($type:ident, $schema:tt) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

written_as!(Amount, { "x-kubernetes-int-or-string": true });
written_as!(Price, { "type": "number", "minimum": 0 });
written_as!(Span, { "type": "string", "maxLength": 40, "pattern": "^([0-9]+(ms|s|m|h|d))+$|^0$" });
written_as!(Expiry, {
    "type": "string", "maxLength": 40, "pattern": "^([0-9]+(ms|s|m|h|d))+$|^0$|^Never$"
});
written_as!(CountOrPercent, { "x-kubernetes-int-or-string": true });

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader
            .deserialize_any(AnyText("an amount such as 4, 500m or 10Gi"))
            .map(Self)
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        writer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let text = reader.deserialize_any(AnyText("USD per hour such as 1.25"))?;
        let usd: f64 = text.trim().parse().map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is not a price; write USD per hour, such as 1.25"
            ))
        })?;
        HourlyPrice::from_usd(usd)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

impl Serialize for Price {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        writer.serialize_f64(self.0.usd())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let text = reader.deserialize_any(AnyText("a span of time such as 5m"))?;
        Self::read(&text).map_err(D::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        match self.0.0 {
            millis if millis % 1000 == 0 => writer.collect_str(&format_args!("{}s", millis / 1000)),
            millis => writer.collect_str(&format_args!("{millis}ms")),
        }
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let text = reader.deserialize_any(AnyText("a span of time such as 720h, or Never"))?;
        if text == "Never" {
            return Ok(Self::Never);
        }
        let span =
            Span::read(&text).map_err(|error| D::Error::custom(format!("{error}, or Never")))?;
        Ok(Self::After(span.0))
    }
}

impl Serialize for Expiry {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::After(span) => Span(*span).serialize(writer),
            Self::Never => writer.serialize_str("Never"),
        }
    }
}

impl<'de> Deserialize<'de> for CountOrPercent {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let text = reader.deserialize_any(AnyText("a number such as 3, or a share such as 10%"))?;
        Self::read(&text).map_err(D::Error::custom)
    }
}

impl Serialize for CountOrPercent {
    fn serialize<S: Serializer>(&self, writer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => writer.collect_str(count),
            Self::Percent(percent) => writer.collect_str(&format_args!("{percent}%")),
        }
    }
}
