//! Connections of a kubelet, made fit for a strict server.
//!
//! The kubelet names the socket that it calls in `:authority`, percent-encoded
//! (`%2Fvar%2Flib%2F…`). RFC 3986 allows that in a host; the HTTP library here does not, and resets the
//! stream. So the name is replaced on the way in. Nothing else is touched, and nothing is decoded:
//! the field is known by its place in HPACK's static table (RFC 7541, appendix A), and a client that
//! indexes what it sent refers to the same entry of a table that only holds less.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What a client sends before its first frame (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// Length of what precedes a frame's payload.
const HEAD: usize = 9;

/// Type of a frame that begins a request, and its flags that matter here.
const HEADERS: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// Longest such frame that is looked into: the largest that a client may send unasked.
const LONGEST: usize = 16_384;

/// Place of `:authority` in the static table.
const AUTHORITY: u64 = 1;

/// What it is replaced by: a string of nine plain bytes.
const LOCALHOST: &[u8] = b"\x09localhost";

/// A connection whose requests are all to `localhost`.
pub(super) struct Local<S> {
    stream: S,
    frames: Frames,
    /// What may be read, from `at` on.
    out: Vec<u8>,
    at: usize,
}

/// The bytes of a client, cut into frames.
#[derive(Default)]
struct Frames {
    /// Bytes of the present frame that pass as they are.
    passing: usize,
    /// The beginning of a frame that is not whole yet.
    part: Vec<u8>,
}

impl<S> Local<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames {
                passing: PREFACE,
                ..Frames::default()
            },
            out: Vec::new(),
            at: 0,
        }
    }
}

impl Frames {
    /// Takes what has arrived and adds what can go on to `out`.
    fn take(&mut self, mut arrived: &[u8], out: &mut Vec<u8>) {
        while !arrived.is_empty() {
            if self.passing > 0 {
                let (pass, rest) = arrived.split_at(self.passing.min(arrived.len()));
                out.extend_from_slice(pass);
                self.passing -= pass.len();
                arrived = rest;
                continue;
            }
            let missing = self.lacks();
            let (more, rest) = arrived.split_at(missing.min(arrived.len()));
            self.part.extend_from_slice(more);
            arrived = rest;
            if self.lacks() == 0 {
                self.end(out);
            }
        }
    }

    /// Bytes that are needed before the frame begun can go on.
    fn lacks(&self) -> usize {
        let Some(length) = self.length() else {
            return HEAD - self.part.len();
        };
        let whole = match self.is_looked_into(length) {
            true => HEAD + length,
            false => HEAD,
        };
        whole.saturating_sub(self.part.len())
    }

    fn length(&self) -> Option<usize> {
        match self.part.get(..HEAD)? {
            &[a, b, c, ..] => Some(u32::from_be_bytes([0, a, b, c]) as usize),
            _ => None,
        }
    }

    fn is_looked_into(&self, length: usize) -> bool {
        self.part.get(3) == Some(&HEADERS) && length <= LONGEST
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let part = std::mem::take(&mut self.part);
        let length = part.get(..3).map_or(0, |bytes| {
            bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        });
        if part.len() == HEAD {
            self.passing = length;
            out.extend_from_slice(&part);
            return;
        }
        let (head, payload) = part.split_at(HEAD);
        let payload = renamed(head[4], payload).unwrap_or_else(|| payload.to_vec());
        // No longer than it was: the name is the shortest there is.
        out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&head[3..]);
        out.extend_from_slice(&payload);
    }
}

/// The payload of a frame that begins a request, with another `:authority`; nothing if it is not
/// understood.
fn renamed(flags: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let mut from = 0;
    let mut until = payload.len();
    if flags & PADDED != 0 {
        until = until.checked_sub(usize::from(*payload.first()?))?;
        from += 1;
    }
    if flags & PRIORITY != 0 {
        from += 5;
    }
    let mut fields = payload.get(from..until)?;
    let mut out = payload[..from].to_vec();
    while let Some(&first) = fields.first() {
        // RFC 7541, section 6: what a field is, and how many bits its number begins with.
        let (bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (name, mut length) = number(fields, bits)?;
        if is_literal && name == 0 {
            length += string(fields.get(length..)?)?;
        }
        out.extend_from_slice(fields.get(..length)?);
        fields = &fields[length..];
        if is_literal {
            let value = fields.get(..string(fields)?)?;
            out.extend_from_slice(if name == AUTHORITY { LOCALHOST } else { value });
            fields = &fields[value.len()..];
        }
    }
    out.extend_from_slice(&payload[until..]);
    Some(out)
}

/// A number whose first `bits` are the lowest of the first byte, and how many bytes it takes.
fn number(bytes: &[u8], bits: u32) -> Option<(u64, usize)> {
    let most = (1_u64 << bits) - 1;
    let mut value = u64::from(*bytes.first()?) & most;
    if value < most {
        return Some((value, 1));
    }
    for (place, byte) in bytes.iter().enumerate().skip(1) {
        let shift = 7 * (place as u32 - 1);
        value = value.checked_add(u64::from(byte & 0x7f).checked_shl(shift)?)?;
        if byte & 0x80 == 0 {
            return Some((value, place + 1));
        }
        if place > 8 {
            return None;
        }
    }
    None
}

/// How many bytes a string takes, its length included.
fn string(bytes: &[u8]) -> Option<usize> {
    let (length, taken) = number(bytes, 7)?;
    taken.checked_add(usize::try_from(length).ok()?)
}

impl<S: AsyncRead + Unpin> AsyncRead for Local<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.at == this.out.len() {
            let mut arrived = [0; 4096];
            let mut into = ReadBuf::new(&mut arrived);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut into))?;
            this.out.clear();
            this.at = 0;
            if into.filled().is_empty() {
                // The end, with whatever was begun.
                this.out.append(&mut this.frames.part);
                if this.out.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            this.frames.take(into.filled(), &mut this.out);
        }
        let ready = &this.out[this.at..];
        let some = &ready[..ready.len().min(buffer.remaining())];
        buffer.put_slice(some);
        this.at += some.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Local<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

impl<S> Connected for Local<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `:method POST`, `:scheme http`, `:path` literal, then the authority, then what follows.
    fn fields(authority: &[u8]) -> Vec<u8> {
        let mut fields = vec![0x83, 0x86, 0x44, 0x02, b'/', b'x'];
        fields.extend_from_slice(authority);
        fields.extend_from_slice(b"\x40\x02te\x08trailers");
        fields
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
        frame.extend_from_slice(payload);
        frame
    }

    fn through(bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut frames = Frames {
            passing: PREFACE,
            ..Frames::default()
        };
        let mut out = Vec::new();
        for piece in bytes.chunks(piece.max(1)) {
            frames.take(piece, &mut out);
        }
        out.append(&mut frames.part);
        out
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frames.concat());
        bytes
    }

    #[test]
    fn the_name_of_a_socket_is_replaced_and_all_else_stays() {
        let socket = b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fx.sock";
        let named = |first: u8| [&[first, socket.len() as u8][..], socket].concat();
        let local = |first: u8| [&[first][..], LOCALHOST].concat();
        let others = [
            frame(4, 0, &[0, 3, 0, 0, 0, 100]),
            frame(0, 1, &[7; 70_000]),
        ];
        // Indexed from then on, not indexed, never indexed; with padding and priority.
        for first in [0x41, 0x01, 0x11] {
            let padded = |fields: Vec<u8>| {
                let mut payload = vec![2, 0, 0, 0, 0, 16];
                payload.extend(fields);
                payload.extend([0, 0]);
                frame(HEADERS, 4 | PADDED | PRIORITY, &payload)
            };
            let plain = |fields: Vec<u8>| frame(HEADERS, 4, &fields);
            let sent = connection(&[
                others[0].clone(),
                plain(fields(&named(first))),
                others[1].clone(),
                padded(fields(&named(first))),
            ]);
            let expected = connection(&[
                others[0].clone(),
                plain(fields(&local(first))),
                others[1].clone(),
                padded(fields(&local(first))),
            ]);
            for piece in [1, 7, 100, sent.len()] {
                assert!(through(&sent, piece) == expected, "{first:#x} {piece}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_passes_as_it_is() {
        for payload in [
            &b"\x41\xff"[..],
            b"\x41\x7f\xff\xff\xff",
            b"\xff",
            b"\x40\x7f",
        ] {
            let sent = connection(&[frame(HEADERS, 4, payload)]);
            assert_eq!(through(&sent, 3), sent);
        }
        let huge = connection(&[frame(HEADERS, 4, &[0x83; LONGEST + 1])]);
        assert_eq!(through(&huge, 1000), huge);
    }

    proptest! {
        #[test]
        fn any_bytes_pass_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1..50_usize) {
            let _ = through(&bytes, piece);
            let whole = connection(&[frame(HEADERS, bytes.first().copied().unwrap_or(0), &bytes)]);
            prop_assert_eq!(through(&whole, piece), through(&whole, whole.len()));
        }
    }
}
