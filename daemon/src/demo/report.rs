//! What a demo found: three deploys that ran, and what follows from them.
//!
//! The JSON form is for programs; the table, the page and the chart are rendered from the same
//! [`Report`], so none of them knows more than the others.

use std::path::PathBuf;
use std::time::Duration;

use headstart_core::quantity::{Bytes, Rate};
use serde_json::{Value, json};

use super::scenario::{
    AGENT_CONNECTIONS, CONTAINERD_CONNECTIONS, Scales, Scenario, Seconds, bits, short,
};
use super::timeline::{Lane, Order, Timeline};

/// Two runs that differ by less, here, are the same: timers and schedulers are no better.
const RESOLUTION: Duration = Duration::from_millis(50);

/// A deploy that ran.
#[derive(Clone, Debug)]
pub(crate) struct Deploy {
    pub(crate) timeline: Timeline,
    pub(crate) fetches: Vec<Fetch>,
    /// What the engine's stand-in found where an engine looks.
    pub(crate) opened: Opened,
}

/// What an agent said of one item.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fetch {
    pub(crate) lane: Lane,
    /// Real bytes that came over the link.
    pub(crate) fetched: Bytes,
    /// From its start to ready, here.
    pub(crate) took: Duration,
    /// What it was bound by, in the agent's word.
    pub(crate) bound: String,
}

/// What the engine's stand-in read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Opened {
    pub(crate) image_files: u64,
    pub(crate) shards: u64,
    pub(crate) tensors: u64,
    pub(crate) weight_bytes: u64,
}

/// The whole demo.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    pub(crate) scales: Scales,
    pub(crate) today: Deploy,
    pub(crate) headstart: Deploy,
    /// Headstart's order with next to no bytes.
    pub(crate) empty: Deploy,
    /// Real time of everything.
    pub(crate) took: Duration,
    /// The containerd that the images went to; none for plain directories.
    pub(crate) containerd: Option<PathBuf>,
}

impl Deploy {
    pub(crate) fn serving(&self) -> Seconds {
        self.timeline.serving().unwrap_or_default()
    }

    pub(crate) fn fetch(&self, lane: Lane) -> Option<&Fetch> {
        self.fetches.iter().find(|fetch| fetch.lane == lane)
    }
}

impl Report {
    /// The time to serving that a deploy owes to bytes: beyond what it takes without any.
    pub(crate) fn exposed(&self, deploy: &Deploy) -> Seconds {
        deploy.serving() - self.empty.serving()
    }

    pub(crate) fn saved(&self) -> Seconds {
        self.today.serving() - self.headstart.serving()
    }

    /// How many times sooner.
    pub(crate) fn factor(&self) -> f64 {
        self.today.serving().0 / self.headstart.serving().0.max(0.001)
    }

    /// The end of a common time axis.
    pub(crate) fn axis(&self) -> Seconds {
        self.today.serving().max(self.headstart.serving())
    }

    /// What it comes to.
    pub(crate) fn conclusion(&self) -> String {
        let exposed = self.exposed(&self.headstart);
        let resolution = self.scales.full(RESOLUTION);
        let cost = match exposed < resolution {
            true => format!("nothing that can be told from timing ({resolution})"),
            false => exposed.to_string(),
        };
        format!(
            "Serving {:.1}x sooner: after {} instead of {}. Without any bytes it takes {}, so bytes \
             cost {} today and {cost} with Headstart.",
            self.factor(),
            self.headstart.serving(),
            self.today.serving(),
            self.empty.serving(),
            self.exposed(&self.today),
        )
    }

    /// What is deployed, in a sentence.
    pub(crate) fn deployed(scenario: &Scenario) -> String {
        format!(
            "image {} and model {} onto a new {} node, {} link, {} per connection",
            scenario.image,
            scenario.model,
            scenario.boot.name,
            bits(scenario.network.link),
            bits(scenario.network.per_connection),
        )
    }

    /// How it is scaled, in a sentence.
    pub(crate) fn scaled(scenario: &Scenario, scales: &Scales) -> String {
        let link = scenario.network.link;
        format!(
            "1 s here is {time} s there, 1 byte here is {bytes} bytes there; the link here is {full} x {time} / {bytes} = {real}",
            time = short(scales.time),
            bytes = short(scales.bytes),
            full = bits(link),
            real = bits(scales.rate(link)),
        )
    }

    /// What is real and what is not, one statement each.
    pub(crate) fn honesty(&self) -> Vec<String> {
        let engine = self.scenario.engine;
        vec![
            "Real: agents in processes of their own, a Hub and a registry with a model and an image \
             made for this run, every byte over one shaped loopback link, hashing, unpacking, the \
             store, the cache."
                .to_owned(),
            format!(
                "Waited for, scaled: the boot of the node; container and imports {}, loading at \
                 least {}, engine start {} (published figures for vLLM and an 8B model).",
                engine.start, engine.load, engine.init
            ),
            format!(
                "A stand-in for the engine reads {} and every byte of the weights, through the \
                 Hugging Face cache, and answers /health.",
                match &self.containerd {
                    Some(_) => "no image (containerd is asked whether the kubelet finds it)",
                    None => "files of the image",
                }
            ),
            format!(
                "Today's side is our own agent held to the connections of the stock tools: \
                 {CONTAINERD_CONNECTIONS} for the image (containerd), {} for the weights \
                 (huggingface_hub, one per file); Headstart's has {AGENT_CONNECTIONS}. Only order \
                 and connections differ. It splits files and unpacks while it fetches, which the \
                 stock tools do not (containerd unpacks one layer after the other, at about 97 MB/s): \
                 this favours today.",
                self.scenario.hub_client_connections(),
            ),
            format!(
                "What really runs is not scaled: a second spent here on starting processes, adding \
                 connections, hashing or unpacking counts {} s, on both sides.",
                short(self.scales.time)
            ),
        ]
    }

    /// For programs.
    pub(crate) fn json(&self, page: Option<&PathBuf>) -> Value {
        let Scenario {
            boot,
            network,
            image,
            model,
            engine,
        } = &self.scenario;
        json!({
            "scenario": {
                "node": boot.name,
                "boot_seconds": {
                    "network_up": boot.network_up.0,
                    "node_ready": boot.node_ready.0,
                    "gpu_allocatable": boot.gpu_allocatable.0,
                    "origin": boot.origin,
                },
                "link_bytes_per_second": network.link.0,
                "connection_bytes_per_second": network.per_connection.0,
                "image_bytes": image.0,
                "model_bytes": model.0,
                "engine_seconds": {
                    "start": engine.start.0, "load": engine.load.0, "init": engine.init.0,
                },
                "runtime": self.runtime(),
            },
            "scales": {
                "time": self.scales.time,
                "bytes": self.scales.bytes,
                "link_bytes_per_second_here": self.scales.rate(network.link).0,
            },
            "today": self.deploy_json(&self.today),
            "headstart": self.deploy_json(&self.headstart),
            "headstart_without_bytes": self.deploy_json(&self.empty),
            "saved_seconds": tenth_of_ms(self.saved()),
            "exposed_byte_seconds": {
                "today": tenth_of_ms(self.exposed(&self.today)),
                "headstart": tenth_of_ms(self.exposed(&self.headstart)),
            },
            "took_seconds_here": self.took.as_secs_f64(),
            "page": page,
        })
    }

    fn deploy_json(&self, deploy: &Deploy) -> Value {
        let stages = deploy.timeline.stages().into_iter();
        let stages =
            stages.map(|stage| json!({ "stage": stage.lane, "seconds": tenth_of_ms(stage.took) }));
        let spans = Lane::ALL.into_iter().filter_map(|lane| {
            let span = deploy.timeline.span(lane)?;
            Some(json!({
                "lane": lane,
                "start": tenth_of_ms(span.start),
                "end": span.end.map(tenth_of_ms),
            }))
        });
        let fetches = deploy.fetches.iter().map(|fetch| {
            json!({
                "lane": fetch.lane,
                "bytes_here": fetch.fetched.0,
                "seconds_here": fetch.took.as_secs_f64(),
                "bytes_per_second": self.full_rate(fetch).0,
                "bound": fetch.bound,
            })
        });
        json!({
            "order": deploy.timeline.order,
            "serving_seconds": tenth_of_ms(deploy.serving()),
            "stages": stages.collect::<Vec<_>>(),
            "spans": spans.collect::<Vec<_>>(),
            "fetches": fetches.collect::<Vec<_>>(),
            "opened": deploy.opened,
        })
    }

    /// Where the images went.
    pub(crate) fn runtime(&self) -> String {
        match &self.containerd {
            Some(socket) => format!("containerd at {}", socket.display()),
            None => "plain directories".to_owned(),
        }
    }

    /// The full-scale rate of a fetch.
    pub(crate) fn full_rate(&self, fetch: &Fetch) -> Rate {
        let seconds = self.scales.full(fetch.took).0.max(0.001);
        let bytes = self.scales.full_bytes(fetch.fetched).0 as f64;
        Rate((bytes / seconds) as u64)
    }

    /// What a fetch was bound by, for a person.
    pub(crate) fn bound(&self, order: Order, fetch: &Fetch) -> String {
        match (order, fetch.bound.as_str()) {
            (Order::Today, "link") => "connections".to_owned(),
            (_, word) => word.to_owned(),
        }
    }
}

/// Four decimals: sums of what is printed stay true to a millisecond.
fn tenth_of_ms(seconds: Seconds) -> f64 {
    (seconds.0 * 1e4).round() / 1e4
}

#[cfg(test)]
pub(crate) mod sample;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exposed_byte_time_is_what_a_run_without_bytes_does_not_take() {
        let report = sample::report();
        assert_eq!(report.exposed(&report.today), Seconds(152.0));
        assert_eq!(report.exposed(&report.headstart), Seconds::ZERO);
    }

    #[test]
    fn programs_get_stages_that_add_up_to_the_time_to_serving() {
        let json = sample::report().json(None);
        for order in ["today", "headstart", "headstart_without_bytes"] {
            let run = &json[order];
            let stages = run["stages"].as_array().expect("stages");
            let sum: f64 = stages.iter().filter_map(|s| s["seconds"].as_f64()).sum();
            let serving = run["serving_seconds"].as_f64().expect("a number");
            assert!((sum - serving).abs() < 1e-3, "{order}: {sum} and {serving}");
        }
        assert_eq!(json["today"]["fetches"][0]["bytes_per_second"], 150_000_000);
        assert_eq!(json["page"], Value::Null);
    }
}
