//! Waiting pods, compiled: by shape, each with the candidates it could run on and the relations it
//! has, once per level of preferences.

use std::cell::{Cell, RefCell};

use crate::amount;
use crate::bits::Bits;
use crate::cache::Item;
use crate::label::Term;
use crate::market::{Machine, Market, NodeTaints, refused_by_wants};
use crate::node::NodeState;
use crate::plan::Relaxed;
use crate::pod::{HostPort, Shape};
use crate::pool::{GpuPacking, NodePool};
use crate::prefetch::Needs;
use crate::reason::Origin;
use crate::solve::bins::{Bin, Kind};
use crate::solve::topology::{HOST, Key, Rule, Tally, Topology, Use};
use crate::world::{ShapeId, World, suits};

use self::levels::levels;

mod levels;

/// One shape of waiting pods.
pub(super) struct Demand<'w> {
    pub(super) shape: &'w Shape,
    /// What it asks for: resource and amount, never zero. One pod is among it.
    pub(super) asks: Vec<(usize, i64)>,
    /// From all preferences to none.
    pub(super) levels: Vec<Level>,
    /// The level that served its last pod; the next one starts there.
    pub(super) level: Cell<usize>,
    /// Tallies that count it.
    pub(super) counted_by: Vec<usize>,
    /// Tallies of its own required anti-affinity.
    pub(super) owns: Vec<usize>,
    /// Keys over which it takes part in a relation: a new node gets a domain of these with it.
    pub(super) commits: Vec<Key>,
    /// Items it starts with.
    pub(super) needs: Needs<'w>,
    /// The number of its set of items among all demands.
    pub(super) set: usize,
    pub(super) ports: Vec<HostPort>,
    /// Candidates that it would have for itself.
    pub(super) dedicated: Bits,
    /// Pools, by number, whose nodes it has for itself.
    pub(super) alone_in: Vec<bool>,
    /// Whether it asks for what only special types have.
    pub(super) special: bool,
    /// How many of it one new node takes because of its relations to itself.
    pub(super) per_node: u32,
    /// The same of any node, new or not, where it is the only one of its relations that counts.
    pub(super) per_host: u32,
    /// Whether placing one can make room for another elsewhere: a spread over zones and the like.
    pub(super) shifting: bool,
}

/// Where others can follow.
#[derive(Clone)]
pub(super) struct Lead {
    /// Candidates.
    pub(super) mask: Bits,
    /// Node classes, by number.
    pub(super) classes: Vec<bool>,
}

/// What a shape asks for while some of its preferences are obeyed.
#[derive(Clone)]
pub(super) struct Level {
    /// Candidates it could run on.
    pub(super) mask: Bits,
    pub(super) uses: Vec<Use>,
    taints: NodeTaints,
    prefers: Option<Term>,
    /// What was given up to get here.
    pub(super) relaxed: Vec<Relaxed>,
    /// Node classes where those that must be near it can follow; `None` where it does not matter.
    leads: Option<Vec<bool>>,
    /// Node classes: not asked yet, no, yes.
    classes: RefCell<Vec<Option<bool>>>,
    /// Candidates whose domains are allowed, with the state of the tallies they were worked out for.
    pub(super) allowed: RefCell<Option<(u64, Allowed)>>,
}

/// Domains a pod may go to now.
#[derive(Clone)]
pub(super) struct Allowed {
    /// By key; `None` where every domain is.
    pub(super) domains: Vec<Option<Vec<bool>>>,
    /// Candidates in allowed domains; `None` for all.
    pub(super) mask: Option<Bits>,
}

/// Preferences that are still obeyed.
#[derive(Clone)]
struct Obeyed {
    affinity: usize,
    anti_affinity: usize,
    node_affinity: usize,
    spread: usize,
    taints: NodeTaints,
}

impl<'w> Demand<'w> {
    /// Compiles a shape. `available` are the candidates that can be had now.
    pub(super) fn new(
        world: &'w World,
        id: ShapeId,
        available: &Bits,
        topology: &mut Topology,
        sets: &mut Vec<&'w [Item]>,
    ) -> Self {
        let (shape, market) = (&*world.shapes[id], &world.market);
        let asks: Vec<(usize, i64)> = world
            .dims
            .asks(&shape.requests)
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, amount)| *amount > 0)
            .collect();
        let mut base = market.compatible(shape, NodeTaints::Hard);
        for (p, pool) in market.pools.iter().enumerate() {
            if !pool.serves(&shape.labels) {
                base.drop_all(market.of_pool(p));
            }
        }
        let mut suited = base.clone();
        suited.keep(available);
        let levels = levels(world, shape, &base, &suited, topology);
        let alone_in: Vec<bool> = (market.pools.iter())
            .map(|pool| has_alone(pool, shape))
            .collect();
        let owns = shape
            .anti_affinity
            .iter()
            .map(|term| topology.term(term, market))
            .collect();
        let set = sets
            .iter()
            .position(|set| *set == shape.items)
            .unwrap_or_else(|| {
                sets.push(&shape.items);
                sets.len() - 1
            });
        let special = shape
            .requests
            .iter()
            .any(|(name, amount)| amount > 0 && is_special(name))
            || !shape.wants.gpu_skus.is_empty();
        let most = |of: &Use| match &of.rule {
            _ if !of.own => u32::MAX,
            Rule::AntiAffinity => 1,
            _ if of.key != HOST => u32::MAX,
            Rule::Spread { max_skew, .. } => *max_skew,
            Rule::Affinity { .. } => u32::MAX,
        };
        let alone = !shape.host_ports.is_empty() || !shape.volumes.is_empty();
        let per_node = levels
            .iter()
            .map(|level| level.uses.iter().map(most).min().unwrap_or(u32::MAX))
            .min()
            .unwrap_or(u32::MAX);
        let shifting = levels
            .iter()
            .flat_map(|level| &level.uses)
            .any(|of| of.key != HOST && of.own && matches!(of.rule, Rule::Spread { .. }));
        Self {
            asks,
            level: Cell::new(0),
            counted_by: Vec::new(),
            owns,
            commits: Vec::new(),
            needs: Needs::new(&shape.items, &world.items),
            set,
            ports: shape.host_ports.iter().cloned().collect(),
            dedicated: dedicated(market, &alone_in),
            alone_in,
            special,
            per_node: if alone || shifting { 1 } else { per_node },
            per_host: if alone { 1 } else { per_node },
            shifting,
            levels,
            shape,
        }
    }

    /// Fills what depends on all tallies being known.
    pub(super) fn relate(&mut self, topology: &Topology) {
        self.counted_by = topology.counting(self.shape);
        let used = self
            .levels
            .iter()
            .flat_map(|level| level.uses.iter().map(|of| of.tally));
        let mut keys: Vec<Key> = used
            .chain(self.counted_by.iter().copied())
            .chain(self.owns.iter().copied())
            .map(|tally| topology.tallies[tally].key)
            .filter(|key| *key != HOST)
            .collect();
        keys.sort_unstable();
        keys.dedup();
        self.commits = keys;
    }

    /// Counts, for the minimum of its spreads, only domains that exist, that nodes bought so far will
    /// make (`planned`, candidates), or that it could have a node of its own in (`available`). Where no
    /// new node can be had for it, the emptiest host is one of `bins`. Says whether that changes
    /// anything.
    pub(super) fn narrow(
        &mut self,
        world: &World,
        topology: &mut Topology,
        available: &Bits,
        planned: &Bits,
        bins: &[Bin<'w>],
    ) -> bool {
        let market = &world.market;
        let mut reachable = available.clone();
        for (dim, amount) in &self.asks {
            match market.with_room(*dim, *amount) {
                Some(roomy) => reachable.keep(roomy),
                None => reachable = Bits::none(market.len()),
            }
        }
        let compatible = match self.levels.last() {
            Some(level) => level.mask.clone(),
            None => Bits::none(market.len()),
        };
        let hosts = reachable.first_of(&[&compatible]).is_some();
        let asks = &self.asks;
        let usable = |c: usize| {
            let room = market.room(c);
            compatible.contains(c) && asks.iter().all(|(dim, amount)| *amount <= room[*dim])
        };
        reachable.add(planned);
        reachable.keep(&compatible);
        let mut changed = false;
        for level in &mut self.levels {
            for of in &mut level.uses {
                let Rule::Spread {
                    eligible: known,
                    floor,
                    min_domains,
                    soft,
                    ..
                } = &mut of.rule
                else {
                    continue;
                };
                if of.key == HOST {
                    let least = if hosts || *soft {
                        0
                    } else {
                        least_host(
                            world,
                            &topology.tallies[of.tally],
                            *min_domains,
                            bins,
                            usable,
                        )
                    };
                    changed |= least != *floor;
                    *floor = least;
                    continue;
                }
                let narrow = eligible(world, topology, self.shape, of.tally, &reachable);
                changed |= narrow != *known;
                *known = narrow;
            }
        }
        if changed {
            self.level.set(0);
        }
        changed
    }

    /// Tries first to go where others can follow.
    pub(super) fn follow(&mut self, lead: &Lead) {
        let led = self.levels.iter().map(|level| {
            let mut led = level.clone();
            led.mask.keep(&lead.mask);
            led.leads = Some(lead.classes.clone());
            led
        });
        let mut levels: Vec<Level> = led.collect();
        levels.append(&mut self.levels);
        self.levels = levels;
    }

    /// Whether one of its volumes can be used nowhere.
    pub(super) fn is_impossible(&self) -> bool {
        self.shape
            .volumes
            .iter()
            .any(|volume| volume.unusable.is_some())
    }

    /// How much it asks for of a resource.
    pub(super) fn ask(&self, dim: usize) -> i64 {
        self.asks
            .iter()
            .find(|(d, _)| *d == dim)
            .map_or(0, |(_, amount)| *amount)
    }

    /// Whether a node of the class and host name could run it at this level.
    pub(super) fn suits(&self, level: &Level, world: &World, class: usize, host: &str) -> bool {
        if !level.follows(class) {
            return false;
        }
        let by_host = || {
            let suited = suits(self.shape, &world.classes[class], host, level.taints);
            suited
                && level
                    .prefers
                    .as_ref()
                    .is_none_or(|term| matches_node(term, &world.classes[class].labels, host))
        };
        if self.names_host(level) {
            return by_host();
        }
        let mut classes = level.classes.borrow_mut();
        if classes.len() <= class {
            classes.resize(class + 1, None);
        }
        *classes[class].get_or_insert_with(by_host)
    }

    fn names_host(&self, level: &Level) -> bool {
        let host = |term: &Term| term.0.iter().any(|e| e.key == crate::label::HOSTNAME);
        self.shape
            .node_selector
            .contains_key(crate::label::HOSTNAME)
            || self.shape.node_affinity.iter().any(host)
            || self
                .shape
                .volumes
                .iter()
                .any(|volume| volume.node_affinity.iter().any(host))
            || level.prefers.as_ref().is_some_and(host)
    }
}

impl Level {
    /// Whether those that must be near the pod can follow it to nodes of this class.
    pub(super) fn follows(&self, class: usize) -> bool {
        (self.leads.as_ref()).is_none_or(|leads| leads.get(class).copied().unwrap_or(false))
    }

    /// The node affinity that is preferred at this level.
    pub(super) fn preferred(&self) -> Option<&Term> {
        self.prefers.as_ref()
    }

    /// Where the pod may go now, worked out again only when a count changed.
    pub(super) fn with_allowed<T>(
        &self,
        demand: &Demand<'_>,
        topology: &Topology,
        market: &Market,
        read: impl FnOnce(&Allowed) -> T,
    ) -> T {
        let mut known = self.allowed.borrow_mut();
        if known
            .as_ref()
            .is_none_or(|(version, _)| *version != topology.version)
        {
            let domains = topology.allowed(&self.uses, &demand.counted_by);
            let mask = mask(&domains, topology, market, &self.uses);
            *known = Some((topology.version, Allowed { domains, mask }));
        }
        match &*known {
            Some((_, allowed)) => read(allowed),
            None => read(&Allowed {
                domains: Vec::new(),
                mask: None,
            }),
        }
    }
}

/// Candidates all of whose domains are allowed.
fn mask(
    allowed: &[Option<Vec<bool>>],
    topology: &Topology,
    market: &Market,
    uses: &[Use],
) -> Option<Bits> {
    let mut mask: Option<Bits> = None;
    for (key, domains) in allowed.iter().enumerate() {
        let Some(domains) = domains else { continue };
        let mut of_key = Bits::none(market.len());
        for (domain, _) in domains.iter().enumerate().filter(|(_, allowed)| **allowed) {
            of_key.add(&topology.keys[key].masks[domain]);
        }
        if !Topology::needs_label(uses, key) {
            let unlabelled = topology.keys[key].of_candidate.iter().enumerate();
            for (c, _) in unlabelled.filter(|(_, d)| **d == super::topology::NO_DOMAIN) {
                of_key.insert(c);
            }
        }
        match &mut mask {
            Some(mask) => mask.keep(&of_key),
            None => mask = Some(of_key),
        }
    }
    mask
}

/// Domains that count for the minimum of a spread: those of nodes that are there, and those where a
/// node could be bought that the pod could use. What is bought for others may come last.
fn eligible(
    world: &World,
    topology: &mut Topology,
    shape: &Shape,
    tally: usize,
    reachable: &Bits,
) -> Vec<bool> {
    let key = topology.tallies[tally].key;
    if key == HOST {
        return Vec::new();
    }
    let name = topology.keys[key].name.clone();
    let mut known = Vec::new();
    let mut asked = vec![false; world.classes.len()];
    let by_host = topology.tallies[tally].names_host();
    for slot in world.slots.values() {
        let Some(node) = &slot.node else { continue };
        // Nodes of one class differ in their host name only.
        let standby = matches!(node.state, NodeState::Standby { .. });
        if !by_host && !standby && std::mem::replace(&mut asked[slot.class], true) {
            continue;
        }
        let class = &world.classes[slot.class];
        // One that stands by is a domain only for those that could start it.
        let starts = || {
            let machine = Machine::of_node(node, world.market.kind_of(node));
            let pool =
                (world.market.pools.iter()).find(|pool| Some(&pool.name) == node.pool.as_ref());
            suits(shape, class, crate::world::host_of(node), NodeTaints::Hard)
                && pool.is_none_or(|pool| pool.serves(&shape.labels))
                && refused_by_wants(&shape.wants, &machine, Origin::Pod).is_none()
        };
        if standby && !starts() {
            continue;
        }
        if let Some(value) = class.labels.get(&name)
            && topology.tallies[tally].eligible_at(class, crate::world::host_of(node))
        {
            known.push(topology.domain(key, value, &world.market) as usize);
        }
    }
    let mut eligible = vec![false; topology.keys[key].masks.len()];
    known.into_iter().for_each(|domain| eligible[domain] = true);
    let counted = topology.tallies[tally].eligible_candidates();
    for (domain, mask) in topology.keys[key].masks.iter().enumerate() {
        let others: Vec<&Bits> = [Some(reachable), counted].into_iter().flatten().collect();
        eligible[domain] |= mask.first_of(&others).is_some();
    }
    eligible
}

/// What the emptiest host of a spread has, of those that are there or planned and `usable`, others
/// may come last; nothing where there are fewer than it asks for.
fn least_host(
    world: &World,
    tally: &Tally,
    min_domains: Option<u32>,
    bins: &[Bin<'_>],
    usable: impl Fn(usize) -> bool,
) -> u32 {
    let counts = bins.iter().enumerate().filter(|(_, bin)| match &bin.kind {
        Kind::Existing(existing) => {
            let standby = matches!(existing.node.state, NodeState::Standby { .. });
            !(standby && bin.pods.is_empty())
                && tally.eligible_at(&world.classes[existing.class], existing.host)
        }
        Kind::New(new) => {
            let mut counted = tally.eligible_candidates().into_iter();
            !bin.pods.is_empty()
                && usable(new.best)
                && counted.all(|counted| counted.contains(new.best))
        }
    });
    let counts: Vec<u32> = counts
        .map(|(b, _)| tally.counts.get(b).copied().unwrap_or(0))
        .collect();
    if min_domains.is_some_and(|least| (counts.len() as u32) < least) {
        return 0;
    }
    counts.into_iter().min().unwrap_or(0)
}

fn matches_node(term: &Term, labels: &crate::label::Labels, host: &str) -> bool {
    !term.0.is_empty()
        && term.0.iter().all(|e| {
            e.matches(match e.key.as_str() {
                crate::label::HOSTNAME => Some(host),
                key => labels.get(key).map(String::as_str),
            })
        })
}

/// Candidates of pools whose nodes one pod has for itself.
fn dedicated(market: &Market, alone_in: &[bool]) -> Bits {
    let mut mask = Bits::none(market.len());
    for p in (0..market.pools.len()).filter(|p| alone_in[*p]) {
        mask.add(market.of_pool(p));
    }
    mask
}

/// Whether a pod of this shape has a node of this pool for itself.
pub(super) fn has_alone(pool: &NodePool, shape: &Shape) -> bool {
    let over = |limit: Option<i64>, name: &str| {
        limit.is_some_and(|limit| shape.requests.of(name) >= limit)
    };
    let asks_gpu = || (shape.requests.iter()).any(|(name, amount)| amount > 0 && is_special(name));
    over(pool.packing.dedicated_cpu, amount::CPU)
        || over(pool.packing.dedicated_memory, amount::MEMORY)
        || (pool.packing.gpu == GpuPacking::Dedicated && asks_gpu())
}

/// Whether a resource is one that only special types have.
fn is_special(name: &str) -> bool {
    !matches!(
        name,
        amount::CPU | amount::MEMORY | amount::EPHEMERAL_STORAGE | amount::PODS
    ) && !name.starts_with("hugepages-")
        && !name.starts_with("attachable-volumes-")
}
