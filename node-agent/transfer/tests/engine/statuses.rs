//! Statuses that are not success.

use std::sync::Mutex;
use std::time::Instant;

use futures_util::future::BoxFuture;
use headstart_transfer::source::{Location, SourceError};
use http::StatusCode;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_waiting_does_not_change_ends_the_fetch_at_once_and_is_named() {
    together(
        [401, 403, 404, 410, 416, 400, 451].map(|status| async move {
            let case = Case::new(4 * MIB, move |_| Act::status(status)).await;
            let error = case.fails().await;
            assert!(matches!(error, FetchError::Sources { .. }), "{error}");
            assert!(error.to_string().contains(&status.to_string()), "{error}");
            assert!(!error.is_transient());
            assert!(case.server.record().requests.len() <= 8);
        }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_error_is_tried_again_with_growing_pauses() {
    together([500, 502, 503, 504, 408, 429].map(|status| async move {
        let case = Case::new(4 * MIB, move |asked| match asked.number {
            0..4 => Act::status(status),
            _ => Act::Serve,
        })
        .await;
        case.survives().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_error_that_lasts_ends_the_fetch_after_few_requests() {
    let case = Case::new(4 * MIB, |_| Act::status(502)).await;
    let error = case.fails_with(impatient()).await;
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    assert!(error.to_string().contains("502"), "{error}");
    let requests = case.server.record().requests.len();
    assert!(requests < 40, "no retry storm: {requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_waited_for_by_everybody_who_wants_something_from_that_host() {
    let first = Mutex::new(None);
    let late = Arc::new(Mutex::new(Vec::new()));
    let seen = late.clone();
    let case = Case::new(4 * MIB, move |asked| {
        let mut first = first.lock().unwrap();
        let first = first.get_or_insert_with(Instant::now);
        // So many lanes may have asked before any of them is told to wait.
        if asked.number < 4 {
            return Act::status_with(429, "Retry-After", "1");
        }
        seen.lock().unwrap().push(first.elapsed());
        Act::Serve
    })
    .await;
    case.survives().await;
    let earliest = *late.lock().unwrap().iter().min().unwrap();
    assert!(earliest >= Duration::from_millis(990), "{earliest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_longer_than_anyone_waits_here_fails_at_once() {
    for value in [
        "1000000000",
        "9223372036854775807",
        "Fri, 01 Jan 2100 00:00:00 GMT",
    ] {
        let case = Case::new(4 * MIB, move |_| {
            Act::status_with(429, "Retry-After", value)
        })
        .await;
        let error = case.fails().await;
        assert!(
            error.to_string().contains("longer than anyone waits here"),
            "{error}"
        );
        assert!(matches!(error, FetchError::Busy { .. }), "{error:?}");
        assert!(error.is_transient(), "{error}");
        assert!(case.server.record().requests.len() <= 8);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_asks_one_fetch_to_wait_for_ages_does_not_block_the_next_one_for_ages() {
    let content = content(1, MIB as usize);
    let server = Faulty::start(&[("/file", content.clone())], |asked| match asked.number {
        0..4 => Act::status_with(429, "Retry-After", "1000000000"),
        _ => Act::Serve,
    })
    .await;
    let engine = engine(
        policy(&[server.url("/")]),
        Limits {
            connections: 1,
            patience: Duration::from_secs(1),
            ..limits()
        },
    );
    let blob = blob("b", &content, &[server.url("/file")]);
    let place = Place::new();
    assert!(fetch(&engine, &blob, &place).await.is_err());
    for _ in 0..4 {
        if within(20, fetch(&engine, &blob, &place)).await.is_ok() {
            return;
        }
    }
    panic!("it never recovers");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_retry_after_is_as_good_as_none() {
    together(
        ["soon", "", "-5", "1e3", "Thu, 01 Jan 1970 00:00:00 GMT"].map(|value| async move {
            let case = Case::new(MIB, move |asked| match asked.number {
                0 => Act::status_with(503, "Retry-After", value),
                _ => Act::Serve,
            })
            .await;
            case.survives().await;
        }),
    )
    .await;
}

/// Signs URLs that hold for one generation.
#[derive(Debug)]
struct Signing {
    base: Url,
    generation: Mutex<u32>,
    asked: Mutex<Vec<Option<StatusCode>>>,
}

impl Signing {
    fn new(base: Url) -> Arc<Self> {
        Arc::new(Self {
            base,
            generation: Mutex::new(0),
            asked: Mutex::default(),
        })
    }
}

impl Source for Signing {
    fn name(&self) -> String {
        "hub".into()
    }

    fn locate<'a>(
        &'a self,
        _http: &'a Http,
        refused: Option<StatusCode>,
    ) -> BoxFuture<'a, Result<Location, SourceError>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(refused);
            let mut generation = self.generation.lock().unwrap();
            *generation += 1;
            let mut url = self.base.clone();
            url.set_query(Some(&format!("sig={generation}")));
            Ok(FixedUrl::new(url).0)
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_that_expires_in_mid_file_is_renewed_once_and_every_byte_is_kept() {
    for status in [401, 403, 404, 410, 416] {
        let mut case = Case::new(16 * MIB, move |asked| {
            // Every five requests the signature changes.
            let valid = format!("sig={}", 1 + asked.number / 5);
            match asked.query == valid || asked.number > 40 {
                true => Act::Serve,
                false => Act::status(status),
            }
        })
        .await;
        let source = Signing::new(case.server.url("/file"));
        case.blob.sources = vec![source.clone()];
        // Two lanes: with more, the requests of the others alone can outdate each new signature.
        let limits = Limits {
            connections: 2,
            ..limits()
        };
        case.run_with(limits).await.unwrap();
        assert_eq!(case.sent_twice(), 0);
        let asked = source.asked.lock().unwrap();
        assert_eq!(asked[0], None);
        let renewals = &asked[1..];
        assert!(!renewals.is_empty() && renewals.len() <= 12, "{renewals:?}");
        assert!(
            renewals
                .iter()
                .all(|s| s.map(|s| s.as_u16()) == Some(status))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_lanes_refused_at_once_are_one_refusal() {
    let mut case = Case::new(32 * MIB, |asked| match asked.query.as_str() {
        "sig=1" => Act::status(403),
        _ => Act::Serve,
    })
    .await;
    let source = Signing::new(case.server.url("/file"));
    case.blob.sources = vec![source.clone()];
    let limits = Limits {
        connections: 16,
        ..limits()
    };
    case.run_with(limits).await.unwrap();
    assert_eq!(source.asked.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_refused_however_often_it_is_renewed_is_given_up() {
    let mut case = Case::new(4 * MIB, |_| Act::status(403)).await;
    let source = Signing::new(case.server.url("/file"));
    case.blob.sources = vec![source.clone()];
    let error = case.fails().await;
    assert!(
        error
            .to_string()
            .contains("403 Forbidden, 3 times in a row"),
        "{error}"
    );
    assert!(source.asked.lock().unwrap().len() <= 4);
}
