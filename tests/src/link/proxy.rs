//! A TCP proxy that puts a server of any kind behind a link.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{Link, Shape};

/// Read at once from the server.
const PIECE: usize = 256 << 10;

/// Pieces on their way over a delayed link, at most: the link's bandwidth-delay product.
const IN_FLIGHT: usize = 256;

/// A proxy on a loopback port. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    link: Link,
    received: Arc<AtomicU64>,
    accepting: AbortHandle,
}

impl Link {
    /// A free loopback port behind which `upstream` answers over this link.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn proxy(&self, upstream: SocketAddr) -> io::Result<Proxy> {
        self.proxy_on((Ipv4Addr::LOCALHOST, 0).into(), upstream)
            .await
    }

    /// The same on a chosen address.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn proxy_on(&self, listen: SocketAddr, upstream: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let accepting = accept(listener, upstream, self.clone(), received.clone());
        let accepting = tokio::spawn(accepting).abort_handle();
        Ok(Proxy {
            address,
            link: self.clone(),
            received,
            accepting,
        })
    }
}

impl Proxy {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its link, to change or to count what went over it.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Bytes that clients sent through it so far.
    pub fn bytes_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, link: Link, received: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                let (link, received) = (link.clone(), received.clone());
                connections.spawn(async move {
                    if let Err(error) = relay(client, upstream, &link, &received).await {
                        tracing::debug!(%error, "a proxied connection ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// Both directions until both have ended, or one failed.
async fn relay(
    client: TcpStream,
    upstream: SocketAddr,
    link: &Link,
    received: &AtomicU64,
) -> io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let delay_once = link.shape().delay;
    let shaped = link.carry_undelayed(client);
    let (mut from_client, mut to_client) = tokio::io::split(shaped);
    let (mut from_server, mut to_server) = server.into_split();
    // The handshake's delay: a real one would hold back the first request.
    tokio::time::sleep(delay_once).await;

    let upwards = async {
        let mut piece = BytesMut::with_capacity(PIECE);
        while from_client.read_buf(&mut piece).await? > 0 {
            received.fetch_add(piece.len() as u64, Ordering::Relaxed);
            to_server.write_all(&piece).await?;
            piece.clear();
        }
        to_server.shutdown().await
    };
    let (sender, mut receiver) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT);
    let reading = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            if from_server.read_buf(&mut buffer).await? == 0 {
                drop(sender);
                return Ok::<_, io::Error>(());
            }
            let Shape { delay, .. } = link.shape();
            let due = Instant::now() + delay;
            if sender.send((due, buffer.split().freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async {
        while let Some((due, piece)) = receiver.recv().await {
            sleep_until(due).await;
            to_client.write_all(&piece).await?;
        }
        to_client.shutdown().await
    };
    tokio::try_join!(upwards, reading, writing).map(|_| ())
}
