//! Where a lane puts bytes: a partial file, or a stream that somebody reads in order.

use std::io;
use std::ops::Range;

use bytes::Bytes;

pub(crate) use self::file::FileSink;
pub(crate) use self::stream::StreamSink;

mod file;
mod stream;

/// Takes the bytes of one blob, in any order, each byte once.
pub(crate) trait Sink: Send + Sync {
    /// Puts `pieces`, which are contiguous from `offset`. Blocks; called off the async threads.
    fn put(&self, offset: u64, pieces: Vec<Bytes>) -> io::Result<()>;

    /// The range of offsets that may be asked for now. A stream grants what its reader has room
    /// for; a file grants everything.
    fn window(&self) -> Range<u64>;
}
