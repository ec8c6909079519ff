//! From the layer's bytes to its tar stream: gzip of any number of members, zstd of any number of
//! frames, or nothing at all, told apart by the first bytes as containerd does.
//!
//! The tar stream leaves in buffers that come back, so memory does not grow with the layer. What
//! comes out is held against the limits before anybody sees it.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use crate::error::{Limit, Os, UnpackError};
use crate::{Limits, RATIO_SLACK};

/// Bytes of tar stream that travel together: large enough for few system calls, small enough to
/// stay in a core's cache between inflating, hashing and writing.
pub(crate) const CHUNK: usize = 256 << 10;

/// Input buffer.
const INPUT: usize = 128 << 10;

/// A piece of the tar stream on its way to the hash and to the applier.
pub(crate) type Chunk = Arc<Vec<u8>>;

/// How the layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Gzip,
    Zstd,
    Tar,
}

impl Format {
    /// By the first bytes; a zstd stream may begin with a skippable frame.
    pub(crate) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Tar,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Tar => "tar",
        }
    }
}

/// Where pieces of the tar stream go, and where empty buffers come from.
pub(crate) struct Outlets {
    pub(crate) hash: SyncSender<Chunk>,
    pub(crate) apply: SyncSender<Chunk>,
    pub(crate) used: Receiver<Vec<u8>>,
}

/// Gives a buffer back once both readers are done with it.
pub(crate) fn give_back(chunk: Chunk, used: &Sender<Vec<u8>>) {
    if let Some(buffer) = Arc::into_inner(chunk) {
        // Nobody listens once the stream has ended.
        let _ = used.send(buffer);
    }
}

/// What went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) compressed: u64,
    pub(crate) tar: u64,
}

/// Inflates until the end of the stream, or until nobody applies any more.
pub(crate) fn run(
    reader: impl Read,
    limits: &Limits,
    outlets: &Outlets,
) -> Result<Amounts, UnpackError> {
    let mut input = Counted {
        inner: reader,
        count: 0,
        failure: None,
    };
    let head = head(&mut input).map_err(|error| UnpackError::Read {
        cause: Os::of(&error),
    })?;
    let format = Format::of(&head);
    let input = BufReader::with_capacity(INPUT, io::Cursor::new(head).chain(input));
    let mut decoder =
        Decoder::new(format, input, limits).map_err(|error| damaged(format, &error))?;
    let mut tar = 0;
    loop {
        let mut buffer = outlets.used.try_recv().unwrap_or_default();
        buffer.resize(CHUNK, 0);
        let filled = match fill(&mut decoder, &mut buffer) {
            Ok(filled) => filled,
            Err(error) => {
                return Err(match decoder.counted().failure.take() {
                    Some(cause) => UnpackError::Read { cause },
                    None => damaged(format, &error),
                });
            }
        };
        let compressed = decoder.counted().count;
        if filled == 0 {
            return Ok(Amounts { compressed, tar });
        }
        tar += filled as u64;
        within(limits, format, compressed, tar)?;
        buffer.truncate(filled);
        let chunk = Arc::new(buffer);
        // A reader is gone only when the layer has already failed.
        if outlets.hash.send(Arc::clone(&chunk)).is_err() || outlets.apply.send(chunk).is_err() {
            return Ok(Amounts { compressed, tar });
        }
    }
}

fn within(limits: &Limits, format: Format, compressed: u64, tar: u64) -> Result<(), UnpackError> {
    if tar > limits.bytes {
        return Err(UnpackError::Limit {
            limit: Limit::Bytes,
            allowed: limits.bytes,
        });
    }
    let most = compressed
        .saturating_mul(limits.ratio)
        .saturating_add(RATIO_SLACK);
    if format != Format::Tar && tar > most {
        return Err(UnpackError::Limit {
            limit: Limit::Ratio,
            allowed: limits.ratio,
        });
    }
    Ok(())
}

fn damaged(format: Format, error: &io::Error) -> UnpackError {
    UnpackError::Compression {
        format: format.name().to_owned(),
        found: error.to_string(),
    }
}

/// Up to four first bytes.
fn head(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    input.by_ref().take(4).read_to_end(&mut head)?;
    Ok(head)
}

/// Reads until the buffer is full or the stream ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Counts what is read, and remembers a failure that is the input's and not the decoder's.
struct Counted<R> {
    inner: R,
    count: u64,
    failure: Option<Os>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.count += read as u64;
                Ok(read)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::Interrupted {
                    self.failure = Some(Os::of(&error));
                }
                Err(error)
            }
        }
    }
}

type Input<R> = BufReader<io::Chain<io::Cursor<Vec<u8>>, Counted<R>>>;

enum Decoder<R: Read> {
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Input<R>>),
    Tar(Input<R>),
}

impl<R: Read> Decoder<R> {
    fn new(format: Format, input: Input<R>, limits: &Limits) -> io::Result<Self> {
        Ok(match format {
            Format::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(limits.zstd_window_log)?;
                Self::Zstd(decoder)
            }
            Format::Tar => Self::Tar(input),
        })
    }

    fn counted(&mut self) -> &mut Counted<R> {
        let input = match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
            Self::Tar(input) => input,
        };
        input.get_mut().get_mut().1
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
            Self::Tar(input) => input.read(buffer),
        }
    }
}

/// The applier's end: the pieces as one stream to read from.
pub(crate) struct Feed {
    chunks: Receiver<Chunk>,
    used: Sender<Vec<u8>>,
    current: Option<Chunk>,
    at: usize,
}

impl Feed {
    pub(crate) fn new(chunks: Receiver<Chunk>, used: Sender<Vec<u8>>) -> Self {
        Self {
            chunks,
            used,
            current: None,
            at: 0,
        }
    }
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.as_ref().is_none_or(|c| self.at == c.len()) {
            if let Some(chunk) = self.current.take() {
                give_back(chunk, &self.used);
            }
            self.current = self.chunks.recv().ok();
            self.at = 0;
        }
        Ok(self.current.as_ref().map_or(&[], |c| &c[self.at..]))
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
