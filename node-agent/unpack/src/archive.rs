//! Tar as containerd reads it, that is, as Go's `archive/tar` does: V7, ustar, PAX, GNU and STAR
//! headers, the three PAX forms of sparse files; what Go refuses is refused.
//!
//! Only parsing: no file is touched here. Global PAX headers come out as entries of type `g` and
//! change nothing for those that follow. GNU's own sparse type (`S`) is left as an unknown type,
//! since containerd does not unpack it.

use std::io::{self, BufRead};

use crate::error::{Limit, Os, UnpackError};

mod header;
mod pax;
mod sparse;

pub(crate) const BLOCK: usize = 512;

/// Most bytes of a PAX header or a GNU long name, as in Go.
const SPECIAL: u64 = 1 << 20;

/// A moment, seconds and nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

impl Time {
    /// As containerd sets it: what is before the epoch or beyond 64 bits of nanoseconds is the epoch.
    pub(crate) fn bounded(self) -> Self {
        let last = Self {
            seconds: i64::MAX / 1_000_000_000,
            nanos: (i64::MAX % 1_000_000_000) as u32,
        };
        match self.seconds < 0 || self > last {
            true => Self::default(),
            false => self,
        }
    }
}

/// A piece of a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// One entry; its data follow in the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Size of the file that results, holes included.
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(crate) atime: Option<Time>,
    pub(crate) major: i64,
    pub(crate) minor: i64,
    /// Names and values of `SCHILY.xattr.*`.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The fragments of a sparse file, in order; `None` for all other files.
    pub(crate) fragments: Option<Vec<Fragment>>,
}

impl Entry {
    /// Times as containerd sets them: access time no earlier than modification time.
    pub(crate) fn times(&self) -> (Time, Time) {
        let latest = self.atime.map_or(self.mtime, |atime| atime.max(self.mtime));
        (latest.bounded(), self.mtime.bounded())
    }
}

/// Why an archive cannot be read on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It is malformed.
    Invalid(String),
    /// Its bytes stopped.
    Read(io::Error),
    /// It exceeds a limit.
    Limit(Limit, u64),
}

impl Trouble {
    fn invalid<T>(found: impl Into<String>) -> Result<T, Self> {
        Err(Self::Invalid(found.into()))
    }

    /// The public form, for entry number `entry`.
    pub(crate) fn at(self, entry: u64) -> UnpackError {
        match self {
            Self::Invalid(found) => UnpackError::Archive { entry, found },
            Self::Read(error) => UnpackError::Read {
                cause: Os::of(&error),
            },
            Self::Limit(limit, allowed) => UnpackError::Limit { limit, allowed },
        }
    }
}

/// An archive that is read once, front to back.
pub(crate) struct Archive<R> {
    reader: R,
    /// Data of the current entry not read yet.
    remaining: u64,
    /// Bytes up to the next block after those.
    padding: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            remaining: 0,
            padding: 0,
        }
    }

    /// The next entry; what is left of the last one's data is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Trouble> {
        let mut records = pax::Records::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            let mut entry = header::parse(&block)?;
            match entry.kind {
                b'x' | b'g' => {
                    let text = self.special(entry.size)?;
                    let parsed = pax::Records::parse(&text)?;
                    if entry.kind == b'g' {
                        parsed.merge(&mut entry)?;
                        entry.size = 0;
                        entry.xattrs.clear();
                        return Ok(Some(entry));
                    }
                    records = parsed;
                }
                b'L' | b'K' => {
                    let mut name = self.special(entry.size)?;
                    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
                    name.truncate(end);
                    match entry.kind {
                        b'L' => long_name = Some(name),
                        _ => long_link = Some(name),
                    }
                }
                _ => {
                    records.merge(&mut entry)?;
                    entry.name = long_name.unwrap_or(entry.name);
                    entry.link = long_link.unwrap_or(entry.link);
                    if entry.kind == 0 {
                        entry.kind = match entry.name.ends_with(b"/") {
                            true => b'5',
                            false => b'0',
                        };
                    }
                    self.begin(match has_data(entry.kind) {
                        true => entry.size,
                        false => 0,
                    });
                    self.sparse(&mut entry, &records)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next piece of the current entry's data, at most `most` bytes; empty at its end.
    pub(crate) fn data(&mut self, most: u64) -> Result<&[u8], Trouble> {
        let most = most.min(self.remaining);
        if most == 0 {
            return Ok(&[]);
        }
        let available = self.reader.fill_buf().map_err(Trouble::Read)?;
        if available.is_empty() {
            return Trouble::invalid("file data end early");
        }
        Ok(&available[..available.len().min(most as usize)])
    }

    /// Moves on by `amount` bytes of what [`Self::data`] gave.
    pub(crate) fn advance(&mut self, amount: usize) {
        self.reader.consume(amount);
        self.remaining -= amount as u64;
    }

    /// Reads whatever follows the archive, so that it is hashed.
    pub(crate) fn drain(&mut self) -> Result<(), Trouble> {
        loop {
            let length = self.reader.fill_buf().map_err(Trouble::Read)?.len();
            if length == 0 {
                return Ok(());
            }
            self.reader.consume(length);
        }
    }

    fn begin(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<(), Trouble> {
        while self.remaining > 0 {
            let length = self.data(u64::MAX)?.len();
            self.advance(length);
        }
        while self.padding > 0 {
            let available = self.reader.fill_buf().map_err(Trouble::Read)?.len();
            if available == 0 {
                return Trouble::invalid("archive ends inside a block");
            }
            let length = available.min(self.padding as usize);
            self.reader.consume(length);
            self.padding -= length as u64;
        }
        Ok(())
    }

    /// The next header block, or nothing at the end: two blocks of zeros, or no more bytes.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Trouble> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if second.iter().any(|b| *b != 0) => {
                Trouble::invalid("a block of zeros between headers")
            }
            _ => Ok(None),
        }
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Trouble> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let available = self.reader.fill_buf().map_err(Trouble::Read)?;
            if available.is_empty() {
                return match filled {
                    0 => Ok(None),
                    _ => Trouble::invalid("archive ends inside a block"),
                };
            }
            let length = available.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&available[..length]);
            self.reader.consume(length);
            filled += length;
        }
        Ok(Some(block))
    }

    /// All data of an entry that describes the next one.
    fn special(&mut self, size: u64) -> Result<Vec<u8>, Trouble> {
        if size > SPECIAL {
            return Trouble::invalid(format!("extended header of {size} bytes"));
        }
        self.begin(size);
        let mut data = Vec::with_capacity(size as usize);
        while self.remaining > 0 {
            let piece = self.data(u64::MAX)?;
            let length = piece.len();
            data.extend_from_slice(piece);
            self.advance(length);
        }
        Ok(data)
    }

    fn sparse(&mut self, entry: &mut Entry, records: &pax::Records) -> Result<(), Trouble> {
        let Some(form) = sparse::form(records) else {
            return Ok(());
        };
        if let Some(name) = records.text("GNU.sparse.name") {
            entry.name = name.to_owned();
        }
        if let Some(size) = records
            .text("GNU.sparse.size")
            .or_else(|| records.text("GNU.sparse.realsize"))
        {
            entry.size = pax::decimal(size)
                .and_then(|size| u64::try_from(size).ok())
                .ok_or_else(|| Trouble::Invalid("size of a sparse file".to_owned()))?;
        }
        let fragments = match form {
            sparse::Form::InHeader => sparse::from_header(records)?,
            sparse::Form::InData => self.map_in_data()?,
        };
        sparse::check(&fragments, entry.size)?;
        let stored: u64 = fragments.iter().map(|f| f.length).sum();
        if !has_data(entry.kind) || stored != self.remaining {
            return Trouble::invalid("map of a sparse file does not match its data");
        }
        entry.fragments = Some(fragments);
        Ok(())
    }

    /// The map of PAX form 1.0: decimal lines, in whole blocks before the data.
    fn map_in_data(&mut self) -> Result<Vec<Fragment>, Trouble> {
        let mut lines = sparse::Lines::default();
        while !lines.complete()? {
            if self.remaining < BLOCK as u64 {
                return Trouble::invalid("map of a sparse file ends early");
            }
            let Some(block) = self.block()? else {
                return Trouble::invalid("map of a sparse file ends early");
            };
            self.remaining -= BLOCK as u64;
            lines.add(&block);
        }
        lines.fragments()
    }
}

/// Whether entries of this type carry data; the others' size means nothing.
fn has_data(kind: u8) -> bool {
    !matches!(kind, b'1'..=b'6')
}

#[cfg(test)]
mod tests;
