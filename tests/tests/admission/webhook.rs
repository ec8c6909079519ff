//! The webhook as the API server sees it: down, hanging, with a certificate that changes, and how soon
//! it answers.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use headstart_testbed::cluster::Process;
use serde_json::{Value, json};

use crate::{LEADER, REPO, SYSTEM, WAIT, World, pod};

/// Where the replicas keep their certificates, and under which key.
const SECRET: &str = "headstart-webhook";
const KEPT: &str = "certificates.json";

/// How long an old authority is still good for once a new one is wanted.
const LAST: u64 = 3;

impl World {
    /// A certificate is renewed, then its authority, then the new one signs: all the time pods are made,
    /// and each is changed.
    pub(crate) fn no_pod_is_missed_while_certificates_change(&self) -> Result<()> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let makes = scope.spawn(|| {
                let plain = pod("try", &json!({"headstart.dev/models": REPO}));
                let (mut count, mut longest) = (0, Duration::ZERO);
                while !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    let made = self.dry(&plain, "by-webhook")?;
                    longest = longest.max(asked.elapsed());
                    let note = &made["metadata"]["annotations"]["headstart.dev/injected"];
                    ensure!(note.is_string(), "number {count} was missed: {made:#}");
                    count += 1;
                }
                Ok((count, longest))
            });
            let renewed = self.renew();
            over.store(true, Ordering::Relaxed);
            let made = makes.join();
            renewed?;
            let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (count, longest) = made?;
            println!(
                "while certificates changed: {count} pods, none missed, longest {longest:.2?}"
            );
            ensure!(count >= 50, "{count}");
            Ok(())
        })
    }

    fn renew(&self) -> Result<()> {
        let before = self.certificates()?;
        let mut old = before.clone();
        old["serving"]["ends"] = old["serving"]["made"].clone();
        self.keep(&old)?;
        let renewed = self.until_kept(|kept| {
            kept["serving"]["certificate"] != before["serving"]["certificate"]
        })?;
        ensure!(
            renewed["authorities"] == before["authorities"],
            "the authority was changed, too"
        );
        let mut old = renewed.clone();
        old["authorities"][0]["ends"] =
            json!(jiff::Timestamp::now().as_second().cast_unsigned() + LAST);
        self.keep(&old)?;
        let both = self.until_kept(|kept| kept["authorities"][1].is_object())?;
        ensure!(
            both["serving"] == renewed["serving"],
            "a new authority signs before callers know it"
        );
        let bundle: String = both["authorities"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["certificate"].as_str())
            .collect();
        let bundle = base64::engine::general_purpose::STANDARD.encode(bundle);
        let webhook =
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/headstart";
        self.api().until(webhook, WAIT, |webhook| {
            webhook["webhooks"][0]["clientConfig"]["caBundle"] == bundle.as_str()
        })?;
        // The old one's time comes to its end. Replicas look once a minute, or when the Secret changes.
        let last =
            self.until_kept(|kept| kept["serving"]["signed_by"] == both["authorities"][1]["made"])?;
        ensure!(last["serving"]["certificate"] != both["serving"]["certificate"]);
        Ok(())
    }

    fn certificates(&self) -> Result<Value> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{SECRET}");
        let secret = self.api().find(&path)?.context("the Secret")?;
        let kept = secret["data"][KEPT].as_str().unwrap_or_default();
        let kept = base64::engine::general_purpose::STANDARD.decode(kept)?;
        Ok(serde_json::from_slice(&kept)?)
    }

    fn keep(&self, kept: &Value) -> Result<()> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{SECRET}");
        let kept = base64::engine::general_purpose::STANDARD.encode(kept.to_string());
        self.api().patch(&path, &json!({"data": {KEPT: kept}}))?;
        Ok(())
    }

    fn until_kept(&self, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/secrets/{SECRET}");
        let deadline = Instant::now() + WAIT;
        for look in 0.. {
            let kept = self.certificates()?;
            if is(&kept) {
                return Ok(kept);
            }
            ensure!(Instant::now() < deadline, "certificates stay: {kept:#}");
            let note = json!({"metadata": {"annotations": {"look": look.to_string()}}});
            self.api().patch(&path, &note)?;
            std::thread::sleep(Duration::from_millis(100));
        }
        unreachable!("it looks until the deadline")
    }

    pub(crate) fn a_webhook_that_is_down_or_hangs_holds_nothing_up(&self) -> Result<()> {
        let plain = pod("try", &json!({"headstart.dev/models": REPO}));
        let daemon = self.daemons().last().context("a daemon")?.clone();
        let untouched = |what: &str, at_most: Duration| -> Result<()> {
            let asked = Instant::now();
            let made = self.dry(&plain, "by-webhook")?;
            let took = asked.elapsed();
            println!("a pod beside a webhook that {what}: {took:.2?}");
            ensure!(took < at_most, "{what}: {took:?}");
            let spec = made["spec"].to_string();
            ensure!(!spec.contains("headstart"), "{what}: {spec}");
            ensure!(made["metadata"]["annotations"]["headstart.dev/injected"].is_null());
            Ok(())
        };
        let stopped = Stopped::now(&daemon)?;
        // The chart's timeout is two seconds.
        untouched("hangs", Duration::from_secs(4))?;
        drop(stopped);
        self.until_changed("by-webhook")?;
        daemon.kill();
        daemon.until_gone(WAIT)?;
        untouched("is down", Duration::from_secs(1))?;
        // The same certificates serve on.
        self.daemon(0, &LEADER)?;
        self.until_changed("by-webhook")
    }

    /// What the API server has counted of the webhook's answers.
    pub(crate) fn reviews(&self) -> Result<Reviews> {
        let text = self.api().text("/metrics")?;
        let mut reviews = Reviews::default();
        let ours = text
            .lines()
            .filter(|line| line.contains("\"pods.headstart.dev\""));
        for line in ours {
            let (name, value) = line.rsplit_once(' ').context("a sample")?;
            let value: f64 = value.parse()?;
            if name.starts_with("apiserver_admission_webhook_admission_duration_seconds_bucket") {
                let bound = name
                    .split("le=\"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next());
                let bound: f64 = bound.context("a bound")?.parse()?;
                match reviews.buckets.iter_mut().find(|(at, _)| *at == bound) {
                    Some((_, count)) => *count += value,
                    None => reviews.buckets.push((bound, value)),
                }
            } else if name.starts_with("apiserver_admission_webhook_fail_open_count") {
                reviews.missed += value;
            }
        }
        reviews.buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Ok(reviews)
    }
}

/// The API server's histogram of one webhook: how many answers came within how many seconds.
#[derive(Debug, Default)]
pub(crate) struct Reviews {
    buckets: Vec<(f64, f64)>,
    missed: f64,
}

impl Reviews {
    /// Those after `before`.
    pub(crate) fn since(self, before: &Self) -> Self {
        let count = |bound: f64| {
            let mut buckets = before.buckets.iter();
            buckets
                .find(|(at, _)| *at == bound)
                .map_or(0.0, |(_, count)| *count)
        };
        let buckets = self.buckets.into_iter();
        let buckets = buckets.map(|(bound, after)| (bound, after - count(bound)));
        Self {
            buckets: buckets.collect(),
            missed: self.missed - before.missed,
        }
    }

    /// Says how soon they came. The bound is five times what is promised: other programs run on the
    /// machine of the tests, and the daemon is one for debugging.
    pub(crate) fn were_quick(&self) -> Result<()> {
        let all = self.buckets.last().map_or(0.0, |(_, count)| *count);
        let within = |share: f64| {
            let mut buckets = self.buckets.iter();
            buckets
                .find(|(_, count)| *count >= share * all)
                .map(|(bound, _)| *bound)
        };
        let (half, most) = (
            within(0.5).unwrap_or(f64::MAX),
            within(0.99).unwrap_or(f64::MAX),
        );
        let counts = &self.buckets[..self.buckets.len().min(6)];
        println!(
            "{all} reviews as the API server counts them: p50 within {half} s, p99 within {most} s, {counts:?}"
        );
        ensure!(all >= 500.0, "{all} reviews");
        ensure!(most <= 0.1, "p99 is within {most} s");
        ensure!(self.missed == 0.0, "{} pods were missed", self.missed);
        Ok(())
    }
}

/// A process that stands still until this is dropped.
pub(crate) struct Stopped(Process);

impl Stopped {
    pub(crate) fn now(process: &Process) -> Result<Self> {
        signal(process, "-STOP")?;
        Ok(Self(process.clone()))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that is gone stands still no more.
        let _ = signal(&self.0, "-CONT");
    }
}

fn signal(process: &Process, signal: &str) -> Result<()> {
    let pid = process.pid.to_string();
    let status = Command::new("kill").args([signal, &pid]).status()?;
    ensure!(status.success(), "kill {signal} {pid}");
    Ok(())
}
