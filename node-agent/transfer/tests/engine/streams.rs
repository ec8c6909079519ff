//! Blobs that are read in order while they are fetched out of order.

use std::io::{self, Write};
use std::sync::atomic::AtomicU64;

use super::*;

/// Takes its time, and knows how far ahead the server is.
struct Slow {
    taken: Vec<u8>,
    total: Arc<AtomicU64>,
    pause: Duration,
    /// Takes nothing before so much has landed.
    begins: (u64, Arc<Progress>),
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (least, progress) = &self.begins;
        while progress.landed.load(Ordering::Relaxed) < *least {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(self.pause);
        self.taken.extend_from_slice(bytes);
        self.total.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_comes_in_order_over_several_connections_whatever_breaks() {
    let case = Case::new(16 * MIB, |asked| match asked.number % 4 {
        1 => Act::Reset(500_000),
        2 => Act::Close(100_000),
        _ => Act::Serve,
    })
    .await;
    let engine = engine(policy(&[case.server.url("/")]), limits());
    let read = within(
        30,
        engine.stream(&case.blob, Vec::new(), case.progress.clone()),
    )
    .await
    .unwrap();
    assert!(read == case.content);
    assert!(case.faults() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_bounds_what_is_fetched_ahead_of_it() {
    let case = Case::new(32 * MIB, |_| Act::Serve).await;
    let engine = engine(policy(&[case.server.url("/")]), limits());
    let total = Arc::new(AtomicU64::new(0));
    let reader = Slow {
        taken: Vec::new(),
        total: total.clone(),
        pause: Duration::from_micros(500),
        begins: (6 * MIB, case.progress.clone()),
    };
    let stream = engine.stream(&case.blob, reader, case.progress.clone());
    let mut ahead = 0;
    let watch = async {
        loop {
            let landed = case.progress.landed.load(Ordering::Relaxed);
            ahead = ahead.max(landed.saturating_sub(total.load(Ordering::Relaxed)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let reader = tokio::select! {
        reader = within(60, stream) => reader.unwrap(),
        () = watch => unreachable!(),
    };
    assert!(reader.taken == case.content);
    // The room, and what was handed to the reader last.
    assert!(ahead <= (8 + 2) * MIB, "{ahead}");
    assert!(
        ahead >= 5 * MIB,
        "the case is not what it should be: {ahead}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slower_than_patience_is_waited_for() {
    let case = Case::new(12 * MIB, |asked| match asked.number {
        1 => Act::status(500),
        _ => Act::Serve,
    })
    .await;
    let engine = engine(
        policy(&[case.server.url("/")]),
        Limits {
            patience: Duration::from_millis(500),
            ..limits()
        },
    );
    let reader = Slow {
        taken: Vec::new(),
        total: Arc::default(),
        pause: Duration::from_millis(3),
        begins: (0, case.progress.clone()),
    };
    let read = within(60, engine.stream(&case.blob, reader, case.progress.clone()))
        .await
        .unwrap();
    assert!(read.taken == case.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_from_a_server_that_ignores_range_waits_for_its_reader() {
    let case = Case::new(16 * MIB, |_| Act::IgnoreRange).await;
    let engine = engine(policy(&[case.server.url("/")]), limits());
    let reader = Slow {
        taken: Vec::new(),
        total: Arc::default(),
        pause: Duration::from_micros(300),
        begins: (0, case.progress.clone()),
    };
    let read = within(60, engine.stream(&case.blob, reader, case.progress.clone()))
        .await
        .unwrap();
    assert!(read.taken == case.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_in_a_stream_are_told_at_its_end() {
    let case = Case::new(4 * MIB, |_| Act::Flip(2 * MIB)).await;
    let engine = engine(policy(&[case.server.url("/")]), limits());
    let error = within(30, engine.stream(&case.blob, io::sink(), Arc::default()))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Mismatch { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_fails_ends_the_stream_and_closes_its_connections() {
    struct Failing;
    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let case = Case::new(16 * MIB, |_| Act::Rate(1_000_000)).await;
    let engine = engine(policy(&[case.server.url("/")]), limits());
    let ended = within(30, engine.stream(&case.blob, Failing, Arc::default())).await;
    assert!(matches!(ended, Err(FetchError::Reader { .. })));
    until("all connections are closed", || {
        case.server.record().open == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_streams_share_one_buffer() {
    let case = Case::new(12 * MIB, |_| Act::Serve).await;
    let engine = engine(policy(&[case.server.url("/")]), limits());
    let streams = (0..4).map(|_| engine.stream(&case.blob, Vec::new(), case.progress.clone()));
    for read in within(60, futures_util::future::join_all(streams)).await {
        assert!(read.unwrap() == case.content);
    }
}
