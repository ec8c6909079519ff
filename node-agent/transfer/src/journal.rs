//! The journal beside a partial file: which of its bytes have landed.
//!
//! One line per write, appended after the bytes: `offset length`. It is not synced with them, so
//! it tells the truth after a killed process and may lie after a power loss; a line `= n` says that
//! the bytes of the first `n` lines after the header were made durable. A reader therefore trusts
//! every line if the machine has not rebooted since, else as many as the last `=` says. Whatever it says is only ever a hint
//! about what need not be fetched again: the blob is hashed from its first byte to its last before
//! anyone sees it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::ops::Range;

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

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// Lines after the header.
    lines: usize,
}

impl Journal {
    /// Reads what `file` says has landed of the blob, and leaves it positioned for appending.
    /// A journal of another blob, of another format or with a line that cannot be says nothing.
    pub(crate) fn open(
        mut file: File,
        expected: &Expected,
        size: u64,
        boot: &BootId,
    ) -> io::Result<(Self, RangeSet)> {
        let mut text = Vec::new();
        (&mut file).take(MAX_BYTES).read_to_end(&mut text)?;
        let mut header = vec![FORMAT.to_owned(), expected.to_string(), size.to_string()];
        let landed = landed(&text, &header, size, boot);
        // Rewritten so that lines no longer trusted, or torn, cannot speak later.
        header.push(boot.0.clone());
        let mut whole = header.join(" ") + "\n";
        whole.extend(landed.iter().map(|range| line(&range)));
        let lines = landed.iter().count();
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(whole.as_bytes())?;
        Ok((Self { file, lines }, landed))
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
        expected: &Expected,
        size: u64,
        boot: &BootId,
    ) -> io::Result<()> {
        self.lines = 0;
        self.file.set_len(0)?;
        self.file.rewind()?;
        let header = format!("{FORMAT} {expected} {size} {}\n", boot.0);
        self.file.write_all(header.as_bytes())
    }
}

fn line(range: &Range<u64>) -> String {
    format!("{} {}\n", range.start, range.end - range.start)
}

fn landed(text: &[u8], header: &[String], size: u64, boot: &BootId) -> RangeSet {
    let Ok(text) = std::str::from_utf8(text) else {
        return RangeSet::default();
    };
    let Some((first, body)) = text.split_once('\n') else {
        return RangeSet::default();
    };
    let Some(written_in) = first
        .strip_prefix(&header.join(" "))
        .and_then(|rest| rest.strip_prefix(' '))
    else {
        return RangeSet::default();
    };
    // A kill in the middle of a write tears the last line only.
    let whole_lines = body.rfind('\n').map_or("", |end| &body[..end]);
    let durable = |line: &str| line.strip_prefix("= ")?.parse::<usize>().ok();
    let trusted = match boot.same_boot(written_in) {
        true => usize::MAX,
        false => whole_lines.lines().rev().find_map(durable).unwrap_or(0),
    };
    let mut set = RangeSet::default();
    for line in whole_lines.lines().take(trusted) {
        if durable(line).is_some() {
            continue;
        }
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let (Some(Ok(start)), Some(Ok(length)), None) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return RangeSet::default();
        };
        match start.checked_add(length) {
            Some(end) if end <= size && length > 0 => set.insert(start..end),
            _ => return RangeSet::default(),
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected::Sha256(headstart_core::digest::Sha256([7; 32]))
    }

    /// Start and end of what a journal says has landed.
    fn reopen(path: &std::path::Path, boot: &str) -> Vec<(u64, u64)> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let boot = BootId::named(boot);
        let (_, landed) = Journal::open(file.unwrap(), &expected(), 100, &boot).unwrap();
        landed
            .iter()
            .map(|range| (range.start, range.end))
            .collect()
    }

    fn written(dir: &tempfile::TempDir) -> std::path::PathBuf {
        let path = dir.path().join("journal");
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        let boot = BootId::named("boot-1");
        let (mut journal, landed) = Journal::open(file, &expected(), 100, &boot).unwrap();
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
        std::fs::remove_file(&path).unwrap();
        let path = written(&dir);
        assert_eq!(reopen(&path, "boot-2"), vec![(0, 10)]);
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
