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
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bandwidth::Bandwidth;
use crate::board::{Assignment, Board, Known, Mode, Next, Outcome};
use crate::engine::Limits;
use crate::error::chain;
use crate::net::{Http, NetError, Request, Response};
use crate::source::SourceError;

/// Bytes collected before they are written: what a killed process loses, per lane.
const BATCH: usize = 512 << 10;

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
            Err(outcome @ Outcome::Refused(_)) => {
                let mut known = assignment.place.at.lock().await;
                if known.generation != generation || known.refused.is_some() {
                    return Err(Outcome::Outdated);
                }
                known.refused = Some(response.status);
                return Err(outcome);
            }
            Err(outcome) => return Err(outcome),
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
                match asked_to_wait(&response.headers) {
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
        let span = assignment.span.clone();
        let mut floor = Floor::new(self.limits.floor_window);
        let mut writer = Writer::new(self, assignment);
        let mut offset = from;
        let ended = loop {
            if span.left() == 0 {
                break Ok(());
            }
            let asked = Instant::now();
            let chunk = match tokio::time::timeout(writer.patience(), response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => {
                    let missing = span.left();
                    break Err(Outcome::Broke(format!(
                        "{host} ended the body {missing} bytes early"
                    )));
                }
                Ok(Err(error)) => break Err(Outcome::Broke(chain(&error))),
                Err(_) if span.left() == 0 => break Ok(()),
                Err(_) if writer.is_behind() && asked.elapsed() < self.limits.stall => {
                    writer.finish().await?;
                    continue;
                }
                Err(_) => {
                    break Err(Outcome::Broke(format!(
                        "{host} sent nothing for {} s",
                        self.limits.stall.as_secs_f64()
                    )));
                }
            };
            let waited = asked.elapsed();
            writer.waited(waited);
            let taken = span.take(chunk.len() as u64);
            let rest = chunk.len() as u64 - taken;
            self.bandwidth.take(chunk.len()).await;
            writer.push(offset, chunk.slice(..taken as usize)).await?;
            offset += taken;
            if rest > 0 && offset == writer.asked_to {
                break Err(Outcome::Strike(format!(
                    "{host} sent more than it was asked for"
                )));
            }
            if let Some(rate) = floor.below(chunk.len(), waited, self.limits.floor)
                && self.is_unusual(writer.assignment, rate)
            {
                break Err(Outcome::Broke(format!(
                    "{host} sent only {rate} bytes a second"
                )));
            }
        };
        let asked_to = writer.asked_to;
        writer.finish().await?;
        if ended.is_ok() && offset == asked_to {
            self.see_the_end(&mut response, host).await?;
        }
        ended
    }

    /// Reads the end of a body whose every byte has been read, so that the connection can serve
    /// the next request; a body that goes on is a lie.
    async fn see_the_end(&self, response: &mut Response, host: &str) -> Result<(), Outcome> {
        match tokio::time::timeout(BATCH_TIME, response.chunk()).await {
            Ok(Ok(Some(more))) if !more.is_empty() => {
                let what = "sent more than it was asked for";
                Err(Outcome::Strike(format!("{host} {what}")))
            }
            // Nothing is missing any more, however the connection ends. Its own task sees the
            // end too, and makes it available for this lane's next request.
            _ => {
                tokio::task::yield_now().await;
                Ok(())
            }
        }
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
    /// Where the response was asked to end.
    asked_to: u64,
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
            asked_to: match assignment.mode {
                Mode::Ranges => assignment.wanted.iter().last().map_or(0, |range| range.end),
                Mode::Whole => assignment.size,
            },
            assignment,
            batch: Vec::new(),
            batch_start: 0,
            batch_bytes: 0,
            batch_since: Instant::now(),
            writing: None,
        }
    }

    fn waited(&self, network: Duration) {
        let micros = network.as_micros() as u64;
        let progress = &self.assignment.progress;
        progress.network_wait.fetch_add(micros, Ordering::Relaxed);
    }

    fn has_batch(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Whether something has been read and is not known to have landed.
    fn is_behind(&self) -> bool {
        self.has_batch() || self.writing.is_some()
    }

    /// How long to wait for the next chunk before looking around.
    fn patience(&self) -> Duration {
        match self.is_behind() {
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

/// Watches that the network brings at least so much: the time that a lane waits for its own
/// bandwidth limit, disk or reader does not count.
struct Floor {
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Floor {
    fn new(window: Duration) -> Self {
        Self {
            window,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Counts `length` bytes that were waited for; the rate of the window that ends now if it is
    /// below `floor`.
    fn below(&mut self, length: usize, waited: Duration, floor: u64) -> Option<u64> {
        self.bytes += length as u64;
        self.waited += waited;
        if self.waited < self.window {
            return None;
        }
        let rate = (self.bytes as f64 / self.waited.as_secs_f64()) as u64;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
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

/// How long a response asks to wait: `Retry-After` (RFC 9110, 10.2.3), else what the Hub says in
/// `RateLimit` about a window that is used up (draft-ietf-httpapi-ratelimit-headers).
fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    text("retry-after")
        .and_then(|value| retry_after(value, text("date")))
        .or_else(|| text("ratelimit").and_then(rate_limit_reset))
}

/// A date is read against the server's own `Date`, so a clock that is off does not matter.
fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<i64>() {
        return Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(1)));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let now = now.unwrap_or_else(SystemTime::now);
    Some(until.duration_since(now).unwrap_or(Duration::from_secs(1)))
}

/// `"resolvers";r=0;t=55`: nothing remains for 55 s.
fn rate_limit_reset(value: &str) -> Option<Duration> {
    let mut parameters = value.split(';').map(str::trim);
    parameters.clone().find(|parameter| *parameter == "r=0")?;
    let seconds = parameters.find_map(|parameter| parameter.strip_prefix("t="))?;
    Some(Duration::from_secs(seconds.parse().ok()?))
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

    #[test]
    fn a_server_says_how_long_to_wait_in_seconds_as_a_date_or_in_a_rate_limit() {
        let wait = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            asked_to_wait(&headers).map(|wait| wait.as_secs())
        };
        // The server's clock is decades off, and so may be ours: only their difference counts.
        let date = ("date", "Tue, 15 Nov 1994 08:12:31 GMT");
        let later = ("retry-after", "Tue, 15 Nov 1994 08:12:38 GMT");
        let earlier = ("retry-after", "Tue, 15 Nov 1994 08:12:00 GMT");
        let limited = ("ratelimit", "\"resolvers\";r=0;t=55");
        assert_eq!(wait(&[("retry-after", "7")]), Some(7));
        assert_eq!(wait(&[("retry-after", "-7")]), Some(1));
        assert_eq!(wait(&[date, later]), Some(7));
        assert_eq!(wait(&[date, earlier]), Some(1));
        assert_eq!(wait(&[limited]), Some(55));
        assert_eq!(wait(&[limited, ("retry-after", "2")]), Some(2));
        assert_eq!(wait(&[("ratelimit", "\"resolvers\";r=9;t=55")]), None);
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        assert_eq!(wait(&[]), None);
    }
}
