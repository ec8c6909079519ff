//! A server that breaks HTTP in every way a transfer has to survive.
//!
//! It speaks HTTP/1.1 over raw TCP or TLS, so that it decides about every byte and when the
//! connection ends. What it does with each request is a function of that request, the *script*;
//! what it did is recorded, so that a test can say what was fetched twice, and over how many
//! connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

pub use self::tls::Certificate;
use crate::random::Random;

pub mod h2;
mod tls;

/// Bytes of a body written at once.
const PIECE: u64 = 16 << 10;

/// A request, as a script sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Counts requests of this server from 0.
    pub number: usize,
    /// Counts connections of this server from 0.
    pub connection: usize,
    /// Path without query.
    pub path: String,
    /// What follows `?`, empty when nothing does.
    pub query: String,
    /// The bytes asked for; none without Range.
    pub range: Option<Range<u64>>,
    /// Headers by lower-case name.
    pub headers: HashMap<String, String>,
}

/// What the server does with one request. Offsets and lengths are of the body that it sends for
/// this request unless said otherwise.
#[derive(Clone, Debug)]
pub enum Act {
    /// What was asked for.
    Serve,
    /// Sends so many bytes of the body, then resets the connection (TCP RST).
    Reset(u64),
    /// Sends so many bytes of the body, then ends the connection (TCP FIN; TLS without notice).
    Close(u64),
    /// Sends so many bytes of the body, then nothing; the connection stays.
    Stall(u64),
    /// Sends nothing, not even headers; the connection stays.
    Silence,
    /// Sends the body without its length, chunked, and so many bytes too few.
    ChunkedShort(u64),
    /// Sends the body without its length, chunked, and so many bytes too many.
    ChunkedLong(u64),
    /// Claims and sends so many bytes too many.
    Long(u64),
    /// Flips a bit of the byte at this offset of the file, if it is in what was asked for.
    Flip(u64),
    /// Answers 200 with the whole file, whatever was asked for.
    IgnoreRange,
    /// Answers 206 with this Content-Range and the right bytes.
    ContentRange(String),
    /// Sends one byte of the head after each of these pauses.
    TrickleHead(Duration),
    /// Sends one byte of the body after each of these pauses.
    TrickleBody(Duration),
    /// Sends the body at so many bytes per second.
    Rate(u64),
    /// What was asked for, once this is cancelled.
    Held(CancellationToken),
    /// Answers this status with these headers and this body.
    Answer(u16, Vec<(String, String)>, Vec<u8>),
    /// Adds a header to what was asked for.
    With(String, String),
}

impl Act {
    /// A status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    /// A status with one header.
    pub fn status_with(status: u16, name: &str, value: &str) -> Self {
        let headers = vec![(name.to_owned(), value.to_owned())];
        Self::Answer(status, headers, Vec::new())
    }

    /// A redirect.
    pub fn redirect(status: u16, to: impl AsRef<str>) -> Self {
        Self::status_with(status, "Location", to.as_ref())
    }
}

/// What the server did with one request.
#[derive(Clone, Debug)]
pub struct Served {
    /// The request.
    pub asked: Asked,
    /// Status sent; 0 before.
    pub status: u16,
    /// Body bytes handed to the kernel.
    pub sent: u64,
}

/// Everything the server did so far.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Its requests, in the order in which they came.
    pub requests: Vec<Served>,
    /// Connections that are open now.
    pub open: usize,
    /// Requests that are being answered.
    pub at_once: usize,
    /// Most requests that were answered at once.
    pub most_at_once: usize,
    /// Connections accepted.
    pub connections: usize,
}

impl Record {
    /// Body bytes sent.
    pub fn sent(&self) -> u64 {
        self.requests.iter().map(|served| served.sent).sum()
    }

    /// Whether any request carried `Authorization`.
    pub fn saw_credential(&self) -> bool {
        let has = |served: &Served| served.asked.headers.contains_key("authorization");
        self.requests.iter().any(has)
    }
}

type Script = dyn Fn(&Asked) -> Act + Send + Sync;

struct Shared {
    files: HashMap<String, Bytes>,
    script: Box<Script>,
    record: Mutex<Record>,
}

/// A running server; it stops, with all its connections, when this is dropped.
pub struct Faulty {
    address: SocketAddr,
    certificate: Option<Certificate>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Faulty {
    /// Serves `files` (path to content) on a free port of 127.0.0.1, plain.
    pub async fn start(
        files: &[(&str, Bytes)],
        script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), files, script).await
    }

    /// The same at `address`, where another one has been.
    pub async fn start_at(
        address: SocketAddr,
        files: &[(&str, Bytes)],
        script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(address, None, files, script).await
    }

    /// The same over TLS with `certificate`.
    pub async fn start_tls(
        certificate: Certificate,
        files: &[(&str, Bytes)],
        script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        let address = ([127, 0, 0, 1], 0).into();
        Self::start_on(address, Some(certificate), files, script).await
    }

    async fn start_on(
        address: SocketAddr,
        certificate: Option<Certificate>,
        files: &[(&str, Bytes)],
        script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address)
            .await
            .expect("a free port on loopback");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let files = files
            .iter()
            .map(|(path, content)| ((*path).to_owned(), content.clone()));
        let shared = Arc::new(Shared {
            files: files.collect(),
            script: Box::new(script),
            record: Mutex::default(),
        });
        let acceptor = certificate.as_ref().map(|c| c.acceptor(&[b"http/1.1"]));
        let stop = CancellationToken::new();
        let accept = accept(listener, acceptor, shared.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Self {
            address,
            certificate,
            shared,
            _stop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of `path`; over TLS by the name `localhost`.
    pub fn url(&self, path: &str) -> Url {
        let port = self.address.port();
        let url = match self.certificate {
            Some(_) => format!("https://localhost:{port}{path}"),
            None => format!("http://127.0.0.1:{port}{path}"),
        };
        Url::parse(&url).expect("a path makes a URL")
    }

    /// What it did so far.
    pub fn record(&self) -> Record {
        self.shared.lock().clone()
    }

    /// Ends it at once: later connections are refused, present ones reset.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(|e| e.into_inner())
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let open = Open::new(shared.clone());
        let acceptor = acceptor.clone();
        let serve = async move {
            let _ = tcp.set_nodelay(true);
            match acceptor {
                None => serve(tcp, &open).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        serve(stream, &open).await;
                    }
                }
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve));
    }
}

/// Counts a connection while it is open.
struct Open {
    shared: Arc<Shared>,
    number: usize,
}

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        let mut record = shared.lock();
        let number = record.connections;
        record.connections += 1;
        record.open += 1;
        drop(record);
        Self { shared, number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.lock().open -= 1;
    }
}

/// A connection that can be cut.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for tokio_rustls::server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Why a connection is not used for another request.
enum End {
    /// Reset.
    Reset,
    /// Closed.
    Close,
}

async fn serve<S: Wire>(stream: S, open: &Open) {
    let mut stream = BufReader::new(stream);
    while let Some(mut asked) = read_request(&mut stream, open).await {
        let entry = {
            let mut record = open.shared.lock();
            asked.number = record.requests.len();
            record.requests.push(Served {
                asked: asked.clone(),
                status: 0,
                sent: 0,
            });
            record.at_once += 1;
            record.most_at_once = record.most_at_once.max(record.at_once);
            asked.number
        };
        let mut reply = Reply {
            stream: stream.get_mut(),
            shared: &open.shared,
            entry,
            answering: true,
        };
        let act = (open.shared.script)(&asked);
        // A client that goes away while it is answered is no concern of the server's.
        let end = reply.act(&asked, act).await.unwrap_or(Some(End::Close));
        drop(reply);
        match end {
            None => {}
            Some(End::Close) => return,
            Some(End::Reset) => {
                let _ = stream.get_ref().tcp().set_zero_linger();
                return;
            }
        }
    }
}

async fn read_request<S: Wire>(stream: &mut BufReader<S>, open: &Open) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if line.trim_end().is_empty() => break,
            Ok(_) => lines.push(line.trim_end().to_owned()),
        }
    }
    let target = lines.first()?.split(' ').nth(1)?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let header = |line: &String| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: HashMap<String, String> = lines.iter().skip(1).filter_map(header).collect();
    Some(Asked {
        number: 0,
        connection: open.number,
        path: path.to_owned(),
        query: query.to_owned(),
        range: headers.get("range").and_then(|value| parse_range(value)),
        headers,
    })
}

/// `bytes=0-9` as a half-open range.
fn parse_range(value: &str) -> Option<Range<u64>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last: u64 = match last {
        "" => return Some(first..u64::MAX),
        last => last.parse().ok()?,
    };
    Some(first..last + 1)
}

/// Writes the answer to one request and notes what it wrote.
struct Reply<'a, S: Wire> {
    stream: &'a mut S,
    shared: &'a Shared,
    entry: usize,
    answering: bool,
}

impl<S: Wire> Drop for Reply<'_, S> {
    fn drop(&mut self) {
        self.answered();
    }
}

impl<S: Wire> Reply<'_, S> {
    /// The client may ask for something else from now on.
    fn answered(&mut self) {
        if std::mem::take(&mut self.answering) {
            self.shared.lock().at_once -= 1;
        }
    }

    async fn act(&mut self, asked: &Asked, act: Act) -> std::io::Result<Option<End>> {
        if let Act::Answer(status, headers, body) = act {
            let headers = headers
                .iter()
                .map(|(n, v)| (n.as_str(), v.clone()))
                .collect();
            return self.answer(status, headers, &body).await;
        }
        match &act {
            Act::Silence => return self.stand_still().await,
            Act::Held(until) => until.cancelled().await,
            _ => {}
        }
        let Some(file) = self.shared.files.get(&asked.path).cloned() else {
            return self.answer(404, Vec::new(), b"no such file").await;
        };
        let size = file.len() as u64;
        let asked_range = asked
            .range
            .clone()
            .filter(|_| !matches!(act, Act::IgnoreRange));
        let partial = asked_range.is_some();
        let range = asked_range.unwrap_or(0..size);
        let range = range.start..range.end.min(size);
        if range.is_empty() && size > 0 {
            let told = vec![("Content-Range", format!("bytes */{size}"))];
            return self.answer(416, told, b"").await;
        }
        let mut body = file.slice(range.start as usize..range.end as usize);
        if let Act::Flip(at) = act
            && range.contains(&at)
        {
            let mut wrong = body.to_vec();
            wrong[(at - range.start) as usize] ^= 0x20;
            body = wrong.into();
        }
        let extra = |bytes: u64| [body.as_ref(), &vec![b'!'; bytes as usize]].concat().into();
        let chunked = matches!(act, Act::ChunkedShort(_) | Act::ChunkedLong(_));
        body = match act {
            Act::Long(bytes) | Act::ChunkedLong(bytes) => extra(bytes),
            Act::ChunkedShort(bytes) => body.slice(..body.len().saturating_sub(bytes as usize)),
            _ => body,
        };
        let mut headers = vec![("Accept-Ranges", "bytes".to_owned())];
        if partial {
            let told = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            headers.push(("Content-Range", told));
        }
        match &act {
            Act::ContentRange(told) => {
                headers.retain(|(name, _)| *name != "Content-Range");
                headers.push(("Content-Range", told.clone()));
            }
            Act::With(name, value) => headers.push((name, value.clone())),
            _ => {}
        }
        match chunked {
            true => headers.push(("Transfer-Encoding", "chunked".to_owned())),
            false => headers.push(("Content-Length", body.len().to_string())),
        }
        let status = if partial { 206 } else { 200 };
        let pause = match act {
            Act::TrickleHead(pause) => Some(pause),
            _ => None,
        };
        self.head(status, &headers, pause).await?;
        self.body(&act, &body, chunked).await
    }

    async fn answer(
        &mut self,
        status: u16,
        mut headers: Vec<(&str, String)>,
        body: &[u8],
    ) -> std::io::Result<Option<End>> {
        headers.push(("Content-Length", body.len().to_string()));
        self.head(status, &headers, None).await?;
        self.write(body).await?;
        Ok(None)
    }

    async fn head(
        &mut self,
        status: u16,
        headers: &[(&str, String)],
        pause: Option<Duration>,
    ) -> std::io::Result<()> {
        self.shared.lock().requests[self.entry].status = status;
        let mut head = format!("HTTP/1.1 {status} As-Scripted\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        match pause {
            None => self.stream.write_all(head.as_bytes()).await,
            Some(pause) => {
                for byte in head.bytes() {
                    tokio::time::sleep(pause).await;
                    self.stream.write_all(&[byte]).await?;
                }
                Ok(())
            }
        }
    }

    async fn body(
        &mut self,
        act: &Act,
        body: &Bytes,
        chunked: bool,
    ) -> std::io::Result<Option<End>> {
        let length = body.len() as u64;
        let (stop, piece, pause) = match act {
            Act::Reset(after) | Act::Close(after) | Act::Stall(after) => {
                ((*after).min(length), PIECE, None)
            }
            Act::TrickleBody(pause) => (length, 1, Some(*pause)),
            Act::Rate(rate) => {
                let piece = (rate / 50).max(1);
                (length, piece, Some(Duration::from_millis(20)))
            }
            _ => (length, PIECE, None),
        };
        let mut at = 0;
        while at < stop {
            let end = (at + piece).min(stop);
            // A surplus comes beside the last byte that was asked for, not after it.
            let end = match act {
                Act::ChunkedLong(surplus) if length - end <= *surplus => length,
                _ => end,
            };
            let bytes = &body[at as usize..end as usize];
            if chunked {
                let size = format!("{:x}\r\n", bytes.len());
                self.stream.write_all(size.as_bytes()).await?;
            }
            if end == length && !chunked {
                self.answered();
            }
            self.write(bytes).await?;
            if chunked {
                self.stream.write_all(b"\r\n").await?;
            }
            at = end;
            if let Some(pause) = pause {
                self.stream.flush().await?;
                tokio::time::sleep(pause).await;
            }
        }
        if chunked {
            self.stream.write_all(b"0\r\n\r\n").await?;
        }
        self.stream.flush().await?;
        match act {
            Act::Reset(_) => Ok(Some(End::Reset)),
            Act::Close(_) => Ok(Some(End::Close)),
            Act::Stall(_) => self.stand_still().await,
            _ => Ok(None),
        }
    }

    /// Says nothing until the client goes away.
    async fn stand_still(&mut self) -> std::io::Result<Option<End>> {
        let mut ignored = [0; 1024];
        while self.stream.read(&mut ignored).await? > 0 {}
        Ok(Some(End::Close))
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.shared.lock().requests[self.entry].sent += bytes.len() as u64;
        Ok(())
    }
}

/// `size` bytes that look random and are the same for the same `seed`, so that a byte in the
/// wrong place is a wrong byte.
pub fn content(seed: u64, size: usize) -> Bytes {
    Random::new(seed).bytes(size).into()
}
