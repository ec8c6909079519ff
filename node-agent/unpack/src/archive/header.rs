//! One header block.

use super::{BLOCK, Entry, Time, Trouble};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Gnu,
    Star,
}

/// Parses a block, whose checksum must be right.
pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Entry, Trouble> {
    if !checksum_matches(block) {
        return Trouble::invalid("checksum of a header");
    }
    let format = format(block);
    let field = |range: std::ops::Range<usize>| &block[range];
    let number = |range, what| {
        numeric(field(range)).ok_or_else(|| Trouble::Invalid(format!("{what} in a header")))
    };
    let size = number(124..136, "size")?;
    let mut entry = Entry {
        kind: block[156],
        name: text(field(0..100)).to_owned(),
        link: text(field(157..257)).to_owned(),
        mode: number(100..108, "mode")? as u32,
        uid: number(108..116, "uid")? as u32,
        gid: number(116..124, "gid")? as u32,
        size: u64::try_from(size).map_err(|_| Trouble::Invalid("negative size".to_owned()))?,
        mtime: seconds(number(136..148, "mtime")?),
        ..Entry::default()
    };
    if format != Format::V7 && matches!(entry.kind, b'3' | b'4') {
        entry.major = number(329..337, "device")?;
        entry.minor = number(337..345, "device")?;
    }
    let prefix = match format {
        Format::V7 => &[][..],
        Format::Ustar => text(field(345..500)),
        Format::Star => {
            entry.atime = Some(seconds(number(476..488, "atime")?));
            text(field(345..476))
        }
        Format::Gnu => gnu_times(block, &mut entry),
    };
    if !prefix.is_empty() {
        entry.name = [prefix, b"/", &entry.name].concat();
    }
    Ok(entry)
}

/// GNU's times; an archive that calls itself GNU but has a name prefix there is read as Go reads it.
fn gnu_times<'a>(block: &'a [u8; BLOCK], entry: &mut Entry) -> &'a [u8] {
    let field = |range: std::ops::Range<usize>| match block[range.start] {
        0 => Some(None),
        _ => numeric(&block[range]).map(|number| Some(seconds(number))),
    };
    match (field(345..357), field(357..369)) {
        (Some(atime), Some(_)) => {
            entry.atime = atime;
            &[]
        }
        _ => match text(&block[345..500]) {
            prefix if prefix.is_ascii() => prefix,
            _ => &[],
        },
    }
}

fn format(block: &[u8; BLOCK]) -> Format {
    match (&block[257..263], &block[263..265], &block[508..512]) {
        (b"ustar\0", _, b"tar\0") => Format::Star,
        (b"ustar\0", _, _) => Format::Ustar,
        (b"ustar ", b" \0", _) => Format::Gnu,
        _ => Format::V7,
    }
}

/// The sum over unsigned bytes, or, as some old programs have it, over signed ones.
fn checksum_matches(block: &[u8; BLOCK]) -> bool {
    let Some(stated) = octal(&block[148..156]) else {
        return false;
    };
    let blanked = block.iter().enumerate().map(|(at, byte)| match at {
        148..156 => b' ',
        _ => *byte,
    });
    let unsigned: i64 = blanked.clone().map(i64::from).sum();
    let signed: i64 = blanked.map(|byte| i64::from(byte as i8)).sum();
    stated == unsigned || stated == signed
}

fn seconds(seconds: i64) -> Time {
    Time { seconds, nanos: 0 }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, or two's complement in base 256 when the first bit is set.
fn numeric(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn base_256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (at, byte) in field.iter().enumerate() {
        let byte = match (at, negative) {
            (0, false) => byte & 0x7f,
            _ => *byte,
        };
        value = value.checked_mul(256)? | i128::from(byte);
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let end = field
        .iter()
        .rposition(|b| !blank(b))
        .map_or(start, |at| at + 1);
    let digits = text(&field[start..end]);
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}
