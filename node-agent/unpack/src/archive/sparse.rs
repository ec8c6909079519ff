//! Maps of sparse files, PAX forms 0.0, 0.1 and 1.0.

use super::pax::{Records, decimal};
use super::{Fragment, Trouble};
use crate::error::Limit;

/// Most fragments of a file.
const FRAGMENTS: u64 = 1 << 18;

/// Where the map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// In the extended header: 0.0 and 0.1.
    InHeader,
    /// Before the data: 1.0.
    InData,
}

/// Whether the records describe a sparse file.
pub(crate) fn form(records: &Records) -> Option<Form> {
    let version = ["GNU.sparse.major", "GNU.sparse.minor"].map(|key| records.text(key));
    match version {
        [Some(b"0"), Some(b"0" | b"1")] => Some(Form::InHeader),
        [Some(b"1"), Some(b"0")] => Some(Form::InData),
        [None, None] => records.text("GNU.sparse.map").map(|_| Form::InHeader),
        _ => None,
    }
}

/// The map in the extended header: offsets and lengths with commas between.
pub(crate) fn from_header(records: &Records) -> Result<Vec<Fragment>, Trouble> {
    let invalid = || Trouble::Invalid("map of a sparse file".to_owned());
    let count = records
        .text("GNU.sparse.numblocks")
        .and_then(decimal)
        .and_then(|count| u64::try_from(count).ok())
        .ok_or_else(invalid)?;
    let numbers: Vec<u64> = match records.text("GNU.sparse.map") {
        None => Vec::new(),
        Some(map) => map
            .split(|byte| *byte == b',')
            .map(|number| decimal(number).and_then(|n| u64::try_from(n).ok()))
            .collect::<Option<_>>()
            .ok_or_else(invalid)?,
    };
    if Some(numbers.len() as u64) != count.checked_mul(2) {
        return Err(invalid());
    }
    Ok(pairs(&numbers))
}

/// Fragments must be in order, apart and inside the file.
pub(crate) fn check(fragments: &[Fragment], size: u64) -> Result<(), Trouble> {
    let mut end = 0;
    for fragment in fragments {
        match fragment.offset.checked_add(fragment.length) {
            Some(next) if fragment.offset >= end && next <= size => end = next,
            _ => return Trouble::invalid("fragments of a sparse file overlap or exceed it"),
        }
    }
    Ok(())
}

fn pairs(numbers: &[u64]) -> Vec<Fragment> {
    numbers
        .chunks_exact(2)
        .map(|pair| Fragment {
            offset: pair[0],
            length: pair[1],
        })
        .collect()
}

/// The lines of form 1.0 as they come in blocks.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    numbers: Vec<u64>,
    line: Vec<u8>,
    invalid: bool,
}

impl Lines {
    pub(crate) fn add(&mut self, block: &[u8]) {
        for byte in block {
            if self.filled() {
                return;
            }
            match byte {
                b'\n' => {
                    match decimal(&self.line).and_then(|n| u64::try_from(n).ok()) {
                        Some(number) => self.numbers.push(number),
                        None => self.invalid = true,
                    }
                    self.line.clear();
                }
                _ if self.line.len() < 20 => self.line.push(*byte),
                _ => self.invalid = true,
            }
        }
    }

    /// Whether all lines are there.
    pub(crate) fn complete(&self) -> Result<bool, Trouble> {
        if self.invalid {
            return Trouble::invalid("map of a sparse file");
        }
        match self.numbers.first() {
            Some(count) if *count > FRAGMENTS => Err(Trouble::Limit(Limit::Fragments, FRAGMENTS)),
            _ => Ok(self.filled()),
        }
    }

    pub(crate) fn fragments(&self) -> Result<Vec<Fragment>, Trouble> {
        Ok(pairs(self.numbers.get(1..).unwrap_or_default()))
    }

    fn filled(&self) -> bool {
        let count = self.numbers.first();
        count.is_some_and(|count| self.numbers.len() as u64 > count.saturating_mul(2))
    }
}
