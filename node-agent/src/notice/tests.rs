use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::sync::mpsc;

use super::door::Verb;
use super::*;

/// A service that is asked without a network, in time that does not pass.
#[derive(Clone)]
struct Fake {
    answers: Arc<Answers>,
    asked: Arc<Mutex<Vec<(Instant, String)>>>,
}

/// By path with its query, and how often that path was asked before.
type Answers = dyn Fn(&str, usize) -> Script + Send + Sync;

/// What becomes of one question.
enum Script {
    Says(u16, &'static str),
    /// It holds the question for so many seconds before.
    Holds(u64, &'static str),
    Away,
}

impl Fake {
    fn new(answers: impl Fn(&str, usize) -> Script + Send + Sync + 'static) -> Self {
        Self {
            answers: Arc::new(answers),
            asked: Arc::default(),
        }
    }

    /// Questions so far whose path begins so.
    fn asked(&self, path: &str) -> Vec<Instant> {
        let asked = self.asked.lock().unwrap();
        let asked = asked.iter().filter(|(_, it)| it.starts_with(path));
        asked.map(|(at, _)| *at).collect()
    }
}

impl Metadata for Fake {
    async fn ask(&self, question: Question<'_>) -> Result<Answer, Away> {
        let (path, _) = question.path.split_once('?').unwrap_or((question.path, ""));
        let before = self.asked(path).len();
        let asked = (Instant::now(), question.path.to_owned());
        self.asked.lock().unwrap().push(asked);
        let (status, body) = match (self.answers)(question.path, before) {
            Script::Says(status, body) => (status, body),
            Script::Holds(seconds, body) => {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                (200, body)
            }
            Script::Away => {
                return Err(Away::Unaskable {
                    path: path.to_owned(),
                });
            }
        };
        let mut headers = http::HeaderMap::new();
        headers.insert("metadata-flavor", "Google".parse().unwrap());
        headers.insert("etag", "v1".parse().unwrap());
        Ok(Answer {
            status,
            headers,
            body: body.to_owned(),
        })
    }
}

/// What is said within `seconds` of a time that does not pass.
async fn said(source: NoticeSource, fake: &Fake, seconds: u64) -> Vec<Option<Interruption>> {
    let mut said = Vec::new();
    let following = follow(source, fake.clone(), |notice| said.push(notice));
    let _ = tokio::time::timeout(Duration::from_secs(seconds), following).await;
    said
}

fn kinds(said: &[Option<Interruption>]) -> Vec<Option<InterruptionKind>> {
    let kinds = said.iter().map(|it| it.as_ref().map(|it| it.kind));
    kinds.collect()
}

const TAKEN: Option<InterruptionKind> = Some(InterruptionKind::Taken);
const ACTION: &str = r#"{"action": "terminate", "time": "2026-11-25T18:29:47Z"}"#;
const EVENTS: &str = r#"{"DocumentIncarnation": 3, "Events": [{"EventId": "x", "EventType": "Preempt",
    "ResourceType": "VirtualMachine", "Resources": ["aks-gpu_0", "AKS-GPU_7"],
    "EventStatus": "Scheduled", "NotBefore": "Wed, 25 Nov 2026 18:29:47 GMT"}]}"#;

/// A quiet service of each cloud.
fn quiet(path: &str) -> Script {
    match path {
        "/latest/api/token" => Script::Says(200, "token"),
        _ if path.contains("name?") => Script::Says(200, "aks-gpu_7\n"),
        _ if path.contains("scheduledevents") => Script::Says(200, r#"{"Events": []}"#),
        _ if path.contains("wait_for_change") => Script::Holds(50, "FALSE"),
        _ if path.contains("preempted") => Script::Says(200, "FALSE"),
        _ if path.contains("maintenance-event") => Script::Says(200, "NONE"),
        _ => Script::Says(404, ""),
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_service_is_asked_once_in_five_seconds_at_most_whoever_it_is() {
    for source in NoticeSource::ALL {
        let fake = Fake::new(|path, _| quiet(path));
        assert_eq!(said(source, &fake, 3600).await, []);
        let asked = fake.asked("/").len();
        assert!((60..=722 + 1).contains(&asked), "{source:?}: {asked}");
    }
    // One that answers at once where it should wait is asked no more often.
    let hasty = Fake::new(|path, _| match quiet(path) {
        Script::Holds(_, body) => Script::Says(200, body),
        other => other,
    });
    assert_eq!(said(NoticeSource::Gcp, &hasty, 3600).await, []);
    let asked = hasty.asked("/").len();
    assert!((700..=723).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_spot_machine_is_looked_at_every_five_seconds_and_every_ten_at_worst() {
    let fake = Fake::new(|path, _| quiet(path));
    said(NoticeSource::Aws, &fake, 600).await;
    let looks = fake.asked("/latest/meta-data/spot/instance-action");
    let worst = looks.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    assert_eq!(worst, Duration::from_secs(10));
    let others = fake.asked("/latest/meta-data/events/recommendations/rebalance");
    assert!((19..=21).contains(&others.len()), "{}", others.len());
    assert_eq!(fake.asked("/latest/api/token").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_machine_bought_on_demand_is_not_asked_about_for_ever() {
    let fake = Fake::new(|path, _| match path {
        "/latest/meta-data/instance-life-cycle" => Script::Says(200, "on-demand"),
        other => quiet(other),
    });
    assert_eq!(said(NoticeSource::Aws, &fake, 3600).await, []);
    assert_eq!(fake.asked("/").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_recommendation_is_a_risk_and_the_notice_that_follows_is_worse() {
    let fake = Fake::new(|path, before| match path {
        "/latest/meta-data/events/recommendations/rebalance" => {
            Script::Says(200, r#"{"noticeTime": "2026-11-25T08:22:00Z"}"#)
        }
        "/latest/meta-data/spot/instance-action" if before > 20 => Script::Says(200, ACTION),
        other => quiet(other),
    });
    let said = said(NoticeSource::Aws, &fake, 600).await;
    assert_eq!(kinds(&said), [Some(InterruptionKind::AtRisk), TAKEN]);
    let at = said[1].as_ref().unwrap().at.clone().unwrap();
    assert_eq!(at.0.to_string(), "2026-11-25T18:29:47Z");
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_heard_once_and_taken_back_when_the_service_takes_it_back() {
    let fake = Fake::new(|path, before| match path {
        "/latest/meta-data/spot/instance-action" if (3..9).contains(&before) => {
            Script::Says(200, ACTION)
        }
        other => quiet(other),
    });
    let said = said(NoticeSource::Aws, &fake, 600).await;
    assert_eq!(kinds(&said), [TAKEN, None]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_is_replaced() {
    let fake = Fake::new(|path, before| match path {
        "/latest/meta-data/spot/instance-action" if before == 1 => Script::Says(401, ""),
        "/latest/meta-data/spot/instance-action" if before == 2 => Script::Says(200, ACTION),
        other => quiet(other),
    });
    let said = said(NoticeSource::Aws, &fake, 60).await;
    assert_eq!(kinds(&said)[0], TAKEN);
    assert_eq!(fake.asked("/latest/api/token").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_or_talks_nonsense_is_asked_ever_more_rarely_and_heard_again() {
    let nonsense: [fn() -> Script; 6] = [
        || Script::Away,
        || Script::Says(500, "oops"),
        || Script::Says(200, "<html>a proxy</html>"),
        || Script::Says(200, "{}"),
        || Script::Says(301, ""),
        || Script::Says(200, ""),
    ];
    for source in NoticeSource::ALL {
        for (number, nonsense) in nonsense.into_iter().enumerate() {
            let fake = Fake::new(move |_, _| nonsense());
            assert_eq!(said(source, &fake, 3600).await, [], "{source:?} {number}");
            let asked = fake.asked("/").len();
            assert!((50..140).contains(&asked), "{source:?} {number}: {asked}");
        }
    }
    // What was known stays known meanwhile.
    let fake = Fake::new(|path, before| match (path, before) {
        ("/latest/meta-data/spot/instance-action", 0) => Script::Says(200, ACTION),
        ("/latest/meta-data/spot/instance-action", 1..5) => Script::Away,
        (path, _) => match quiet(path) {
            Script::Says(404, _) if path.contains("action") => Script::Says(200, ACTION),
            other => other,
        },
    });
    let said = said(NoticeSource::Aws, &fake, 600).await;
    assert_eq!(kinds(&said), [TAKEN]);
}

#[tokio::test(start_paused = true)]
async fn a_preempted_machine_is_told_while_its_question_is_held() {
    let fake = Fake::new(|path, before| match path {
        _ if path.contains("wait_for_change") && before == 2 => Script::Holds(3, "TRUE"),
        _ if path.contains("preempted") && before > 2 => Script::Holds(50, "TRUE"),
        other => quiet(other),
    });
    let said = said(NoticeSource::Gcp, &fake, 600).await;
    assert_eq!(kinds(&said), [TAKEN]);
    let notice = said[0].clone().unwrap();
    let (noticed, at) = (notice.noticed.unwrap().0, notice.at.unwrap().0);
    let left = at.duration_since(noticed).as_secs_f64();
    assert!((29.0..=30.0).contains(&left), "{left}");
    let asked = fake.asked.lock().unwrap();
    assert!(asked[2].1.contains("last_etag=v1"), "{}", asked[2].1);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_maintained_stops_its_machine_unless_it_moves_it_alive() {
    for (event, expected) in [
        (
            "TERMINATE_ON_HOST_MAINTENANCE",
            vec![Some(InterruptionKind::Maintenance)],
        ),
        ("MIGRATE_ON_HOST_MAINTENANCE", vec![]),
        ("what nobody knows", vec![]),
    ] {
        let fake = Fake::new(move |path, _| match path {
            _ if path.contains("maintenance-event") => Script::Says(200, event),
            other => quiet(other),
        });
        let said = said(NoticeSource::Gcp, &fake, 60).await;
        assert_eq!(kinds(&said), expected, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_counts_when_it_ends_this_machine_and_no_other() {
    let event = |what: &'static str, name: &'static str| {
        let fake = Fake::new(move |path, _| match path {
            _ if path.contains("scheduledevents") => Script::Says(200, what),
            _ if path.contains("name?") => Script::Says(200, name),
            other => quiet(other),
        });
        async move { kinds(&said(NoticeSource::Azure, &fake, 60).await) }
    };
    assert_eq!(event(EVENTS, "aks-gpu_7").await, [TAKEN]);
    assert_eq!(event(EVENTS, "aks-gpu_8").await, []);
    assert_eq!(event(EVENTS, "aks-gpu").await, []);
    let started = r#"{"Events": [{"EventType": "Terminate", "Resources": ["a"],
        "EventStatus": "Started", "NotBefore": ""}]}"#;
    assert_eq!(event(started, "a").await, [TAKEN]);
    let reboot = r#"{"Events": [{"EventType": "Reboot", "Resources": ["a"]}, {"Other": 1}]}"#;
    assert_eq!(event(reboot, "a").await, []);
}

/// A service on loopback, with what it was asked.
struct Site {
    url: Url,
    asked: mpsc::UnboundedReceiver<Request>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Site {
    async fn open(answers: impl Fn(&Request) -> Response + Clone + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = door::endpoint(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let (tell, asked) = mpsc::unbounded_channel();
        let router = Router::new().fallback(async move |request: Request| {
            let answer = answers(&request);
            let _ = tell.send(request);
            answer
        });
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            asked,
            serving,
        }
    }

    /// The first notice that is heard.
    async fn first(&self, source: NoticeSource) -> Interruption {
        let door = Door::open(Some(&self.url)).unwrap();
        let (say, mut said) = mpsc::unbounded_channel();
        let following = follow(source, door, move |notice| say.send(notice).unwrap());
        tokio::select! {
            () = following => panic!("it says nothing"),
            first = said.recv() => first.flatten().unwrap(),
        }
    }
}

fn says(body: &'static str) -> Response {
    ([("Metadata-Flavor", "Google"), ("ETag", "v1")], body).into_response()
}

#[tokio::test]
async fn each_cloud_is_asked_as_it_wants_to_be_asked() {
    let has = |request: &Request, name: &str, value: &str| {
        request.headers().get(name).is_some_and(|it| it == value)
    };
    let site = Site::open(move |request| {
        let path = request.uri().path();
        match path {
            "/latest/api/token" => {
                let named = request.headers();
                let asked = named.contains_key("X-aws-ec2-metadata-token-ttl-seconds");
                match asked && request.method() == Method::PUT {
                    true => says("secret=="),
                    false => StatusCode::BAD_REQUEST.into_response(),
                }
            }
            _ if path.starts_with("/latest/") => {
                match has(request, "X-aws-ec2-metadata-token", "secret==") {
                    true if path.ends_with("/spot/instance-action") => says(ACTION),
                    true if path.ends_with("life-cycle") => says("spot"),
                    true => StatusCode::NOT_FOUND.into_response(),
                    false => StatusCode::UNAUTHORIZED.into_response(),
                }
            }
            "/computeMetadata/v1/instance/preempted"
                if has(request, "Metadata-Flavor", "Google") =>
            {
                says("TRUE")
            }
            "/metadata/instance/compute/name" if has(request, "Metadata", "true") => {
                says("aks-gpu_7")
            }
            "/metadata/scheduledevents" if has(request, "Metadata", "true") => says(EVENTS),
            _ => StatusCode::FORBIDDEN.into_response(),
        }
    })
    .await;
    for source in NoticeSource::ALL {
        let notice = site.first(source).await;
        assert_eq!(
            (notice.kind, notice.source),
            (InterruptionKind::Taken, source)
        );
        assert!(
            notice.noticed.is_some() && notice.at.is_some(),
            "{notice:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_no_credential_is_sent() {
    let mut elsewhere = Site::open(|_| says("TRUE")).await;
    let there = elsewhere.url.clone();
    let mut site =
        Site::open(move |_| (StatusCode::FOUND, [("Location", there.as_str())]).into_response())
            .await;
    let door = Door::open(Some(&site.url)).unwrap();
    let answer = door
        .ask(Question {
            verb: Verb::Get,
            path: "/computeMetadata/v1/instance/preempted",
            headers: &[],
            patience: Duration::from_secs(30),
        })
        .await
        .unwrap();
    assert_eq!(answer.status, 302);
    let request = site.asked.recv().await.unwrap();
    for secret in ["authorization", "cookie", "proxy-authorization"] {
        assert!(!request.headers().contains_key(secret), "{secret}");
    }
    assert!(elsewhere.asked.try_recv().is_err());
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let long: &'static str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    let site = Site::open(move |_| says(long)).await;
    let door = Door::open(Some(&site.url)).unwrap();
    let answer = door.ask(Question {
        verb: Verb::Get,
        path: "/latest/api/token",
        headers: &[],
        patience: Duration::from_secs(30),
    });
    let error = chain(&answer.await.unwrap_err());
    assert!(error.contains("/latest/api/token"), "{error}");
}

#[test]
fn the_worst_of_what_was_announced_counts_and_of_two_the_sooner() {
    let at = |second| Timestamp::from_second(second).ok();
    let notice = |kind, at| Announced { kind, at };
    let risk = notice(InterruptionKind::AtRisk, at(1));
    let (late, soon) = (
        notice(InterruptionKind::Taken, at(9)),
        notice(InterruptionKind::Taken, at(5)),
    );
    let mut all = VecDeque::from([risk, late, soon]);
    for _ in 0..3 {
        all.rotate_left(1);
        assert_eq!(worst(all.iter().copied()), Some(soon));
    }
    assert_eq!(worst([]), None);
}
