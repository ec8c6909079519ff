//! Links with a rate, a delay and a cap per connection.
//!
//! A link shapes what a server *sends*. All connections of one link share its total rate fairly:
//! each asks for the next few milliseconds' worth of bytes and waits its turn, so a slow reader
//! keeps no more than one turn from the others. Time lost to a late wake-up is made good, time in
//! which nobody had anything to send is not. The shape may change while bytes flow.
//!
//! Deliberately absent: loss, reordering and congestion control; the kernel's own loopback has
//! none of them either.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use headstart_core::quantity::Rate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::proxy::Proxy;

mod proxy;

/// How long one turn on the link lasts at full rate: long against a timer's millisecond.
const TURN: Duration = Duration::from_millis(2);

/// Bounds of one turn in bytes.
const TURN_BYTES: (u64, u64) = (1 << 10, 1 << 20);

/// How far a late sender may catch up. Longer than a scheduler's usual hiccup, short enough that
/// an idle link saves up nothing to speak of.
const CATCH_UP: Duration = Duration::from_millis(20);

/// The longest sleep before the shape is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// What a link is like. The default has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes per second of all connections together. Zero is an outage.
    pub total: Option<Rate>,
    /// Bytes per second of each connection. Zero is an outage.
    pub per_connection: Option<Rate>,
    /// Time between a request's arrival and the first byte of its answer; a new connection waits
    /// once more, as its handshake would.
    pub delay: Duration,
}

/// A link that any number of connections share. Clones are the same link.
#[derive(Clone, Debug, Default)]
pub struct Link(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    opened: AtomicU64,
    open: AtomicU64,
    sent: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    shape: Shape,
    /// Counts the changes of shape: a turn granted under an earlier one is void.
    epoch: u64,
    pacer: Pacer,
}

/// When the next turn may begin.
#[derive(Debug, Default)]
struct Pacer(Option<Instant>);

impl Pacer {
    /// Takes the next turn of `bytes` at `rate`: when it begins.
    fn take(&mut self, now: Instant, bytes: u64, rate: Rate) -> Instant {
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        let begin = self.0.map_or(now, |next| next.max(earliest));
        self.0 = Some(begin + Duration::from_secs_f64(bytes as f64 / rate.0 as f64));
        begin
    }
}

impl Link {
    /// A link of that shape.
    pub fn new(shape: Shape) -> Self {
        let link = Self::default();
        link.set(shape);
        link
    }

    /// Changes the shape, for connections that are open too.
    pub fn set(&self, shape: Shape) {
        let mut state = self.state();
        let epoch = state.epoch + 1;
        *state = State {
            shape,
            epoch,
            pacer: Pacer::default(),
        };
    }

    /// The shape now.
    pub fn shape(&self) -> Shape {
        self.state().shape
    }

    /// Connections made over it so far.
    pub fn connections(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.0.open.load(Ordering::Relaxed)
    }

    /// Bytes sent over it so far.
    pub fn bytes_sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Puts an accepted connection behind the link.
    pub fn carry(&self, stream: TcpStream) -> Shaped {
        Shaped {
            stream,
            gate: Gate::open(self.clone()),
        }
    }

    /// As [`Link::carry`], for who makes the delay himself.
    fn carry_undelayed(&self, stream: TcpStream) -> Shaped {
        let mut shaped = self.carry(stream);
        shaped.gate.is_delayed = false;
        shaped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place on a link.
#[derive(Debug)]
struct Gate {
    link: Link,
    epoch: u64,
    pacer: Pacer,
    turn: Turn,
    sleep: Pin<Box<Sleep>>,
    /// Bytes of an answer may not leave before.
    not_before: Instant,
    /// Whether a write waits, so that what arrives meanwhile is no new request.
    sending: bool,
    /// Whether the delay is made here.
    is_delayed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    None,
    /// The connection's own cap allows `bytes` at that time.
    Capped {
        at: Instant,
        bytes: u64,
    },
    /// The link allows them too.
    Granted {
        at: Instant,
        bytes: u64,
    },
}

impl Gate {
    fn open(link: Link) -> Self {
        link.0.opened.fetch_add(1, Ordering::Relaxed);
        link.0.open.fetch_add(1, Ordering::Relaxed);
        let (now, shape, epoch) = {
            let state = link.state();
            (Instant::now(), state.shape, state.epoch)
        };
        Self {
            epoch,
            link,
            pacer: Pacer::default(),
            turn: Turn::None,
            sleep: Box::pin(sleep_until(now)),
            not_before: now + shape.delay,
            sending: false,
            is_delayed: true,
        }
    }

    /// Something arrived: what answers it may leave `delay` later.
    fn arrived(&mut self) {
        let delay = self.link.shape().delay;
        if self.is_delayed && !delay.is_zero() && !self.sending {
            let now = Instant::now();
            // A handshake's delay that is not over yet comes on top.
            self.not_before = self.not_before.max(now) + delay;
        }
    }

    /// How many of `wanted` bytes may be written now.
    fn poll(&mut self, context: &mut Context<'_>, wanted: usize) -> Poll<u64> {
        self.sending = true;
        loop {
            let now = Instant::now();
            let Some(wait) = self.step(now, wanted as u64) else {
                let Turn::Granted { bytes, .. } = self.turn else {
                    return Poll::Ready(wanted as u64);
                };
                return Poll::Ready(bytes);
            };
            self.sleep.as_mut().reset(wait.min(now + LOOK_AGAIN));
            ready!(self.sleep.as_mut().poll(context));
        }
    }

    /// Until when to wait; none once a turn is granted, or nothing limits.
    fn step(&mut self, now: Instant, wanted: u64) -> Option<Instant> {
        let mut state = self
            .link
            .0
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if state.epoch != self.epoch {
            self.epoch = state.epoch;
            self.turn = Turn::None;
            self.pacer = Pacer::default();
        }
        if self.is_delayed && now < self.not_before {
            return Some(self.not_before);
        }
        let Shape {
            total,
            per_connection,
            ..
        } = state.shape;
        let slowest = [total, per_connection].into_iter().flatten().min()?;
        if slowest.0 == 0 {
            return Some(now + LOOK_AGAIN);
        }
        if let Turn::None = self.turn {
            let turn = (slowest.0 as f64 * TURN.as_secs_f64()) as u64;
            let bytes = wanted.min(turn.clamp(TURN_BYTES.0, TURN_BYTES.1));
            let at = per_connection.map_or(now, |cap| self.pacer.take(now, bytes, cap));
            self.turn = Turn::Capped { at, bytes };
        }
        if let Turn::Capped { at, bytes } = self.turn {
            if now < at {
                return Some(at);
            }
            let at = total.map_or(now, |rate| state.pacer.take(now, bytes, rate));
            self.turn = Turn::Granted { at, bytes };
        }
        match self.turn {
            Turn::Granted { at, .. } if now < at => Some(at),
            _ => None,
        }
    }

    /// `written` bytes left; what remains of the turn stays.
    fn sent(&mut self, written: usize) {
        self.sending = false;
        let written = written as u64;
        self.link.0.sent.fetch_add(written, Ordering::Relaxed);
        if let Turn::Granted { at, bytes } = self.turn {
            let bytes = bytes.saturating_sub(written);
            self.turn = if bytes == 0 {
                Turn::None
            } else {
                Turn::Granted { at, bytes }
            };
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.link.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A TCP stream whose writes are shaped.
#[derive(Debug)]
pub struct Shaped {
    stream: TcpStream,
    gate: Gate,
}

impl AsyncRead for Shaped {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            this.gate.arrived();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Shaped {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut allowed =
            usize::try_from(ready!(this.gate.poll(context, wanted))).unwrap_or(wanted);
        let stream = Pin::new(&mut this.stream);
        let written = if allowed >= wanted {
            ready!(stream.poll_write_vectored(context, slices))?
        } else {
            let mut cut = Vec::with_capacity(slices.len());
            for slice in slices {
                let take = slice.len().min(allowed);
                cut.push(IoSlice::new(&slice[..take]));
                allowed -= take;
            }
            ready!(stream.poll_write_vectored(context, &cut))?
        };
        this.gate.sent(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
