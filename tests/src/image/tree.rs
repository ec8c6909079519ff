//! Trees of files as a Python installation with native libraries has them.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use crate::random::Random;

/// Bytes of one kind in a row: more than gzip looks back, so that no kind repeats itself.
const BLOCK: usize = 64 << 10;

/// Text to take blocks from.
const TEXT: usize = 4 << 20;

/// Files in one package directory.
const PER_PACKAGE: u64 = 40;

const WORDS: [&str; 24] = [
    "def ",
    "return ",
    "self",
    "tensor",
    "import ",
    "torch",
    ".nn",
    "(",
    ")",
    ":\n    ",
    "for ",
    "in ",
    "range",
    "config",
    " = ",
    "None",
    "\n",
    "if ",
    "not ",
    "hidden_states",
    ", ",
    "raise ",
    "ValueError",
    "\"\"\"",
];

/// A tar archive with `files` files of `bytes` together.
pub(super) fn write(to: &mut dyn Write, seed: u64, bytes: u64, files: u64) -> io::Result<()> {
    let mut random = Random::new(seed);
    let mut blend = Blend::new(seed);
    let mut archive = Builder::new(to);
    let root = format!(
        "opt/venv/lib/python3.12/site-packages/p{:08x}",
        seed ^ (seed >> 32)
    );
    let (mut left, files) = (bytes, files.max(1));
    directory(&mut archive, &root)?;
    for number in 0..files {
        let package = format!("{root}/{:04}", number / PER_PACKAGE);
        if number % PER_PACKAGE == 0 {
            directory(&mut archive, &package)?;
        }
        // Between a quarter and seven quarters of an equal share, the last takes what is left.
        let share = bytes / files;
        let size = match files - number {
            1 => left,
            _ => left.min(share / 4 + random.below(share * 3 / 2 + 1)),
        };
        left -= size;
        let (ending, mode) = if number % 5 == 0 {
            ("so", 0o755)
        } else {
            ("py", 0o644)
        };
        let mut header = head(EntryType::Regular, mode);
        header.set_size(size);
        let name = format!("{package}/module_{number:05}.{ending}");
        archive.append_data(&mut header, name, (&mut blend).take(size))?;
    }
    archive.finish()
}

fn directory(archive: &mut Builder<&mut dyn Write>, path: &str) -> io::Result<()> {
    let mut header = head(EntryType::Directory, 0o755);
    archive.append_data(&mut header, format!("{path}/"), io::empty())
}

/// A header with a fixed time, owned by root.
pub(super) fn head(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_767_225_600);
    header.set_size(0);
    header
}

/// Endless content of which gzip leaves about half: random, text and zeros in turn.
struct Blend {
    random: Random,
    text: Vec<u8>,
    block: Vec<u8>,
    at: usize,
}

impl Blend {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed.rotate_left(17));
        let mut text = Vec::with_capacity(TEXT + 16);
        while text.len() < TEXT {
            text.extend_from_slice(WORDS[random.below(WORDS.len() as u64) as usize].as_bytes());
        }
        let (block, at) = (Vec::new(), 0);
        Self {
            random,
            text,
            block,
            at,
        }
    }

    fn refill(&mut self) {
        self.at = 0;
        self.block = match self.random.below(100) {
            0..41 => self.random.bytes(BLOCK),
            41..78 => {
                let start = self.random.below((TEXT - BLOCK) as u64) as usize;
                self.text[start..start + BLOCK].to_vec()
            }
            _ => {
                // Tables: mostly zeros, a small number here and there.
                let mut zeros = vec![0; BLOCK];
                for at in (0..BLOCK).step_by(16) {
                    zeros[at] = self.random.below(7) as u8;
                }
                zeros
            }
        };
    }
}

impl Read for Blend {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            self.refill();
        }
        let take = buffer.len().min(self.block.len() - self.at);
        buffer[..take].copy_from_slice(&self.block[self.at..self.at + take]);
        self.at += take;
        Ok(take)
    }
}
