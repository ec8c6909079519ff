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
        let link = Link::new(Shape {
            total: rate(40),
            ..Shape::default()
        });
        let address = source(link.clone(), 12_000_000 / connections).await;
        let fetches = (0..connections).map(|_| tokio::spawn(fetch(address)));
        let results = futures_util::future::join_all(fetches).await;
        let took: Vec<f64> = results
            .into_iter()
            .map(|r| r.unwrap().1.as_secs_f64())
            .collect();
        let last = took.iter().copied().fold(0.0, f64::max);
        let first = took.iter().copied().fold(f64::MAX, f64::min);
        // 0.3 s, less what an idle link may catch up; a busy machine may take longer.
        assert!(last > 0.27, "{took:?}");
        // One after the other, the first would end after a quarter of the time.
        assert!(first > last * 0.45, "{took:?}");
        assert_eq!(link.connections(), connections as u64);
        assert_eq!(link.bytes_sent(), 12_000_000);
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
    let mut stream = TcpStream::connect(address).await.unwrap();
    for handshakes in [1, 0, 0] {
        let start = std::time::Instant::now();
        stream.write_all(b"?").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        // The handshake's share began at the accept, a little earlier than this clock.
        let least = delay * (1 + handshakes) - Duration::from_millis(10);
        assert!(start.elapsed() >= least, "{:?}", start.elapsed());
    }
}
