//! Against Prometheus itself: what it says of the text, of the alerts, and of every panel's query when
//! it scrapes a control plane at work.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use headstart_core::pod::ObjectKey;
use serde_json::Value;
use tokio::sync::watch;

use super::chart::{Asked, chart, panels};
use super::*;
use crate::ledger::clerk::Clerk;
use crate::ledger::tests::{self as world, moment};
use crate::metrics::label::{Admitted, Object, Opened, Outcome, Phase, RoundEnd, Verb};

const PATIENCE: Duration = Duration::from_secs(60);

/// Metrics of a control plane that has done everything once: two deploys through the real ledger, the
/// rest as the loop would say it. Before `served` the deploys are still under way.
fn at_work(metrics: &Arc<Metrics>, clerk: &mut Clerk, served: bool) {
    let (mut objects, _) = world::hidden(200.0);
    let late = world::pod(Some("n1"), world::running(91.0, 133.0, Some(187.0)));
    let mut late = (*late).clone();
    late.metadata.uid = Some("late".to_owned());
    late.metadata.name = Some("late".to_owned());
    objects.pods.push(Arc::new(late));
    if !served {
        objects.pods = vec![world::pod(None, json!({"phase": "Pending"}))];
        let mut cache = (*objects.caches[0]).clone();
        cache.status.as_mut().unwrap().items.clear();
        objects.caches = vec![Arc::new(cache)];
    }
    let mut claim = (*objects.claims[0]).clone();
    claim.status.as_mut().unwrap().instance = Some(headstart_api::Instance::default());
    objects.claims = vec![Arc::new(claim)];
    let list_price = |_: &headstart_api::ClaimOffering| HourlyPrice::from_usd(1.0).ok();
    clerk.look(objects, &list_price, moment(200.0));

    metrics.buys_from("kwok");
    metrics.leads(Leads::Yes);
    for phase in Phase::ALL {
        metrics.step(*phase, Duration::from_millis(3));
    }
    metrics.round(RoundEnd::Applied, jiff::Timestamp::now());
    metrics.wrote(Object::NodeClaim, Verb::Apply, Outcome::Ok);
    metrics.admitted(Admitted::Changed, Duration::from_millis(2));
    metrics.gate_opened(Opened::Nominated);
    metrics.node_created("kwok", CapacityType::Spot);
    metrics.node_terminated("kwok", Some(CapacityType::Spot), Reason::INTERRUPTED);
    let said = String::new();
    metrics.node_refused("kwok", &Refusal::OutOfCapacity { said });
    let mut plan = Plan::default();
    let impossible = NotServed::Impossible {
        what: String::new(),
    };
    plan.unserved.push((ObjectKey::new("a", "b"), impossible));
    metrics.planned(&plan, &[], &RetirementPlan::default());
}

fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool of Debian's prometheus");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn promtool_has_nothing_to_say_against_the_text() {
    let metrics = Arc::new(Metrics::new());
    let mut clerk = Clerk::since(moment(0.0), metrics.clone());
    at_work(&metrics, &mut clerk, true);
    let text = metrics.encode(Format::Prometheus);
    let (fine, said) = promtool(&["check", "metrics"], &text);
    assert!(fine && said.is_empty(), "{said}");
    // It can say something.
    let (fine, _) = promtool(&["check", "metrics"], "# TYPE x counter\nx{ 1\n");
    assert!(!fine);
}

#[test]
fn promtool_finds_each_alert_silent_when_all_is_well_and_speaking_when_it_should() {
    for path in chart("alerts") {
        let (fine, said) = promtool(&["check", "rules", path.to_str().unwrap()], "");
        assert!(fine, "{said}");
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/alerts");
        let tests = tests.join(path.file_name().unwrap());
        let (fine, said) = promtool(&["test", "rules", tests.to_str().unwrap()], "");
        assert!(fine, "{said}");
    }
}

/// A Prometheus that ends with the test.
struct Prometheus {
    process: Child,
    address: String,
    _home: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    fn scraping(target: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: headstart, \
             static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        let file = home.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        // Somebody else could take the port in between; then it ends, and says so.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                home.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Debian's prometheus");
        Self {
            process,
            address,
            _home: home,
        }
    }

    async fn query(&self, client: &reqwest::Client, expression: &str) -> Vec<Value> {
        let mut url = url::Url::parse(&format!("http://{}/api/v1/query", self.address)).unwrap();
        url.query_pairs_mut().append_pair("query", expression);
        let Ok(answer) = client.get(url).send().await else {
            return Vec::new();
        };
        let text = answer.text().await.unwrap_or_default();
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        assert_ne!(answer["status"], "error", "{expression}: {text}");
        let found = answer["data"]["result"].as_array();
        found.cloned().unwrap_or_default()
    }
}

/// Whether a result has a number in it.
fn has_data(result: &[Value]) -> bool {
    let numbers = result.iter().filter_map(|one| one["value"][1].as_str());
    let numbers: Vec<f64> = numbers.filter_map(|text| text.parse().ok()).collect();
    numbers.iter().any(|number| number.is_finite())
}

#[tokio::test]
async fn every_panel_has_data_when_prometheus_scrapes_a_control_plane_at_work() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let metrics = Arc::new(Metrics::new());
    let mut clerk = Clerk::since(moment(0.0), metrics.clone());
    at_work(&metrics, &mut clerk, false);
    let (_shown, latest) = watch::channel(Arc::default());
    let app = crate::page::router(latest).merge(crate::page::metrics(metrics.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let prometheus = Prometheus::scraping(&target);

    let deadline = Instant::now() + PATIENCE;
    let wait = async |expression: &str, what: &str| {
        loop {
            let found = prometheus.query(&client, expression).await;
            if has_data(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}: {expression}: {found:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // What is counted next must have been nothing before.
    wait(
        "count_over_time(headstart_leader[1m]) >= 2",
        "the first scrapes",
    )
    .await;
    at_work(&metrics, &mut clerk, true);
    let served = "sum(increase(headstart_deploy_duration_seconds_count[1h])) > 0";
    wait(served, "the deploys").await;

    for Asked { place, expression } in panels() {
        wait(&expression, &place).await;
    }
    // Not only some number: the ledger's own.
    let exposed = wait(
        "sum(headstart_deploy_exposed_byte_seconds_count)",
        "both deploys",
    )
    .await;
    assert_eq!(exposed[0]["value"][1], "2");
    let wall = wait("sum(headstart_deploy_duration_seconds_sum)", "their time").await;
    assert_eq!(wall[0]["value"][1], (147 + 187).to_string());
    let stages = wait(
        "sum(headstart_deploy_critical_path_seconds_sum)",
        "their stages",
    )
    .await;
    let sum: f64 = stages[0]["value"][1].as_str().unwrap().parse().unwrap();
    assert!((sum - 334.0).abs() < 1e-6, "{sum}");
}
