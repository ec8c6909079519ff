//! One deploy, played: the boot is waited for, everything that moves bytes is a real agent, and
//! what serves at the end is a real process that opened them.
//!
//! The two orders are [`today`] and [`headstart`]; each reads as its list of steps. A stage begins
//! and ends when it really does; only then is the instant turned into full-scale seconds.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use headstart_core::quantity::Bytes;

use super::agent::{self, AgentError, Ask, Ready, Said};
use super::engine::{Engine, EngineError};
use super::report::{Deploy, Fetch, Opened};
use super::runtime::{self, RuntimeError};
use super::scenario::{AGENT_CONNECTIONS, CONTAINERD_CONNECTIONS, Scales, Scenario, Seconds};
use super::screen::Screen;
use super::stand_in::StandInArgs;
use super::timeline::{Lane, Moved, Order, Timeline};

/// How often growing bars are redrawn.
const REDRAW: Duration = Duration::from_millis(80);

/// A node that is going to exist, and what will run on it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its disk.
    pub(crate) disk: PathBuf,
    /// The image and the model, as the pod names them.
    pub(crate) image: String,
    pub(crate) model: String,
    /// The Hub, as seen from it.
    pub(crate) endpoint: String,
    pub(crate) plain_http: Vec<String>,
    pub(crate) containerd: Option<PathBuf>,
    /// This program.
    pub(crate) program: PathBuf,
}

/// Why a deploy did not come to serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot make the node's disk at {disk}: {source}")]
    Disk {
        disk: PathBuf,
        source: std::io::Error,
    },
    #[error("the agent ended well but did not say that {0} is ready")]
    Silent(String),
}

/// Plays `scenario` in `order` on `node`.
pub(crate) async fn deploy(
    order: Order,
    scenario: &Scenario,
    scales: Scales,
    node: &Node,
    screen: &Screen,
) -> Result<Deploy, RunError> {
    std::fs::create_dir_all(&node.disk).map_err(|source| RunError::Disk {
        disk: node.disk.clone(),
        source,
    })?;
    let play = Play {
        scenario,
        scales,
        node,
        screen,
        started: Instant::now(),
        timeline: Mutex::new(Timeline::new(order)),
        ready: Mutex::default(),
    };
    screen.next();
    let steps = async {
        match order {
            Order::Today => today(&play).await,
            Order::Headstart => headstart(&play).await,
        }
    };
    let opened = tokio::select! {
        opened = steps => opened?,
        () = play.redraw() => unreachable!("redrawing has no end"),
    };
    screen.finish(&play.timeline(), play.now());
    Ok(play.into_deploy(opened))
}

/// Everything waits for what is before it: the order of a stock cluster.
async fn today(play: &Play<'_>) -> Result<Opened, RunError> {
    play.boot_network().await;
    play.boot_gpu().await;
    let (image, model) = (&play.node.image, &play.node.model);
    play.fetch(Some(image), None, CONTAINERD_CONNECTIONS)
        .await?;
    let mut engine = play.start_container().await?;
    let files = play.scenario.hub_client_connections();
    play.fetch(None, Some(model), files).await?;
    play.serve(&mut engine).await
}

/// The agent starts with the network, knowing from its user data what will be needed.
async fn headstart(play: &Play<'_>) -> Result<Opened, RunError> {
    play.boot_network().await;
    let (image, model) = (&play.node.image, &play.node.model);
    let bytes = play.fetch(Some(image), Some(model), AGENT_CONNECTIONS);
    let boot = async {
        play.boot_gpu().await;
        Ok(())
    };
    tokio::try_join!(boot, bytes)?;
    let mut engine = play.start_container().await?;
    play.serve(&mut engine).await
}

struct Play<'a> {
    scenario: &'a Scenario,
    scales: Scales,
    node: &'a Node,
    screen: &'a Screen,
    started: Instant,
    timeline: Mutex<Timeline>,
    ready: Mutex<Vec<(Lane, Ready)>>,
}

impl Play<'_> {
    async fn boot_network(&self) {
        self.begin(Lane::Network);
        self.wait_until(self.scenario.boot.network_up).await;
        self.end(Lane::Network);
    }

    async fn boot_gpu(&self) {
        self.begin(Lane::Kubelet);
        self.wait_until(self.scenario.boot.node_ready).await;
        self.end(Lane::Kubelet);
        self.begin(Lane::Gpu);
        self.wait_until(self.scenario.boot.gpu_allocatable).await;
        self.end(Lane::Gpu);
    }

    /// Has an agent bring both, or one of them, onto the node.
    async fn fetch(
        &self,
        image: Option<&String>,
        model: Option<&String>,
        connections: u16,
    ) -> Result<(), RunError> {
        let (node, order) = (self.node, self.timeline().order);
        let lane_of = |item: &str| match Some(item) == image.map(String::as_str) {
            true => Lane::Image,
            false => Lane::Weights,
        };
        let wanted = [image, model].into_iter().flatten();
        for item in wanted.clone() {
            self.begin(lane_of(item));
        }
        let log = match (order, image) {
            (Order::Today, None) => "agent-weights.log",
            _ => "agent.log",
        };
        let ask = Ask {
            image: image.cloned(),
            model: model.cloned(),
            endpoint: node.endpoint.clone(),
            plain_http: node.plain_http.clone(),
            connections,
            root: node.disk.join("headstart"),
            containerd: node.containerd.clone(),
            log: node.disk.join(log),
        };
        let hear = |said: &Said| match said {
            Said::Resolved { item, total_bytes } => self.progress(lane_of(item), 0, *total_bytes),
            Said::Progress {
                item,
                done_bytes,
                total_bytes,
            } => self.progress(lane_of(item), *done_bytes, *total_bytes),
            Said::Ready(ready) => {
                let lane = lane_of(&ready.item);
                self.progress(lane, ready.total_bytes, ready.total_bytes);
                self.end(lane);
                self.readies().push((lane, ready.clone()));
            }
            Said::Failed { .. } | Said::Other => {}
        };
        agent::warm(&ask, &node.program, hear).await?;
        for item in wanted {
            let lane = lane_of(item);
            if !self.readies().iter().any(|(ready, _)| *ready == lane) {
                return Err(RunError::Silent(item.clone()));
            }
        }
        Ok(())
    }

    async fn start_container(&self) -> Result<Engine, RunError> {
        self.begin(Lane::Container);
        if let Some(socket) = &self.node.containerd {
            runtime::require(socket, &self.node.image).await?;
        }
        let real = |full: Seconds| self.scales.real(full).as_millis() as u64;
        let times = self.scenario.engine;
        let args = StandInArgs {
            model: self.node.model.clone(),
            image_root: self.image_root(),
            start_ms: real(times.start),
            load_ms: real(times.load),
            init_ms: real(times.init),
        };
        let log = self.node.disk.join("engine.log");
        let mut engine = Engine::start(&args, &self.node.program, log).await?;
        engine.started().await?;
        self.end(Lane::Container);
        Ok(engine)
    }

    async fn serve(&self, engine: &mut Engine) -> Result<Opened, RunError> {
        self.begin(Lane::Engine);
        let place = self.place(Lane::Weights);
        let hub_cache = place.strip_prefix("HF_HUB_CACHE=").unwrap_or(&place);
        let opened = engine.serve(hub_cache).await?;
        self.end(Lane::Engine);
        Ok(opened)
    }

    /// Where the agent said it put the bytes of a lane.
    fn place(&self, lane: Lane) -> String {
        let readies = self.readies();
        let ready = readies.iter().find(|(ready, _)| *ready == lane);
        ready
            .map(|(_, ready)| ready.place.clone())
            .unwrap_or_default()
    }

    /// The unpacked image, unless a runtime has it.
    fn image_root(&self) -> Option<PathBuf> {
        let place = PathBuf::from(self.place(Lane::Image));
        place.is_absolute().then_some(place)
    }

    fn now(&self) -> Seconds {
        self.scales.full(self.started.elapsed())
    }

    async fn wait_until(&self, full: Seconds) {
        let at = self.started + self.scales.real(full);
        tokio::time::sleep_until(at.into()).await;
    }

    fn begin(&self, lane: Lane) {
        let now = self.now();
        self.timeline().begin(lane, now);
    }

    fn progress(&self, lane: Lane, done: u64, total: u64) {
        let full = |real| self.scales.full_bytes(Bytes(real));
        let moved = Moved {
            done: full(done),
            total: full(total),
        };
        self.timeline().progress(lane, moved);
    }

    fn end(&self, lane: Lane) {
        let now = self.now();
        let mut timeline = self.timeline();
        timeline.end(lane, now);
        self.screen.ended(&timeline, lane);
    }

    async fn redraw(&self) {
        loop {
            self.screen.draw(&self.timeline(), self.now());
            tokio::time::sleep(REDRAW).await;
        }
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn readies(&self) -> MutexGuard<'_, Vec<(Lane, Ready)>> {
        self.ready.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn into_deploy(self, opened: Opened) -> Deploy {
        let ready = self.ready.into_inner().unwrap_or_else(|e| e.into_inner());
        let fetches = ready.into_iter().map(|(lane, ready)| Fetch {
            lane,
            fetched: ready.fetched(),
            took: ready.took(),
            bound: ready.bound.clone(),
        });
        Deploy {
            fetches: fetches.collect(),
            timeline: self
                .timeline
                .into_inner()
                .unwrap_or_else(|e| e.into_inner()),
            opened,
        }
    }
}
