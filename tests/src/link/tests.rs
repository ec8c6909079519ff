use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A listener whose connections, behind `link`, each send `bytes` and wait for the reader's end.
async fn source(link: Link, bytes: usize) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = link.carry(stream);
            tokio::spawn(async move {
                let _ = stream.write_all(&vec![7; bytes]).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

async fn fetch(address: std::net::SocketAddr) -> (usize, Duration) {
    let start = std::time::Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return (total, start.elapsed()),
            read => total += read,
        }
    }
}

fn rate(megabytes: u64) -> Option<Rate> {
    Some(Rate(megabytes * 1_000_000))
}

#[tokio::test]
async fn a_total_rate_is_kept_by_one_connection_and_by_four_that_share_it_fairly() {
    for connections in [1, 4] {
        // Slow enough that under load too the link is what limits.
        let link = Link::new(Shape {
            total: rate(8),
            ..Shape::default()
        });
        let address = source(link.clone(), 8_000_000 / connections).await;
        let fetches = (0..connections).map(|_| {
            let link = link.clone();
            tokio::spawn(async move { (fetch(address).await.1, link.bytes_sent()) })
        });
        let ends: Vec<(Duration, u64)> = futures_util::future::try_join_all(fetches).await.unwrap();
        // 1 s, less what an idle link may catch up; longer under load.
        let last = ends.iter().map(|end| end.0).max();
        assert!(last > Some(Duration::from_millis(950)), "{ends:?}");
        // One after the other, a quarter of all bytes would be sent when the first ends.
        let sent_at_first_end = ends.iter().map(|end| end.1).min();
        assert!(sent_at_first_end > Some(3_600_000), "{ends:?}");
        assert_eq!(link.connections(), connections as u64);
        assert_eq!(link.bytes_sent(), 8_000_000);
    }
}

#[tokio::test]
async fn a_cap_per_connection_leaves_room_for_others() {
    let link = Link::new(Shape {
        per_connection: rate(10),
        ..Shape::default()
    });
    let address = source(link, 3_000_000).await;
    let both = futures_util::future::join(fetch(address), fetch(address)).await;
    for (bytes, took) in [both.0, both.1] {
        assert_eq!(bytes, 3_000_000);
        assert!(took > Duration::from_millis(270), "{took:?}");
    }
}

#[tokio::test]
async fn an_outage_stops_what_flows_and_its_end_lets_it_go_on() {
    let link = Link::new(Shape {
        total: rate(20),
        ..Shape::default()
    });
    let address = source(link.clone(), 2_000_000).await;
    let fetching = tokio::spawn(fetch(address));
    while link.bytes_sent() < 200_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    link.set(Shape {
        total: Some(Rate(0)),
        ..Shape::default()
    });
    let sent = link.bytes_sent();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(
        link.bytes_sent() <= sent + TURN_BYTES.1,
        "bytes flow in an outage"
    );
    assert!(!fetching.is_finished());
    link.set(Shape::default());
    assert_eq!(fetching.await.unwrap().0, 2_000_000);
}

#[tokio::test]
async fn a_proxy_delays_and_counts_what_a_server_of_any_kind_sends() {
    let address = source(Link::default(), 1_000_000).await;
    let delay = Duration::from_millis(60);
    let proxy = Link::new(Shape {
        delay,
        ..Shape::default()
    })
    .proxy(address)
    .await
    .unwrap();
    let (bytes, took) = fetch(proxy.address()).await;
    assert_eq!(bytes, 1_000_000);
    assert!(took >= delay, "{took:?}");
    assert_eq!(
        (proxy.link().connections(), proxy.link().bytes_sent()),
        (1, 1_000_000)
    );
}

#[tokio::test]
async fn an_answer_waits_for_the_delay_after_each_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let delay = Duration::from_millis(50);
    let link = Link::new(Shape {
        delay,
        ..Shape::default()
    });
    tokio::spawn(async move {
        let mut stream = link.carry(listener.accept().await.unwrap().0);
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            stream.write_all(&byte).await.unwrap();
        }
    });
    // The handshake's share begins at the accept, so the clock starts before it.
    let mut start = std::time::Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    for handshakes in [1, 0, 0] {
        stream.write_all(b"?").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        let took = start.elapsed();
        assert!(took >= delay * (1 + handshakes), "{took:?}");
        start = std::time::Instant::now();
    }
}
