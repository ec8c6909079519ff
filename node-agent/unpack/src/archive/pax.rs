//! Records of PAX extended headers.

use super::{Entry, Time, Trouble};

/// The records of one extended header. A later record replaces an earlier one of the same key.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Records {
    /// Parses `"<length> <key>=<value>\n"`, any number of times.
    pub(crate) fn parse(mut text: &[u8]) -> Result<Self, Trouble> {
        let mut parsed = Self::default();
        let mut map: Vec<Vec<u8>> = Vec::new();
        while !text.is_empty() {
            let (key, value, rest) =
                record(text).ok_or_else(|| Trouble::Invalid("extended header".to_owned()))?;
            match key {
                // Form 0.0 of sparse files repeats these: they are one map.
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    let offset = key == b"GNU.sparse.offset";
                    if offset != map.len().is_multiple_of(2) || value.contains(&b',') {
                        return Trouble::invalid("map of a sparse file");
                    }
                    map.push(value.to_owned());
                }
                _ => parsed.set(key, value),
            }
            text = rest;
        }
        if !map.is_empty() {
            parsed.set(b"GNU.sparse.map", &map.join(&b','));
        }
        Ok(parsed)
    }

    /// The value of a key; an empty one counts as absent.
    pub(crate) fn text(&self, key: &str) -> Option<&[u8]> {
        self.records
            .iter()
            .find(|(found, value)| found == key.as_bytes() && !value.is_empty())
            .map(|(_, value)| value.as_slice())
    }

    /// Lets the records replace what the header block said.
    pub(crate) fn merge(&self, entry: &mut Entry) -> Result<(), Trouble> {
        for (key, value) in &self.records {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                entry.xattrs.push((name.to_owned(), value.clone()));
                continue;
            }
            if value.is_empty() {
                continue;
            }
            let invalid =
                || Trouble::Invalid(format!("{} in an extended header", key.escape_ascii()));
            let number = || decimal(value).ok_or_else(invalid);
            match key.as_slice() {
                b"path" => entry.name.clone_from(value),
                b"linkpath" => entry.link.clone_from(value),
                b"uid" => entry.uid = number()? as u32,
                b"gid" => entry.gid = number()? as u32,
                b"size" => entry.size = u64::try_from(number()?).map_err(|_| invalid())?,
                b"mtime" => entry.mtime = time(value).ok_or_else(invalid)?,
                b"atime" => entry.atime = Some(time(value).ok_or_else(invalid)?),
                b"ctime" => drop(time(value).ok_or_else(invalid)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) {
        self.records.retain(|(found, _)| found != key);
        self.records.push((key.to_owned(), value.to_owned()));
    }
}

/// A decimal number with an optional sign.
pub(crate) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    let record = text.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    let name = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    let broken = key.is_empty() || key.contains(&0) || name && value.contains(&0);
    (!broken).then_some((key, value, &text[length..]))
}

/// Seconds with a fraction, which is cut at nanoseconds.
fn time(text: &[u8]) -> Option<Time> {
    let dot = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match dot {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &[][..]),
    };
    let seconds = decimal(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match whole.starts_with(b"-") && nanos > 0 {
        true => Time {
            seconds: seconds.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        },
        false => Time { seconds, nanos },
    })
}
