//! A blob that somebody reads in order while it is fetched out of order: a layer on its way into
//! the unpacker. Nothing of it touches the disk.
//!
//! Memory is bounded by the window: lanes are granted only offsets that the reader has room for.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use super::Sink;

/// Most bytes handed to the reader at once.
const READ: usize = 1 << 20;

/// The reorder buffer of one stream.
#[derive(Debug)]
pub(crate) struct StreamSink {
    size: u64,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug)]
struct State {
    /// Pieces not read yet, by offset. Contiguous ones are not joined.
    pieces: BTreeMap<u64, Bytes>,
    /// Everything before has been read.
    read: u64,
    /// Room beyond `read`, bytes.
    room: u64,
}

impl StreamSink {
    /// A stream of `size` bytes that buffers at most `room`.
    pub(crate) fn new(size: u64, room: u64) -> Self {
        Self {
            size,
            state: Mutex::new(State {
                pieces: BTreeMap::new(),
                read: 0,
                room,
            }),
            arrived: Notify::new(),
        }
    }

    /// The next contiguous pieces, at most a MiB or one piece; none at the end of the blob. The
    /// window moves on by what is returned.
    pub(crate) async fn next(&self) -> Option<Vec<Bytes>> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = self.lock();
                if state.read == self.size {
                    return None;
                }
                let taken = state.take_contiguous();
                if !taken.is_empty() {
                    return Some(taken);
                }
            }
            arrived.await;
        }
    }

    /// Changes how much is buffered from now on.
    pub(crate) fn set_room(&self, room: u64) {
        self.lock().room = room;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn take_contiguous(&mut self) -> Vec<Bytes> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < READ
            && let Some(entry) = self.pieces.first_entry()
            && *entry.key() == self.read
        {
            let piece = entry.remove();
            self.read += piece.len() as u64;
            bytes += piece.len();
            taken.push(piece);
        }
        taken
    }
}

impl Sink for StreamSink {
    fn put(&self, mut offset: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        let mut state = self.lock();
        for piece in pieces {
            let length = piece.len() as u64;
            state.pieces.insert(offset, piece);
            offset += length;
        }
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    fn window(&self) -> Range<u64> {
        let state = self.lock();
        state.read..(state.read + state.room).min(self.size)
    }
}
