//! A body on its way out: counted, and broken where a fault says so.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};

use super::fault::Fault;
use super::log::Record;
use crate::content::Content;

/// Bytes handed to the connection at once: large, so that a fast link costs few turns.
const PIECE: usize = 1 << 20;

/// How long a connection that is to be cut has for what it holds already: an error drops that.
const FLUSH: Duration = Duration::from_millis(30);

/// A span of some content.
#[derive(Debug)]
pub(crate) struct Payload {
    content: Content,
    span: Range<u64>,
    fault: Option<Fault>,
    sent: u64,
    record: Arc<Record>,
    /// The next piece of a file, being read while the last one is sent.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    before_cut: Option<Pin<Box<Sleep>>>,
}

impl Payload {
    pub(super) fn new(
        content: Content,
        span: Range<u64>,
        fault: Option<Fault>,
        record: Arc<Record>,
    ) -> Self {
        let (sent, reading, before_cut) = (0, None, None);
        Self {
            content,
            span,
            fault,
            sent,
            record,
            reading,
            before_cut,
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let left = usize::try_from(self.span.end - self.span.start).unwrap_or(usize::MAX);
        let most = left.min(PIECE);
        if !self.content.is_file() {
            return Poll::Ready(self.content.read_at(self.span.start, most));
        }
        let reading = self.reading.take();
        let mut reading = reading.unwrap_or_else(|| read(&self.content, self.span.start, most));
        match Pin::new(&mut reading).poll(context) {
            Poll::Pending => {
                self.reading = Some(reading);
                Poll::Pending
            }
            Poll::Ready(piece) => {
                if left > most {
                    let next = (left - most).min(PIECE);
                    self.reading = Some(read(&self.content, self.span.start + most as u64, next));
                }
                Poll::Ready(piece.unwrap_or_else(|error| Err(io::Error::other(error))))
            }
        }
    }
}

fn read(content: &Content, at: u64, most: usize) -> JoinHandle<io::Result<Bytes>> {
    let content = content.clone();
    tokio::task::spawn_blocking(move || content.read_at(at, most))
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if this.span.is_empty() {
            return Poll::Ready(None);
        }
        match this.fault {
            Some(Fault::Cut { after }) if this.sent >= after => {
                let wait = this
                    .before_cut
                    .get_or_insert_with(|| Box::pin(sleep(FLUSH)));
                ready!(wait.as_mut().poll(context));
                let cut = io::Error::new(io::ErrorKind::ConnectionAborted, "cut by a fault");
                return Poll::Ready(Some(Err(cut)));
            }
            // Nobody wakes it: the connection stays as it is until a side gives up.
            Some(Fault::Stall { after }) if this.sent >= after => return Poll::Pending,
            _ => {}
        }
        let mut piece = ready!(this.poll_piece(context))?;
        let start = this.span.start;
        match this.fault {
            Some(Fault::Cut { after } | Fault::Stall { after }) => {
                let most = usize::try_from(after - this.sent).unwrap_or(usize::MAX);
                piece.truncate(most);
            }
            Some(Fault::Tamper { at }) if (start..start + piece.len() as u64).contains(&at) => {
                let mut copy = BytesMut::from(piece.as_ref());
                copy[(at - start) as usize] ^= 0xff;
                piece = copy.freeze();
            }
            _ => {}
        }
        this.span.start += piece.len() as u64;
        this.sent += piece.len() as u64;
        this.record.sent(piece.len());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.span.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.span.end - self.span.start)
    }
}
