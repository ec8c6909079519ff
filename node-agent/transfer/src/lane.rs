//! A lane: one connection at a time, fetching what the board assigns and putting it where it
//! belongs. Every way a server can misbehave ends here in one [`Outcome`].
//!
//! Reading from the network and writing to the sink overlap, one batch each; so a lane holds at
//! most two batches and what its connection buffers.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headstart_core::ranges::RangeSet;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bandwidth::Bandwidth;
use crate::board::{Assignment, Board, Known, Mode, Next, Outcome};
use crate::engine::Limits;
use crate::net::{Http, NetError, Request, Response};
use crate::source::SourceError;

/// Bytes collected before they are written: what a killed process loses, per lane.
const BATCH: usize = 256 << 10;

/// Bytes are written after this long even if the batch is not full.
const BATCH_TIME: Duration = Duration::from_millis(100);

/// What a lane works with.
pub(crate) struct Lane {
    pub(crate) http: Http,
    pub(crate) board: Arc<Board>,
    pub(crate) bandwidth: Arc<Bandwidth>,
    pub(crate) limits: Limits,
}

impl Lane {
    /// Fetches one assignment, or waits for one. `lanes` is how many lanes share the work.
    pub(crate) async fn step(&self, lanes: usize) {
        let changed = self.board.changed.notified();
        match self.board.next(Instant::now(), lanes) {
            Next::Work(assignment) => self.work(*assignment).await,
            Next::Wait(Some(until)) => {
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(until) => {}
                }
            }
            Next::Wait(None) => changed.await,
        }
    }

    async fn work(&self, mut assignment: Assignment) {
        let cancel = assignment.cancel.clone();
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => Outcome::Cancelled,
            outcome = self.fetch(&mut assignment) => outcome,
        };
        self.board.settle(assignment, outcome, Instant::now());
    }

    async fn fetch(&self, assignment: &mut Assignment) -> Outcome {
        match self.try_fetch(assignment).await {
            Ok(()) => Outcome::Done,
            Err(outcome) => outcome,
        }
    }

    async fn try_fetch(&self, assignment: &mut Assignment) -> Result<(), Outcome> {
        let (request, generation) = self.request(assignment).await?;
        let sent = self.http.send(request).await;
        let response = sent.map_err(|error| network(&error))?;
        let host = response.url.host_str().unwrap_or_default().to_owned();
        let from = match self.accept(assignment, &response, &host) {
            Ok(from) => from,
            Err(outcome) => {
                if let Outcome::Refused(_) = outcome {
                    let mut known = assignment.place.at.lock().await;
                    if known.generation == generation {
                        known.refused = Some(response.status);
                    }
                }
                return Err(outcome);
            }
        };
        self.read(assignment, response, from, &host).await
    }

    /// The request for an assignment, at the place's present location.
    async fn request(&self, assignment: &Assignment) -> Result<(Request, u64), Outcome> {
        let mut known = assignment.place.at.lock().await;
        if known.location.is_none() || known.refused.is_some() {
            let refused = known.refused;
            let located = assignment.place.source.locate(&self.http, refused).await;
            let location = located.map_err(|error| match error {
                SourceError::Net(error) => network(&error),
                SourceError::Busy(wait) => {
                    Outcome::Busy(wait, format!("asked to wait {} s", wait.as_secs()))
                }
                SourceError::Final(reason) => Outcome::Dead(reason),
            })?;
            *known = Known {
                location: Some(location),
                generation: known.generation + 1,
                refused: None,
            };
        }
        let location = known.location.clone().expect("just located");
        let mut request = Request::get(location.url).credential(location.credential);
        request.headers = location.headers;
        request.header_timeout = self.limits.stall;
        if assignment.mode == Mode::Ranges
            && let Some(range) = assignment.wanted.first()
            && range != (0..assignment.size)
        {
            let value = format!("bytes={}-{}", range.start, range.end - 1);
            let value = HeaderValue::from_str(&value).expect("digits and ASCII");
            request.headers.insert(RANGE, value);
        }
        Ok((request, known.generation))
    }

    /// Judges a response's head; returns the offset of its first byte.
    fn accept(
        &self,
        assignment: &Assignment,
        response: &Response,
        host: &str,
    ) -> Result<u64, Outcome> {
        let encoding = response.headers.get(CONTENT_ENCODING);
        if response.status.is_success() && encoding.is_some_and(|e| e != "identity") {
            let encoding = encoding.and_then(|e| e.to_str().ok()).unwrap_or("?");
            return Err(Outcome::Strike(format!(
                "{host} sent Content-Encoding {encoding} nobody asked for"
            )));
        }
        match response.status {
            StatusCode::PARTIAL_CONTENT => self.accept_partial(assignment, response, host),
            StatusCode::OK => {
                let length = response.headers.get(CONTENT_LENGTH);
                let length = length.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
                if let Some(length) = length
                    && length != assignment.size
                {
                    return Err(Outcome::Strike(format!(
                        "{host} has {length} bytes instead of {}",
                        assignment.size
                    )));
                }
                let whole = assignment.wanted.first() == Some(0..assignment.size);
                match assignment.mode == Mode::Whole || whole {
                    true => Ok(0),
                    false => Err(Outcome::NoRanges),
                }
            }
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::GONE
            | StatusCode::RANGE_NOT_SATISFIABLE => Err(Outcome::Refused(format!(
                "{host} answered {}",
                response.status
            ))),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let said = format!("{host} answered {}", response.status);
                match retry_after(response) {
                    Some(wait) => Err(Outcome::Busy(
                        wait,
                        format!("{said} and asks to wait {} s", wait.as_secs()),
                    )),
                    None => Err(Outcome::Broke(said)),
                }
            }
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                Err(Outcome::Broke(format!("{host} answered {status}")))
            }
            status => Err(Outcome::Dead(format!("{host} answered {status}"))),
        }
    }

    fn accept_partial(
        &self,
        assignment: &Assignment,
        response: &Response,
        host: &str,
    ) -> Result<u64, Outcome> {
        let value = response.headers.get(CONTENT_RANGE);
        let text = value.and_then(|v| v.to_str().ok()).unwrap_or_default();
        let wanted = assignment.wanted.first().unwrap_or_default();
        match content_range(text) {
            Some((range, total))
                if range.start == wanted.start
                    && range.end <= wanted.end
                    && total.is_none_or(|total| total == assignment.size) =>
            {
                Ok(range.start)
            }
            _ => Err(Outcome::Strike(format!(
                "{host} answered bytes {}-{} of {} with Content-Range {text:?}",
                wanted.start,
                wanted.end.saturating_sub(1),
                assignment.size
            ))),
        }
    }

    async fn read(
        &self,
        assignment: &mut Assignment,
        mut response: Response,
        from: u64,
        host: &str,
    ) -> Result<(), Outcome> {
        let mut floor = Floor::new(self.limits.floor_window);
        let mut writer = Writer::new(self, assignment);
        let end = writer.end();
        let mut offset = from;
        let ended = loop {
            if offset == end {
                break Ok(());
            }
            let asked = Instant::now();
            let chunk = match tokio::time::timeout(writer.patience(), response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => {
                    break Err(Outcome::Broke(format!(
                        "{host} ended the body {} bytes early",
                        end - offset
                    )));
                }
                Ok(Err(error)) => break Err(Outcome::Broke(chain(&error))),
                Err(_) if writer.has_batch() && asked.elapsed() < self.limits.stall => {
                    writer.flush().await?;
                    continue;
                }
                Err(_) => {
                    break Err(Outcome::Broke(format!(
                        "{host} sent nothing for {} s",
                        self.limits.stall.as_secs()
                    )));
                }
            };
            let waited = asked.elapsed().as_micros() as u64;
            writer
                .assignment
                .progress
                .network_wait
                .fetch_add(waited, Ordering::Relaxed);
            if chunk.len() as u64 > end - offset {
                let rest = chunk.slice(..(end - offset) as usize);
                writer.push(offset, rest).await?;
                break Err(Outcome::Strike(format!(
                    "{host} sent more than it was asked for"
                )));
            }
            let length = chunk.len();
            self.bandwidth.take(length).await;
            writer.push(offset, chunk).await?;
            offset += length as u64;
            if let Some(rate) = floor.below(length, self.limits.floor)
                && self.is_unusual(writer.assignment, rate)
            {
                break Err(Outcome::Broke(format!(
                    "{host} sent only {rate} bytes a second"
                )));
            }
        };
        writer.finish().await?;
        ended
    }

    /// Whether other lanes get clearly more than `rate` from the same host, as far as is known.
    fn is_unusual(&self, assignment: &Assignment, rate: u64) -> bool {
        let usual = self.board.usual_rate(assignment);
        usual == 0.0 || (rate as f64) < usual / 4.0
    }
}

/// Collects the chunks of one response that are wanted, and writes them in batches.
struct Writer<'a> {
    lane: &'a Lane,
    assignment: &'a mut Assignment,
    wanted: RangeSet,
    batch: Vec<Bytes>,
    batch_start: u64,
    batch_bytes: usize,
    batch_since: Instant,
    writing: Option<(Range<u64>, JoinHandle<std::io::Result<()>>)>,
}

impl<'a> Writer<'a> {
    fn new(lane: &'a Lane, assignment: &'a mut Assignment) -> Self {
        Self {
            lane,
            wanted: assignment.wanted.clone(),
            assignment,
            batch: Vec::new(),
            batch_start: 0,
            batch_bytes: 0,
            batch_since: Instant::now(),
            writing: None,
        }
    }

    /// Where reading may stop: nothing is wanted from there on.
    fn end(&self) -> u64 {
        self.wanted.iter().last().map_or(0, |range| range.end)
    }

    fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// How long to wait for the next chunk before looking around.
    fn patience(&self) -> Duration {
        match self.has_batch() {
            true => BATCH_TIME,
            false => self.lane.limits.stall,
        }
    }

    async fn push(&mut self, offset: u64, chunk: Bytes) -> Result<(), Outcome> {
        let range = offset..offset + chunk.len() as u64;
        for part in self.wanted.within(range) {
            let piece = chunk.slice((part.start - offset) as usize..(part.end - offset) as usize);
            let contiguous = self.batch_start + self.batch_bytes as u64 == part.start;
            if self.has_batch() && !contiguous {
                self.flush().await?;
            }
            if !self.has_batch() {
                self.batch_start = part.start;
                self.batch_since = Instant::now();
            }
            self.batch_bytes += piece.len();
            self.batch.push(piece);
        }
        if self.batch_bytes >= BATCH
            || (self.has_batch() && self.batch_since.elapsed() > BATCH_TIME)
        {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hands the batch to the sink once the one before it is written.
    async fn flush(&mut self) -> Result<(), Outcome> {
        self.wait().await?;
        if !self.has_batch() {
            return Ok(());
        }
        let start = self.batch_start;
        let range = start..start + self.batch_bytes as u64;
        self.wait_for_room(range.end).await;
        let pieces = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let sink = self.assignment.sink.clone();
        let put = tokio::task::spawn_blocking(move || sink.put(start, pieces));
        self.writing = Some((range, put));
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), Outcome> {
        let Some((range, put)) = self.writing.take() else {
            return Ok(());
        };
        let asked = Instant::now();
        let written = put.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        let waited = asked.elapsed().as_micros() as u64;
        self.assignment
            .progress
            .disk_wait
            .fetch_add(waited, Ordering::Relaxed);
        written.map_err(Outcome::Sink)?;
        self.lane.board.landed(self.assignment, range);
        Ok(())
    }

    /// A source that ignores Range runs ahead of a stream's reader: it is held here.
    async fn wait_for_room(&self, end: u64) {
        loop {
            let changed = self.lane.board.changed.notified();
            if self.assignment.sink.window().end >= end {
                return;
            }
            changed.await;
        }
    }

    async fn finish(&mut self) -> Result<(), Outcome> {
        self.flush().await?;
        self.wait().await
    }
}

/// Watches that a lane brings at least so much.
struct Floor {
    window: Duration,
    since: Instant,
    bytes: u64,
}

impl Floor {
    fn new(window: Duration) -> Self {
        Self {
            window,
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// Counts `length` bytes; the rate of the window that ends now if it is below `floor`.
    fn below(&mut self, length: usize, floor: u64) -> Option<u64> {
        self.bytes += length as u64;
        let span = self.since.elapsed();
        if span < self.window {
            return None;
        }
        let rate = (self.bytes as f64 / span.as_secs_f64()) as u64;
        (self.since, self.bytes) = (Instant::now(), 0);
        (rate < floor).then_some(rate)
    }
}

fn network(error: &NetError) -> Outcome {
    let text = chain(error);
    match error.is_transient() {
        true => Outcome::Broke(text),
        false => Outcome::Dead(text),
    }
}

/// An error and everything under it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text += &format!(": {next}");
        source = next.source();
    }
    text
}

/// `bytes 0-9/100` (RFC 9110, 14.4): the range, half-open, and the total unless it is `*`.
fn content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (last >= first).then_some((first..last.checked_add(1)?, total))
}

/// How long a response asks to wait. A date is read against the server's own `Date`, so a clock
/// that is off does not matter.
fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = response
        .header("date")
        .and_then(|date| httpdate::parse_http_date(date).ok());
    let now = now.unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or(Duration::from_secs(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_as_rfc_9110_writes_it() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, Some(100))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5..6, None)));
        let max = format!("bytes 0-{}/1", u64::MAX);
        for odd in [
            "",
            "bytes */100",
            "bytes 9-0/100",
            "items 0-9/100",
            "bytes 0-9",
            &max,
        ] {
            assert_eq!(content_range(odd), None, "{odd}");
        }
    }
}
