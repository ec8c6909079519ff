//! Bytes that a server hands out: held in memory, as a rope of shared pieces, or in a file.
//!
//! A rope may name one piece many times, so a model of many gigabytes costs the memory of one pool
//! of random bytes. Content never changes once made.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use headstart_core::digest::{GitSha1, Sha256};
use sha2::Digest as _;

/// Largest piece read at once.
const STEP: usize = 1 << 20;

/// Immutable bytes of a known length. Clones share them.
#[derive(Clone, Debug)]
pub struct Content {
    source: Source,
    len: u64,
}

#[derive(Clone, Debug)]
enum Source {
    /// Pieces and where each begins.
    Memory(Arc<[(u64, Bytes)]>),
    File(Arc<File>),
}

impl Content {
    /// Pieces one after the other; empty ones are dropped.
    pub fn rope(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        let mut len = 0;
        let mut placed = Vec::new();
        for piece in pieces {
            if !piece.is_empty() {
                let start = len;
                len += piece.len() as u64;
                placed.push((start, piece));
            }
        }
        let source = Source::Memory(placed.into());
        Self { source, len }
    }

    /// A file as long as it is now. Whoever changes it afterwards changes what is served.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let source = Source::File(Arc::new(file));
        Ok(Self { source, len })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// At least one byte and at most `most` from offset `at`; none at the end. A file is read,
    /// memory is shared.
    ///
    /// # Errors
    /// When the file cannot be read or has become shorter.
    pub fn read_at(&self, at: u64, most: usize) -> io::Result<Bytes> {
        match &self.source {
            Source::Memory(_) => Ok(self.slice_at(at, most).unwrap_or_default()),
            Source::File(file) => {
                let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
                let mut piece = BytesMut::zeroed(most.min(left));
                file.read_exact_at(&mut piece, at)?;
                Ok(piece.freeze())
            }
        }
    }

    /// As [`Content::read_at`], when that needs no system call: none for a file or at the end.
    pub(crate) fn slice_at(&self, at: u64, most: usize) -> Option<Bytes> {
        let Source::Memory(pieces) = &self.source else {
            return None;
        };
        let index = pieces.partition_point(|(start, _)| *start <= at);
        let (start, piece) = pieces.get(index.checked_sub(1)?)?;
        let from = usize::try_from(at - start).ok()?;
        let to = piece.len().min(from.saturating_add(most));
        (from < to).then(|| piece.slice(from..to))
    }

    /// Whether reading is a system call.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    /// Everything, in one piece.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        let mut whole = BytesMut::new();
        self.each(|piece| whole.extend_from_slice(piece))?;
        Ok(whole.freeze())
    }

    /// The sha256.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sha256(&self) -> io::Result<Sha256> {
        let mut hasher = sha2::Sha256::new();
        self.each(|piece| hasher.update(piece))?;
        Ok(Sha256(hasher.finalize().into()))
    }

    /// The git blob id.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn git_sha1(&self) -> io::Result<GitSha1> {
        let mut hasher = sha1::Sha1::new();
        hasher.update(format!("blob {}\0", self.len));
        self.each(|piece| hasher.update(piece))?;
        Ok(GitSha1(hasher.finalize().into()))
    }

    fn each(&self, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
        let mut at = 0;
        while at < self.len {
            let piece = self.read_at(at, STEP)?;
            at += piece.len() as u64;
            visit(&piece);
        }
        Ok(())
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::rope([bytes])
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Bytes::copy_from_slice(text.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rope_reads_like_the_bytes_it_is_made_of() {
        let rope = Content::rope(["ab", "", "cde", "f"].map(Bytes::from));
        assert_eq!(rope.len(), 6);
        assert_eq!(rope.to_bytes().unwrap(), "abcdef");
        assert_eq!(rope.read_at(1, 9).unwrap(), "b");
        assert_eq!(rope.read_at(3, 1).unwrap(), "d");
        assert_eq!(rope.read_at(6, 1).unwrap(), "");
        assert_eq!(
            rope.sha256().unwrap(),
            Content::from("abcdef").sha256().unwrap()
        );
    }

    #[test]
    fn a_file_reads_and_hashes_like_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..3_000_001u32)
            .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
            .collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let (on_disk, in_memory) = (Content::open(file.path()).unwrap(), Content::from(bytes));
        assert_eq!(on_disk.len(), in_memory.len());
        assert_eq!(on_disk.sha256().unwrap(), in_memory.sha256().unwrap());
        assert_eq!(on_disk.git_sha1().unwrap(), in_memory.git_sha1().unwrap());
    }

    #[test]
    fn a_git_blob_id_is_what_git_says() {
        // `printf 'hello\n' | git hash-object --stdin`
        let id = Content::from("hello\n").git_sha1().unwrap();
        assert_eq!(id.to_string(), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
