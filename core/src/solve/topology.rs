//! Relations between pods: spread, affinity, anti-affinity, counted per domain.
//!
//! A *tally* counts the pods that one selector selects, per domain of one topology key. Key 0 is the
//! host name: its domains are bins. A node that is not bought yet has a domain of another key only
//! once a pod that takes part in a relation over that key is put on it; until then every candidate
//! that is left for it is possible. Counts are therefore exact, never "could be".

use std::collections::HashMap;

use crate::bits::Bits;
use crate::label::{self, Labels, Term, Toleration};
use crate::market::Market;
use crate::pod::{Namespaces, NodePolicy, PodTerm, Shape, Spread};
use crate::world::{Class, ShapeId, World, suits};

/// A topology key by number.
pub(super) type Key = usize;
/// The host name's.
pub(super) const HOST: Key = 0;
/// A node that lacks the label, or has no domain yet.
pub(super) const NO_DOMAIN: u32 = u32::MAX;

/// Which nodes' pods a spread constraint counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Filter {
    selector: Labels,
    affinity: Vec<Term>,
    tolerations: Option<Vec<Toleration>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TallyKey {
    key: Key,
    selects: Vec<Selects>,
    filter: Option<Filter>,
}

/// Pods that one selector selects in some namespaces.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Selects {
    selector: Option<Term>,
    namespaces: Namespaces,
}

impl Selects {
    fn of(term: &PodTerm) -> Self {
        Self {
            selector: term.selector.clone(),
            namespaces: term.namespaces.clone(),
        }
    }

    fn pod(&self, shape: &Shape) -> bool {
        self.namespaces.contains(&shape.namespace)
            && self
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(&shape.labels))
    }
}

/// Pods that one selector selects, per domain.
pub(super) struct Tally {
    pub(super) key: Key,
    /// Selected pods.
    pub(super) counts: Vec<u32>,
    /// Selected pods that are being deleted: until they are gone they keep others away.
    leaving: Vec<u32>,
    /// Of all domains.
    pub(super) total: u64,
    /// Pods that must not be in one domain with selected ones.
    pub(super) owners: Vec<u32>,
    owned: bool,
    /// All of these select a pod that is counted.
    selects: Vec<Selects>,
    filter: Option<Filter>,
    /// Candidates whose nodes the filter lets count.
    counted: Option<Bits>,
}

/// One topology key's domains.
pub(super) struct Domains {
    pub(super) name: String,
    ids: HashMap<String, u32>,
    /// Domain of each candidate.
    pub(super) of_candidate: Vec<u32>,
    /// Candidates of each domain.
    pub(super) masks: Vec<Bits>,
}

/// How one pod relates to one tally.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) tally: usize,
    pub(super) key: Key,
    /// Whether the pod is one of those counted.
    pub(super) own: bool,
    pub(super) rule: Rule,
}

#[derive(Clone, Debug)]
pub(super) enum Rule {
    Spread {
        max_skew: u32,
        min_domains: Option<u32>,
        /// Which domains count for the minimum; of the host name none is kept.
        eligible: Vec<bool>,
        /// What the emptiest host has, where no new one can be had.
        floor: u32,
        /// Whether it may be given up. To one that may a new host is always possible.
        soft: bool,
    },
    Affinity {
        /// Tallies of all terms that must be met together: the pod may come first only while none of
        /// them counts anybody.
        together: Vec<usize>,
    },
    AntiAffinity,
}

pub(super) struct Topology {
    pub(super) keys: Vec<Domains>,
    pub(super) tallies: Vec<Tally>,
    ids: HashMap<TallyKey, usize>,
    /// Moves with every change of a count over a key that is not the host name.
    pub(super) version: u64,
}

impl Topology {
    pub(super) fn new() -> Self {
        let host = Domains {
            name: label::HOSTNAME.to_owned(),
            ids: HashMap::new(),
            of_candidate: Vec::new(),
            masks: Vec::new(),
        };
        Self {
            keys: vec![host],
            tallies: Vec::new(),
            ids: HashMap::new(),
            version: 0,
        }
    }

    /// The number of a topology key, its domains over candidates filled in.
    pub(super) fn key(&mut self, name: &str, market: &Market) -> Key {
        if let Some(key) = self.keys.iter().position(|key| key.name == name) {
            return key;
        }
        let mut domains = Domains {
            name: name.to_owned(),
            ids: HashMap::new(),
            of_candidate: Vec::with_capacity(market.len()),
            masks: Vec::new(),
        };
        for c in 0..market.len() {
            let domain = market
                .label(c, name)
                .map_or(NO_DOMAIN, |value| domains.intern(value, market.len()));
            domains.of_candidate.push(domain);
            if let Some(mask) = domains.masks.get_mut(domain as usize) {
                mask.insert(c);
            }
        }
        self.keys.push(domains);
        self.keys.len() - 1
    }

    /// The domain of a label value that a node has.
    pub(super) fn domain(&mut self, key: Key, value: &str, market: &Market) -> u32 {
        self.keys[key].intern(value, market.len())
    }

    /// The tally for a pod term.
    pub(super) fn term(&mut self, term: &PodTerm, market: &Market) -> usize {
        let key = self.key(&term.topology_key, market);
        self.tally(
            TallyKey {
                key,
                selects: vec![Selects::of(term)],
                filter: None,
            },
            market,
        )
    }

    /// The tally for one of a pod's required affinity terms: only pods that all of them select count
    /// for any, as kube-scheduler has it.
    pub(super) fn affinity(&mut self, term: &PodTerm, all: &[PodTerm], market: &Market) -> usize {
        let key = self.key(&term.topology_key, market);
        let selects = all.iter().map(Selects::of).collect();
        self.tally(
            TallyKey {
                key,
                selects,
                filter: None,
            },
            market,
        )
    }

    /// The tally for a spread constraint of a pod.
    pub(super) fn spread(&mut self, spread: &Spread, shape: &Shape, market: &Market) -> usize {
        let key = self.key(&spread.topology_key, market);
        let honor = spread.node_affinity == NodePolicy::Honor;
        let filter = Filter {
            selector: if honor {
                shape.node_selector.clone()
            } else {
                Labels::new()
            },
            affinity: if honor {
                shape.node_affinity.clone()
            } else {
                Vec::new()
            },
            tolerations: (spread.node_taints == NodePolicy::Honor)
                .then(|| shape.tolerations.clone()),
        };
        let everywhere = filter.selector.is_empty()
            && filter.affinity.is_empty()
            && filter.tolerations.is_none();
        let own = [shape.namespace.clone()].into_iter().collect();
        let key = TallyKey {
            key,
            selects: vec![Selects {
                selector: spread.selector.clone(),
                namespaces: Namespaces::Listed(own),
            }],
            filter: (!everywhere).then_some(filter),
        };
        self.tally(key, market)
    }

    fn tally(&mut self, key: TallyKey, market: &Market) -> usize {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        self.tallies.push(Tally {
            key: key.key,
            counts: Vec::new(),
            leaving: Vec::new(),
            total: 0,
            owners: Vec::new(),
            owned: false,
            selects: key.selects.clone(),
            counted: key
                .filter
                .as_ref()
                .map(|filter| market.compatible(&filter.shape(), filter.taints())),
            filter: key.filter.clone(),
        });
        self.ids.insert(key, self.tallies.len() - 1);
        self.tallies.len() - 1
    }

    /// Tallies that count pods of this shape.
    pub(super) fn counting(&self, shape: &Shape) -> Vec<usize> {
        (0..self.tallies.len())
            .filter(|t| self.tallies[*t].selects(shape))
            .collect()
    }

    /// Adds `by` (or takes it away) to every tally in `tallies` for the node whose domains are given.
    pub(super) fn count(&mut self, tallies: &[usize], owned: &[usize], place: &Place<'_>, by: i32) {
        for t in tallies {
            let tally = &mut self.tallies[*t];
            let domain = place.domains[tally.key];
            if domain == NO_DOMAIN || !tally.counted_at(place) {
                continue;
            }
            add(&mut tally.counts, domain, by);
            tally.total = tally.total.saturating_add_signed(i64::from(by));
            self.version += u64::from(tally.key != HOST);
        }
        for t in owned {
            let tally = &mut self.tallies[*t];
            tally.owned = true;
            let domain = place.domains[tally.key];
            if domain != NO_DOMAIN {
                add(&mut tally.owners, domain, by);
                self.version += u64::from(tally.key != HOST);
            }
        }
    }

    /// Whether the rules over the host name allow one more pod in bin `bin`. `fresh` bins have no pod
    /// yet. `counting` are the tallies that count the pod.
    pub(super) fn host_allows(
        &self,
        uses: &[Use],
        counting: &[usize],
        bin: u32,
    ) -> Result<(), usize> {
        for (at, of) in uses.iter().enumerate() {
            if of.key != HOST {
                continue;
            }
            let tally = &self.tallies[of.tally];
            let here = count(&tally.counts, bin);
            let allowed = match &of.rule {
                // Where a new node, which would have none, is possible, the minimum is zero.
                Rule::Spread {
                    max_skew, floor, ..
                } => here + u32::from(of.own) <= floor.saturating_add(*max_skew),
                Rule::Affinity { together } => here > 0 || self.comes_first(of, together),
                Rule::AntiAffinity => here == 0 && count(&tally.leaving, bin) == 0,
            };
            if !allowed {
                return Err(at);
            }
        }
        let unwelcome = |t: &&usize| {
            let tally = &self.tallies[**t];
            tally.owned && tally.key == HOST && count(&tally.owners, bin) > 0
        };
        match counting.iter().find(unwelcome) {
            Some(_) => Err(uses.len()),
            None => Ok(()),
        }
    }

    /// Whether a pod may come before all that it must be near.
    fn comes_first(&self, of: &Use, together: &[usize]) -> bool {
        of.own && together.iter().all(|t| self.tallies[*t].total == 0)
    }

    /// Whether a pod with these uses must be on one host with its like, and none is there yet.
    pub(super) fn starts_host(&self, uses: &[Use]) -> bool {
        uses.iter().any(|of| match &of.rule {
            Rule::Affinity { together } => of.key == HOST && self.comes_first(of, together),
            _ => false,
        })
    }

    /// Counts `by` bound pods that are being deleted.
    pub(super) fn count_leaving(
        &mut self,
        tallies: &[usize],
        owned: &[usize],
        place: &Place<'_>,
        by: i32,
    ) {
        for t in tallies {
            let tally = &mut self.tallies[*t];
            let domain = place.domains[tally.key];
            if domain != NO_DOMAIN {
                add(&mut tally.leaving, domain, by);
            }
        }
        self.count(&[], owned, place, by);
    }

    /// For each key that limits the pod, which domains it may go to.
    pub(super) fn allowed(&self, uses: &[Use], counting: &[usize]) -> Vec<Option<Vec<bool>>> {
        let mut allowed: Vec<Option<Vec<bool>>> = vec![None; self.keys.len()];
        for of in uses.iter().filter(|of| of.key != HOST) {
            let tally = &self.tallies[of.tally];
            let domains = self.keys[of.key].masks.len();
            let least = match &of.rule {
                Rule::Spread {
                    min_domains,
                    eligible,
                    ..
                } => {
                    let counted = || (0..domains).filter(|d| eligible.get(*d) == Some(&true));
                    let few = min_domains.is_some_and(|least| (counted().count() as u32) < least);
                    if few {
                        0
                    } else {
                        counted()
                            .map(|d| count(&tally.counts, d as u32))
                            .min()
                            .unwrap_or(0)
                    }
                }
                _ => 0,
            };
            let first = match &of.rule {
                Rule::Affinity { together } => self.comes_first(of, together),
                Rule::Spread { .. } | Rule::AntiAffinity => false,
            };
            let rule = |d: usize| {
                let here = count(&tally.counts, d as u32);
                match &of.rule {
                    Rule::Spread { max_skew, .. } => {
                        here + u32::from(of.own) <= least.saturating_add(*max_skew)
                    }
                    Rule::Affinity { .. } => here > 0 || first,
                    Rule::AntiAffinity => here == 0 && count(&tally.leaving, d as u32) == 0,
                }
            };
            restrict(&mut allowed[of.key], domains, rule);
        }
        for t in counting {
            let tally = &self.tallies[*t];
            if tally.owned && tally.key != HOST {
                let domains = self.keys[tally.key].masks.len();
                let rule = |d: usize| count(&tally.owners, d as u32) == 0;
                if !(0..domains).all(rule) {
                    // A node without the label is in no domain, and nobody objects to it there.
                    restrict(&mut allowed[tally.key], domains, rule);
                }
            }
        }
        allowed
    }

    /// Whether a node without the key's label may take a pod with these uses.
    pub(super) fn needs_label(uses: &[Use], key: Key) -> bool {
        uses.iter()
            .any(|of| of.key == key && !matches!(of.rule, Rule::AntiAffinity))
    }
}

/// Where a pod is or goes.
pub(super) struct Place<'a> {
    /// The bin's domain per key.
    pub(super) domains: &'a [u32],
    /// What decides whether the node counts for a filtered tally.
    pub(super) node: NodeKind<'a>,
}

pub(super) enum NodeKind<'a> {
    Existing(&'a Class, &'a str),
    Candidate(usize),
}

impl Domains {
    fn intern(&mut self, value: &str, candidates: usize) -> u32 {
        if let Some(id) = self.ids.get(value) {
            return *id;
        }
        let id = self.masks.len() as u32;
        self.masks.push(Bits::none(candidates));
        self.ids.insert(value.to_owned(), id);
        id
    }
}

impl Filter {
    /// A pod that has the filter's conditions and no others.
    fn shape(&self) -> Shape {
        Shape {
            node_selector: self.selector.clone(),
            node_affinity: self.affinity.clone(),
            tolerations: self
                .tolerations
                .clone()
                .unwrap_or_else(|| vec![Toleration::everything()]),
            ..Shape::default()
        }
    }

    fn taints(&self) -> crate::market::NodeTaints {
        crate::market::NodeTaints::Hard
    }
}

impl Tally {
    pub(super) fn selects(&self, shape: &Shape) -> bool {
        self.selects.iter().all(|selects| selects.pod(shape))
    }

    fn counted_at(&self, place: &Place<'_>) -> bool {
        match (&self.filter, &place.node) {
            (None, _) => true,
            (Some(filter), NodeKind::Existing(class, host)) => {
                suits(&filter.shape(), class, host, filter.taints())
            }
            (Some(_), NodeKind::Candidate(c)) => {
                self.counted.as_ref().is_none_or(|mask| mask.contains(*c))
            }
        }
    }

    /// Whether it depends on a node's host name which pods are counted.
    pub(super) fn names_host(&self) -> bool {
        let host = |term: &Term| term.0.iter().any(|e| e.key == label::HOSTNAME);
        self.filter.as_ref().is_some_and(|filter| {
            filter.selector.contains_key(label::HOSTNAME) || filter.affinity.iter().any(host)
        })
    }

    /// Whether the node's domain counts for the minimum of this spread.
    pub(super) fn eligible_at(&self, class: &Class, host: &str) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| suits(&filter.shape(), class, host, filter.taints()))
    }

    pub(super) fn eligible_candidates(&self) -> Option<&Bits> {
        self.counted.as_ref()
    }
}

fn add(counts: &mut Vec<u32>, domain: u32, by: i32) {
    let at = domain as usize;
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    counts[at] = counts[at].saturating_add_signed(by);
}

fn count(counts: &[u32], domain: u32) -> u32 {
    counts.get(domain as usize).copied().unwrap_or(0)
}

fn restrict(allowed: &mut Option<Vec<bool>>, domains: usize, rule: impl Fn(usize) -> bool) {
    let list = allowed.get_or_insert_with(|| vec![true; domains]);
    for (d, still) in list.iter_mut().enumerate() {
        *still = *still && rule(d);
    }
}

/// Shapes of bound pods that keep others away, with the tallies they own.
pub(super) fn owners(
    world: &World,
    topology: &mut Topology,
    pending: &[ShapeId],
) -> HashMap<ShapeId, Vec<usize>> {
    let mut owners: HashMap<ShapeId, Vec<usize>> = HashMap::new();
    let mut order: Vec<ShapeId> = (0..world.shapes.len())
        .filter(|id| !world.shapes[*id].anti_affinity.is_empty())
        .collect();
    order.sort_by(|a, b| world.shapes[*a].cmp(&world.shapes[*b]));
    for id in order {
        for term in &world.shapes[id].anti_affinity {
            let concerns = pending.iter().any(|other| {
                let other = &world.shapes[*other];
                term.namespaces.contains(&other.namespace)
                    && term
                        .selector
                        .as_ref()
                        .is_some_and(|selector| selector.matches(&other.labels))
            });
            if concerns {
                let tally = topology.term(term, &world.market);
                owners.entry(id).or_default().push(tally);
            }
        }
    }
    owners
}
