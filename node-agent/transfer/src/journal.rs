//! The journal beside a partial file: which of its bytes have landed.
//!
//! One line per write, appended after the bytes: `offset length`. It is not synced with them, so
//! it tells the truth after a killed process and may lie after a power loss; a line `= n` says that
//! the bytes of the first `n` lines after the header were made durable. A reader therefore trusts
//! every line if the machine has not rebooted since, else as many as the last `=` says. It is
//! rewritten, shorter, each time it is opened, beside itself and renamed: at no point does less
//! stand on the disk than was known.
//!
//! Whatever it says is only ever a hint about what need not be fetched again: the blob is hashed
//! from its first byte to its last before anyone sees it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use headstart_core::digest::Expected;
use headstart_core::ranges::RangeSet;

/// Version of the format below, the first word of the first line.
const FORMAT: &str = "headstart-journal-1";

/// Largest journal read: 64 bytes for each of a million writes.
const MAX_BYTES: u64 = 64 << 20;

/// Identifies one run of the kernel, so that a journal written before a power loss is known as
/// such: the text of `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// This boot's id; where the kernel tells none, one that equals no other.
    pub fn of_this_machine() -> Self {
        let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self(told.trim().to_owned())
    }

    /// An id by name.
    pub fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    fn same_boot(&self, other: &str) -> bool {
        !self.0.is_empty() && self.0 == other
    }
}

impl std::fmt::Display for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// Lines after the header.
    lines: usize,
}

impl Journal {
    /// Reads what the journal at `path` says has landed of the blob, and leaves it open for
    /// appending. A journal that is not there, of another blob, of another format or with a line
    /// that cannot be says nothing.
    pub(crate) fn open(
        path: &Path,
        expected: &Expected,
        size: u64,
        boot: &BootId,
    ) -> io::Result<(Self, RangeSet)> {
        let mut text = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(MAX_BYTES).read_to_end(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let known = Known::read(&text, expected, size, boot);
        let journal = Self::create(path, expected, size, boot, &known)?;
        Ok((journal, known.landed))
    }

    /// Puts a journal that says `known` in the place of whatever is at `path`.
    fn create(
        path: &Path,
        expected: &Expected,
        size: u64,
        boot: &BootId,
        known: &Known,
    ) -> io::Result<Self> {
        let mut text = format!("{FORMAT} {expected} {size} {}\n", boot.0);
        text.extend(known.durable.iter().map(|range| line(&range)));
        let durable = known.durable.iter().count();
        text += &format!("= {durable}\n");
        text.extend(known.undurable().iter().map(|range| line(&range)));
        let lines = durable + 1 + known.undurable().iter().count();
        let beside = path.with_extension("journal-new");
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        if !known.landed.is_empty() {
            file.sync_data()?;
        }
        std::fs::rename(&beside, path)?;
        Ok(Self { file, lines })
    }

    /// Notes that the bytes of `range` have been written.
    pub(crate) fn landed(&mut self, range: Range<u64>) -> io::Result<()> {
        self.lines += 1;
        self.file.write_all(line(&range).as_bytes())
    }

    /// Lines so far: what a sync of the data that begins now will cover.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    /// Notes that the bytes of the first `lines` lines are durable, durably. Blocks for a sync of
    /// the journal.
    pub(crate) fn durable(&mut self, lines: usize) -> io::Result<()> {
        self.lines += 1;
        self.file.write_all(format!("= {lines}\n").as_bytes())?;
        self.file.sync_data()
    }

    /// Forgets everything: the bytes were wrong.
    pub(crate) fn clear(
        &mut self,
        path: &Path,
        expected: &Expected,
        size: u64,
        boot: &BootId,
    ) -> io::Result<()> {
        *self = Self::create(path, expected, size, boot, &Known::default())?;
        Ok(())
    }
}

/// What a journal is believed.
#[derive(Default)]
struct Known {
    landed: RangeSet,
    /// What of it will be there after a power loss.
    durable: RangeSet,
}

impl Known {
    fn read(text: &[u8], expected: &Expected, size: u64, boot: &BootId) -> Self {
        Self::try_read(text, expected, size, boot).unwrap_or_default()
    }

    fn try_read(text: &[u8], expected: &Expected, size: u64, boot: &BootId) -> Option<Self> {
        let (header, body) = text.split_at(text.iter().position(|byte| *byte == b'\n')?);
        let ours = format!("{FORMAT} {expected} {size} ");
        let written_in = std::str::from_utf8(header).ok()?.strip_prefix(&ours)?;
        // A kill in the middle of a write tears the last line only; after a power loss anything
        // may stand behind what was synced.
        let whole = &body[1..=body.iter().rposition(|byte| *byte == b'\n')?];
        let lines: Vec<&str> = whole
            .split(|byte| *byte == b'\n')
            .map(|line| std::str::from_utf8(line).unwrap_or("?"))
            .collect();
        let lines = &lines[..lines.len() - 1];
        let mark = |line: &&str| line.strip_prefix("= ")?.parse::<usize>().ok();
        let durable = lines.iter().rev().find_map(mark).unwrap_or(0);
        let trusted = match boot.same_boot(written_in) {
            true => lines.len(),
            false => durable.min(lines.len()),
        };
        let mut known = Self::default();
        for (index, line) in lines[..trusted].iter().enumerate() {
            if mark(line).is_some() {
                continue;
            }
            let range = range(line, size)?;
            if index < durable {
                known.durable.insert(range.clone());
            }
            known.landed.insert(range);
        }
        Some(known)
    }

    fn undurable(&self) -> RangeSet {
        let mut set = self.landed.clone();
        self.durable.iter().for_each(|range| set.remove(range));
        set
    }
}

/// A line of [`line()`]; none if it cannot be one of a blob of `size` bytes.
fn range(text: &str, size: u64) -> Option<Range<u64>> {
    let (start, length) = text.split_once(' ')?;
    let (start, length): (u64, u64) = (start.parse().ok()?, length.parse().ok()?);
    let end = start.checked_add(length)?;
    (end <= size && length > 0).then_some(start..end)
}

fn line(range: &Range<u64>) -> String {
    format!("{} {}\n", range.start, range.end - range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected::Sha256(headstart_core::digest::Sha256([7; 32]))
    }

    /// Start and end of what a journal says has landed.
    fn reopen(path: &Path, boot: &str) -> Vec<(u64, u64)> {
        let boot = BootId::named(boot);
        let (_, landed) = Journal::open(path, &expected(), 100, &boot).unwrap();
        landed
            .iter()
            .map(|range| (range.start, range.end))
            .collect()
    }

    fn written(dir: &tempfile::TempDir) -> std::path::PathBuf {
        let path = dir.path().join("journal");
        let boot = BootId::named("boot-1");
        let (mut journal, landed) = Journal::open(&path, &expected(), 100, &boot).unwrap();
        assert!(landed.is_empty());
        journal.landed(0..10).unwrap();
        let lines = journal.lines();
        journal.landed(50..60).unwrap();
        journal.durable(lines).unwrap();
        path
    }

    #[test]
    fn a_journal_of_this_boot_is_believed_and_one_of_another_only_where_it_was_durable() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(&dir);
        assert_eq!(reopen(&path, "boot-1"), [(0, 10), (50, 60)]);
        assert_eq!(reopen(&path, "boot-1"), [(0, 10), (50, 60)]);
        assert_eq!(reopen(&path, "boot-2"), [(0, 10)]);
        assert_eq!(reopen(&path, "boot-3"), [(0, 10)], "it is still durable");
    }

    #[test]
    fn rubbish_behind_what_was_durable_takes_nothing_away_after_a_power_loss() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(&dir);
        let mut text = std::fs::read(&path).unwrap();
        text.extend(b"\0\0\xff\n\0\0\n");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(reopen(&path, "boot-2"), [(0, 10)]);
    }

    #[test]
    fn a_torn_last_line_is_dropped_and_the_rest_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(&dir);
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "70 1";
        std::fs::write(&path, text).unwrap();
        assert_eq!(reopen(&path, "boot-1"), [(0, 10), (50, 60)]);
    }

    #[test]
    fn a_journal_that_says_what_cannot_be_is_not_believed_at_all() {
        for lie in [
            "90 20\n",
            "5\n",
            "x y\n",
            "18446744073709551615 2\n",
            "1 2 3\n",
            "5 0\n",
            "= x\n",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = written(&dir);
            let text = std::fs::read_to_string(&path).unwrap() + lie;
            std::fs::write(&path, text).unwrap();
            assert_eq!(reopen(&path, "boot-1"), [], "{lie:?}");
        }
    }

    #[test]
    fn a_journal_of_another_blob_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(&dir);
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace(" 100 ", " 1000 ");
        std::fs::write(&path, text).unwrap();
        assert_eq!(reopen(&path, "boot-1"), []);
    }
}
