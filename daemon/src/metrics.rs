//! What the control plane counts, for Prometheus.
//!
//! One family per field of [`Metrics`]; names and meanings are in [`Metrics::new`] and nowhere else.
//! Label values come from enums (`label`), so the number of series is bounded by their products: the
//! largest family, the critical path by stage, has at most 144 label sets. What the ledger shows is
//! written by the replica that leads, so that a sum over replicas is right.
//!
//! **Saved** is two figures, never added up. `nodes_saved_usd_per_hour`: what the nodes that are there
//! would cost more per hour on demand, at the list price of the same type in the same zone.
//! `hidden_wait_saved_usd_total`: the price of a deploy's node over its hidden byte time, which in
//! the order of one thing after another the node would have idled.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use headstart_core::money::HourlyPrice;
use headstart_core::offer::CapacityType;
use headstart_core::plan::{Plan, Prefetch, RetirementPlan, Target, Urgency};
use headstart_provider::Refusal;
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use self::label::{
    Admission, Admitted, Build, Capacity, Created, Decided, Decision, Ended, Exposure, Fetch,
    Found, Gate, Held, Kind, Moved, Notice, Noticed, Object, OfCapacity, OfDeploy, OfStage, Opened,
    Outcome, Phase, Reason, Refused, Reporting, Request, RoundEnd, Source, Step, Terminated,
    Threat, Verb, Waiting, Write,
};
use crate::ledger::{Cached, Deploy, Fetched, ItemKind, Stage};

mod format;
pub(crate) mod inventory;
pub(crate) mod label;

pub(crate) use self::format::Format;

type Seconds = fn() -> Histogram;
type Dollars = Gauge<f64, AtomicU64>;

/// All families.
pub(crate) struct Metrics {
    registry: Registry,
    /// Every family with its type, those without a value yet among them.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "tests compare dashboards with it")
    )]
    families: Vec<(String, MetricType)>,
    deploy_duration: Family<OfDeploy, Histogram, Seconds>,
    critical_path: Family<OfStage, Histogram, Seconds>,
    exposed: Family<OfDeploy, Histogram, Seconds>,
    deploys_waiting: Family<Waiting, Gauge>,
    deploy_bytes: Family<Moved, Counter>,
    cache_requests: Family<Request, Counter>,
    prefetch_bytes: Family<Fetch, Counter>,
    prefetch_duration: Family<Kind, Histogram, Seconds>,
    cache_items: Family<Held, Gauge>,
    cache_bytes: Family<Kind, Gauge>,
    cache_room: Gauge,
    cache_nodes: Family<Reporting, Gauge>,
    decisions: Family<Decided, Gauge>,
    created: Family<Created, Counter>,
    terminated: Family<Terminated, Counter>,
    refused: Family<Refused, Counter>,
    notices: Family<Noticed, Counter>,
    nodes: Family<OfCapacity, Gauge>,
    cost: Family<OfCapacity, Dollars>,
    saved: Family<OfCapacity, Dollars>,
    hidden_saved: Counter<f64, AtomicU64>,
    rounds: Family<Ended, Counter>,
    round_duration: Family<Step, Histogram, Seconds>,
    last_round: Gauge<f64, AtomicU64>,
    writes: Family<Write, Counter>,
    admission_duration: Family<Admission, Histogram, Seconds>,
    gates: Family<Gate, Counter>,
    leader: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A deploy takes seconds on a warm node and half an hour in the worst order.
fn of_deploys() -> Histogram {
    Histogram::new([
        1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 240.0, 300.0, 420.0,
        600.0, 900.0, 1200.0, 1800.0,
    ])
}

/// A request or a step takes a millisecond to seconds; 0.02 and 0.25 are promises.
fn of_calls() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0,
    ])
}

impl Metrics {
    /// All families, at nothing.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Self::within(&mut registry);
        Self {
            registry,
            ..metrics
        }
    }

    /// All families, at nothing, as part of a registry that somebody else writes out.
    pub(crate) fn within(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("headstart");
        let mut families = Families {
            registry,
            names: Vec::new(),
        };
        let seconds = |buckets: Seconds| Family::new_with_constructor(buckets);
        let metrics = Self {
            deploy_duration: families.add(
                "deploy_duration_seconds",
                "Time from a pod's creation until it was Ready",
                Family::new_with_constructor(of_deploys as Seconds),
            ),
            critical_path: families.add(
                "deploy_critical_path_seconds",
                "The part of that time that one stage held the deploy up; the stages sum to it",
                Family::new_with_constructor(of_deploys as Seconds),
            ),
            exposed: families.add(
                "deploy_exposed_byte_seconds",
                "The part of that time that a deploy waited for bytes of images and weights",
                Family::new_with_constructor(of_deploys as Seconds),
            ),
            deploys_waiting: families.plain(
                "deploys_waiting",
                "Deploys under way, by the stage they wait for",
            ),
            deploy_bytes: families.plain(
                "deploy_bytes",
                "Bytes that deploys started with: there beforehand, hidden behind another wait, or exposed",
            ),
            cache_requests: families.plain(
                "cache_requests",
                "Items that deploys started with, by how much of each was there when the pod was created",
            ),
            prefetch_bytes: families.plain(
                "prefetch_bytes",
                "Bytes of items that agents fetched and verified, by where they came from",
            ),
            prefetch_duration: families.add(
                "prefetch_duration_seconds",
                "Time from the first byte asked for until an item was verified",
                Family::new_with_constructor(of_deploys as Seconds),
            ),
            cache_items: families.plain("cache_items", "Items on nodes, by how far each is"),
            cache_bytes: families.plain("cache_bytes", "Bytes of verified items on nodes"),
            cache_room: families.plain("cache_room_bytes", "Bytes that agents may still write"),
            cache_nodes: families.plain(
                "cache_nodes",
                "Nodes that are to have something, by whether their agent reports",
            ),
            decisions: families.plain(
                "decisions",
                "What the last plan decided, and why: pods, items and nodes",
            ),
            created: families.plain("nodes_created", "Instances that a provider gave"),
            terminated: families.plain("nodes_terminated", "Instances given back or lost"),
            refused: families.plain("instance_create_errors", "Instances that a provider refused"),
            notices: families.plain(
                "interruption_notices",
                "Machines of which it was told that they will not stay",
            ),
            nodes: families.plain("nodes", "Instances of claims"),
            cost: families.plain("nodes_cost_usd_per_hour", "Price of the instances of claims"),
            saved: families.plain(
                "nodes_saved_usd_per_hour",
                "What the same instances would cost more on demand",
            ),
            hidden_saved: families.plain(
                "hidden_wait_saved_usd",
                "Price of nodes over the hidden byte time of deploys, which they would have idled",
            ),
            rounds: families.plain("rounds", "Rounds of observe, plan, apply, publish"),
            round_duration: families.add(
                "round_duration_seconds",
                "Time that the steps of a round took",
                Family::new_with_constructor(of_calls as Seconds),
            ),
            last_round: families.plain(
                "last_round_timestamp_seconds",
                "When the last round ended, in seconds since 1970",
            ),
            writes: families.plain("api_writes", "Objects written to the API server"),
            admission_duration: families.add(
                "admission_duration_seconds",
                "Time that the webhook took for a pod",
                seconds(of_calls),
            ),
            gates: families.plain("gates_opened", "Scheduling gates of ours that were opened"),
            leader: families.plain("leader", "Whether this replica leads"),
            registry: Registry::default(),
            families: families.names,
        };
        let build = Build {
            version: env!("CARGO_PKG_VERSION"),
            revision: option_env!("HEADSTART_REVISION").unwrap_or("unknown"),
        };
        let help = "What this program was built from";
        registry.register("build", help, Info::new(build));
        // A counter that is absent until its first event hides that event from `increase`.
        for outcome in RoundEnd::ALL.iter().copied() {
            metrics.rounds.get_or_create(&Ended { outcome }).inc_by(0);
        }
        for reason in Opened::ALL.iter().copied() {
            metrics.gates.get_or_create(&Gate { reason }).inc_by(0);
        }
        for source in Notice::ALL.iter().copied() {
            for kind in Threat::ALL.iter().copied() {
                metrics
                    .notices
                    .get_or_create(&Noticed { source, kind })
                    .inc_by(0);
            }
        }
        for kind in ItemKind::ALL {
            for exposure in Exposure::ALL.iter().copied() {
                let bytes = metrics
                    .deploy_bytes
                    .get_or_create(&Moved { kind, exposure });
                bytes.inc_by(0);
            }
            drop(metrics.prefetch_duration.get_or_create(&Kind { kind }));
            for source in Source::ALL.iter().copied() {
                let fetched = metrics
                    .prefetch_bytes
                    .get_or_create(&Fetch { kind, source });
                fetched.inc_by(0);
            }
            for result in Found::ALL.iter().copied() {
                let requests = metrics
                    .cache_requests
                    .get_or_create(&Request { kind, result });
                requests.inc_by(0);
            }
        }
        metrics
    }

    /// All families as text; none of those that are part of somebody else's registry.
    pub(crate) fn encode(&self, format: Format) -> String {
        let mut written = String::new();
        let result = match format {
            Format::Prometheus => prometheus_text::encode(&mut written, &self.registry),
            Format::OpenMetrics => text::encode(&mut written, &self.registry),
        };
        result.expect("writing to a String cannot fail");
        written
    }

    /// Counts a deploy that serves. To be called once for each.
    pub(crate) fn deploy(&self, deploy: &Deploy) {
        let capacity_type = Capacity(deploy.capacity);
        let of_deploy = OfDeploy {
            cached: deploy.cached,
            capacity_type,
        };
        let seconds = |span: Duration| span.as_secs_f64();
        self.deploy_duration
            .get_or_create(&of_deploy)
            .observe(seconds(deploy.wall()));
        self.exposed
            .get_or_create(&of_deploy)
            .observe(seconds(deploy.exposed()));
        for stage in Stage::ALL {
            let labels = OfStage {
                stage,
                cached: deploy.cached,
                capacity_type,
            };
            let took = seconds(deploy.took(stage));
            self.critical_path.get_or_create(&labels).observe(took);
        }
        for item in &deploy.items {
            self.started_with(item);
        }
        if let Some(price) = deploy.price {
            let hours = deploy.hidden().as_secs_f64() / 3600.0;
            self.hidden_saved.inc_by(price.usd() * hours);
        }
    }

    fn started_with(&self, item: &Fetched) {
        let kind = item.kind;
        let result = Found::of(item.cached);
        self.cache_requests
            .get_or_create(&Request { kind, result })
            .inc();
        let bytes = item.bytes.unwrap_or(0);
        let moved = |exposure, bytes| {
            self.deploy_bytes
                .get_or_create(&Moved { kind, exposure })
                .inc_by(bytes);
        };
        match item.cached {
            Cached::Warm => moved(Exposure::Cached, bytes),
            Cached::Cold | Cached::Partial | Cached::Unknown => {
                moved(Exposure::Hidden, item.hidden_bytes());
                moved(Exposure::Exposed, item.exposed_bytes);
            }
        }
    }

    /// Shows how many deploys wait for what. What they will be counted under begins at nothing now:
    /// a counter that is absent until its first event hides that event from `increase`.
    pub(crate) fn waiting<'a>(&self, deploys: impl Iterator<Item = &'a Deploy>) {
        let mut counts = [0_i64; Stage::ALL.len()];
        let mut expected = std::collections::HashSet::new();
        for (deploy, stage) in deploys.filter_map(|deploy| Some((deploy, deploy.waits_for()?))) {
            counts[stage as usize] += 1;
            expected.insert((deploy.cached, Capacity(deploy.capacity)));
        }
        for (cached, capacity_type) in expected {
            let of_deploy = OfDeploy {
                cached,
                capacity_type,
            };
            drop(self.deploy_duration.get_or_create(&of_deploy));
            drop(self.exposed.get_or_create(&of_deploy));
            for stage in Stage::ALL {
                drop(self.critical_path.get_or_create(&OfStage {
                    stage,
                    cached,
                    capacity_type,
                }));
            }
        }
        for (stage, count) in Stage::ALL.into_iter().zip(counts) {
            self.deploys_waiting
                .get_or_create(&Waiting { stage })
                .set(count);
        }
    }

    /// Counts an item that an agent fetched and verified. To be called once for each.
    pub(crate) fn fetched(
        &self,
        kind: ItemKind,
        took: Option<Duration>,
        sources: impl Iterator<Item = (Source, u64)>,
    ) {
        if let Some(took) = took {
            let duration = self.prefetch_duration.get_or_create(&Kind { kind });
            duration.observe(took.as_secs_f64());
        }
        for (source, bytes) in sources {
            self.prefetch_bytes
                .get_or_create(&Fetch { kind, source })
                .inc_by(bytes);
        }
    }

    /// Shows what a round decided.
    pub(crate) fn planned(&self, plan: &Plan, fetches: &[Prefetch], removals: &RetirementPlan) {
        let mut counts = std::collections::HashMap::<(Decision, Reason), i64>::new();
        let mut add = |what| *counts.entry(what).or_default() += 1;
        plan.nodes
            .iter()
            .for_each(|_| add((Decision::Buy, Reason::BEST)));
        for placement in &plan.placements {
            if let Target::Node(_) = placement.target {
                add((Decision::Place, Reason::BEST));
            }
        }
        for (_, why) in &plan.unserved {
            add((Decision::Wait, Reason::not_served(why)));
        }
        for fetch in fetches {
            for item in &fetch.items {
                add(match item.urgency {
                    Urgency::Demand => (Decision::Fetch, Reason::DEMANDED),
                    Urgency::Ahead => (Decision::Fetch, Reason::AHEAD),
                });
            }
            for (_, why) in &fetch.skipped {
                add((Decision::NotFetch, Reason::not_fetched(why)));
            }
        }
        label::removals(removals).for_each(&mut add);
        // A scrape in between may see a part of it; the next sees all.
        self.decisions.clear();
        for ((decision, reason), count) in counts {
            self.decisions
                .get_or_create(&Decided { decision, reason })
                .set(count);
        }
    }

    /// Nodes come from this provider: what it gives and refuses begins at nothing.
    pub(crate) fn buys_from(&self, provider: &'static str) {
        for capacity in [
            CapacityType::OnDemand,
            CapacityType::Reserved,
            CapacityType::Spot,
        ] {
            let capacity_type = Capacity(Some(capacity));
            let created = Created {
                provider,
                capacity_type,
            };
            self.created.get_or_create(&created).inc_by(0);
        }
        for reason in Reason::REFUSALS {
            let refused = Refused { provider, reason };
            self.refused.get_or_create(&refused).inc_by(0);
        }
    }

    /// An instance was given.
    pub(crate) fn node_created(&self, provider: &'static str, capacity: CapacityType) {
        let capacity_type = Capacity(Some(capacity));
        self.created
            .get_or_create(&Created {
                provider,
                capacity_type,
            })
            .inc();
    }

    /// An instance was given back or lost.
    pub(crate) fn node_terminated(
        &self,
        provider: &'static str,
        capacity: Option<CapacityType>,
        reason: Reason,
    ) {
        let capacity_type = Capacity(capacity);
        let labels = Terminated {
            provider,
            capacity_type,
            reason,
        };
        self.terminated.get_or_create(&labels).inc();
    }

    /// An instance was refused.
    pub(crate) fn node_refused(&self, provider: &'static str, refusal: &Refusal) {
        let reason = Reason::refused(refusal);
        self.refused
            .get_or_create(&Refused { provider, reason })
            .inc();
    }

    /// It was told that a machine will not stay.
    pub(crate) fn noticed(&self, source: Notice, kind: Threat) {
        self.notices.get_or_create(&Noticed { source, kind }).inc();
    }

    /// A step of a round took so long.
    pub(crate) fn step(&self, phase: Phase, took: Duration) {
        self.round_duration
            .get_or_create(&Step { phase })
            .observe(took.as_secs_f64());
    }

    /// A round ended.
    pub(crate) fn round(&self, outcome: RoundEnd, now: jiff::Timestamp) {
        self.rounds.get_or_create(&Ended { outcome }).inc();
        self.last_round.set(now.as_millisecond() as f64 / 1000.0);
    }

    /// An object was written, or was to be.
    pub(crate) fn wrote(&self, object: Object, verb: Verb, outcome: Outcome) {
        self.writes
            .get_or_create(&Write {
                object,
                verb,
                outcome,
            })
            .inc();
    }

    /// The webhook answered.
    pub(crate) fn admitted(&self, outcome: Admitted, took: Duration) {
        let duration = self
            .admission_duration
            .get_or_create(&Admission { outcome });
        duration.observe(took.as_secs_f64());
    }

    /// A gate of ours was opened.
    pub(crate) fn gate_opened(&self, reason: Opened) {
        self.gates.get_or_create(&Gate { reason }).inc();
    }

    /// This replica leads from now on, or does not.
    pub(crate) fn leads(&self, leads: Leads) {
        self.leader.set(i64::from(leads == Leads::Yes));
    }

    /// Shows nothing any more of what the replica that leads shows.
    pub(crate) fn withdraw(&self) {
        self.deploys_waiting.clear();
        self.cache_items.clear();
        self.cache_bytes.clear();
        self.cache_room.set(0);
        self.cache_nodes.clear();
        self.decisions.clear();
        self.nodes.clear();
        self.cost.clear();
        self.saved.clear();
    }

    /// Shows what is there and what it costs.
    pub(crate) fn fleet(&self, capacity: Option<CapacityType>, fleet: Fleet) {
        let labels = OfCapacity {
            capacity_type: Capacity(capacity),
        };
        self.nodes.get_or_create(&labels).set(fleet.nodes);
        self.cost.get_or_create(&labels).set(fleet.cost.usd());
        self.saved.get_or_create(&labels).set(fleet.saved.usd());
    }

    /// Names and types of all families, those without a value yet among them.
    #[cfg(test)]
    pub(crate) fn families(&self) -> Vec<(String, MetricType)> {
        let names = self.families.iter().map(|(name, kind)| {
            let end = match kind {
                MetricType::Counter => "_total",
                _ => "",
            };
            (format!("headstart_{name}{end}"), *kind)
        });
        let build = ("headstart_build_info".to_owned(), MetricType::Info);
        names.chain([build]).collect()
    }
}

/// Instances of one capacity type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fleet {
    /// How many.
    pub(crate) nodes: i64,
    /// What they cost.
    pub(crate) cost: HourlyPrice,
    /// What they would cost more on demand.
    pub(crate) saved: HourlyPrice,
}

/// Whether a replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leads {
    /// It does.
    Yes,
    /// It does not.
    No,
}

struct Families<'a> {
    registry: &'a mut Registry,
    names: Vec<(String, MetricType)>,
}

impl Families<'_> {
    fn add<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.names.push((name.to_owned(), metric.metric_type()));
        self.registry.register(name, help, metric.clone());
        metric
    }

    fn plain<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.add(name, help, M::default())
    }
}

#[cfg(test)]
mod tests;
