//! Groups: all of a minimum, or nothing.
//!
//! A group is tried as a whole and taken back whole. Where its members must share a domain, every
//! domain is tried and the one that serves most of them is taken, of equals the one of least score.

use std::collections::BTreeMap;

use crate::bits::Bits;
use crate::money::Money;
use crate::pod::ObjectKey;
use crate::reason::NotServed;
use crate::solve::Solver;
use crate::solve::bins::{Bin, Cost, Existing, Kind};
use crate::solve::limits::Limit;
use crate::solve::topology::{HOST, Key, NO_DOMAIN};

/// Nodes that are tried at most for a group that must share one.
const MOST_HOSTS: usize = 16;

/// What was, so that it can be again.
pub(crate) struct Journal<'w> {
    bins: usize,
    saved: BTreeMap<usize, Bin<'w>>,
    tallies: Vec<(Vec<u32>, u64, Vec<u32>)>,
    limits: Vec<Option<Limit>>,
    launches: BTreeMap<usize, u32>,
    levels: Vec<usize>,
}

/// Members of a group that run already.
#[derive(Default)]
pub(crate) struct Members<'w> {
    pub(super) roles: BTreeMap<&'w str, u32>,
    pub(super) bins: Vec<usize>,
}

/// The first role that lacks members.
struct Lacking {
    role: String,
    placed: u32,
    minimum: u32,
    /// The demand of the first member that found no place.
    stuck: Option<usize>,
}

impl<'w> Solver<'w> {
    /// Places what a group's minimum lacks, as a whole; if it lacks nothing, as many more as possible.
    /// Gives back the others.
    pub(super) fn place_group(&mut self, name: &ObjectKey, pods: &[usize]) -> Vec<usize> {
        let within = self.shared_domains(name, pods);
        // Most members first, then the least score.
        let mut best: Option<(usize, Money)> = None;
        let mut chosen: Option<Option<(Key, u32)>> = None;
        for domain in &within {
            if within.len() == 1 {
                chosen = Some(*domain);
                break;
            }
            self.begin();
            self.within = *domain;
            let fits = self.place_minimum(name, pods).is_ok();
            let left = if fits { self.place_rest(pods).len() } else { 0 };
            let total = (left, self.total());
            self.roll_back(pods);
            if fits && best.is_none_or(|least| total < least) {
                (best, chosen) = (Some(total), Some(*domain));
            }
        }
        let Some(domain) = chosen else {
            return pods.to_vec();
        };
        self.begin();
        self.within = domain;
        let placed = self.place_minimum(name, pods);
        match placed {
            Ok(()) => {
                self.journal = None;
                let left = |pod: &usize| !self.placed.contains_key(pod);
                let mut rest: Vec<usize> = pods.iter().copied().filter(left).collect();
                if rest.len() == pods.len() {
                    rest = self.place_rest(pods);
                }
                self.within = None;
                rest
            }
            Err(_) => {
                self.roll_back(pods);
                pods.to_vec()
            }
        }
    }

    /// Says why each of these members is not served.
    pub(super) fn explain_group(&mut self, name: &ObjectKey, pods: &[usize]) {
        let within = self.shared_domains(name, pods);
        // Where most members found a place, what the others lack says most.
        let mut most: Option<(u32, Option<(Key, u32)>)> = None;
        for domain in &within {
            self.begin();
            self.within = *domain;
            let placed = self
                .place_minimum(name, pods)
                .map_or_else(|lacking| lacking.placed, |()| u32::MAX);
            self.roll_back(pods);
            if most.is_none_or(|(least, _)| placed > least) {
                most = Some((placed, *domain));
            }
        }
        self.begin();
        self.within = most.and_then(|(_, domain)| domain);
        let lacking = self.place_minimum(name, pods).err();
        let because = lacking
            .as_ref()
            .and_then(|lacking| lacking.stuck)
            .map(|demand| Box::new(self.not_served(demand)));
        self.roll_back(pods);
        for pod in pods {
            let why = match &lacking {
                Some(lacking) => NotServed::Group {
                    group: name.clone(),
                    role: lacking.role.clone(),
                    placed: lacking.placed,
                    minimum: lacking.minimum,
                    because: because.clone(),
                },
                None => self.not_served(self.pods[*pod].demand),
            };
            self.unserved.insert(*pod, why);
        }
    }

    /// Candidates of the domain that the group being placed must share; of a host, whatever is the
    /// first to be opened.
    pub(super) fn within(&self) -> Option<&Bits> {
        let (key, domain) = self.within?;
        if key == HOST {
            return None;
        }
        let masks = &self.topology.keys[key].masks;
        Some(masks.get(domain as usize).unwrap_or(&self.nowhere))
    }

    /// Whether bin `b`, or the next one to be opened, may be in the domain that the group being placed
    /// must share. Which candidates of a new one are says [`Self::within`].
    pub(super) fn is_within(&self, b: usize) -> bool {
        let Some((key, domain)) = self.within else {
            return true;
        };
        match self.bins.get(b) {
            _ if key == HOST => b as u32 == domain,
            Some(Bin {
                kind: Kind::Existing(_),
                domains,
                ..
            }) => domain != NO_DOMAIN && domains[key] == domain,
            _ => true,
        }
    }

    /// Remembers a bin before it is changed.
    pub(super) fn touch(&mut self, b: usize) {
        if let Some(journal) = &mut self.journal
            && b < journal.bins
        {
            let bin = &self.bins[b];
            journal.saved.entry(b).or_insert_with(|| bin.clone());
        }
    }

    /// The domains that the group may share, each with its key; `None` where it need not share any.
    fn shared_domains(&mut self, name: &ObjectKey, pods: &[usize]) -> Vec<Option<(Key, u32)>> {
        let Some(key) = self.shared_key(name) else {
            return vec![None];
        };
        let (bound, placed) = self.members_at(name);
        if let Some(b) = bound.iter().chain(&placed).next() {
            return vec![Some((key, self.bins[*b].domains[key]))];
        }
        if key == HOST {
            return self.hosts(pods);
        }
        let domains = 0..self.topology.keys[key].masks.len() as u32;
        domains.map(|domain| Some((key, domain))).collect()
    }

    /// The nodes that the first of these pods would cost least on, and a new one.
    fn hosts(&self, pods: &[usize]) -> Vec<Option<(Key, u32)>> {
        let mut costs: Vec<Cost> = Vec::new();
        if let Some(pod) = pods.first() {
            let demand = &self.demands[self.pods[*pod].demand];
            let levels = demand.levels.last();
            let cost = |b| self.appraise(demand, levels?, b);
            costs = (0..self.bins.len()).filter_map(cost).collect();
        }
        costs.sort_unstable();
        let old = costs.iter().take(MOST_HOSTS).map(|cost| cost.bin);
        old.chain([self.bins.len()])
            .map(|b| Some((HOST, b as u32)))
            .collect()
    }

    /// The key whose domain the group must share, every bin's domain filled in.
    pub(super) fn shared_key(&mut self, name: &ObjectKey) -> Option<Key> {
        let world = self.world;
        let same = world.groups.get(name)?.same.as_ref()?;
        let key = self.topology.key(same, &world.market);
        for b in 0..self.bins.len() {
            if self.bins[b].domains.len() > key {
                continue;
            }
            let value = match &self.bins[b].kind {
                Kind::Existing(existing) => world.classes[existing.class].labels.get(same),
                Kind::New(_) => None,
            };
            let domain = value.map_or(NO_DOMAIN, |value| {
                self.topology.domain(key, value, &world.market)
            });
            self.bins[b].domains.resize(key, NO_DOMAIN);
            self.bins[b].domains.push(domain);
        }
        Some(key)
    }

    /// Bins of a group's members: of those that are bound, and of those that are placed.
    pub(super) fn members_at(&self, name: &ObjectKey) -> (Vec<usize>, Vec<usize>) {
        let bound = self.members.get(name).map(|members| members.bins.clone());
        let placed = self.placed.iter().filter(|(pod, _)| {
            let shape = self.demands[self.pods[**pod].demand].shape;
            shape.group.as_ref() == Some(name)
        });
        (
            bound.unwrap_or_default(),
            placed.map(|(_, placed)| placed.bin).collect(),
        )
    }

    /// How many members of each role are bound or placed.
    pub(super) fn roles(&self, name: &ObjectKey) -> BTreeMap<String, u32> {
        let mut there: BTreeMap<String, u32> = BTreeMap::new();
        if let Some(members) = self.members.get(name) {
            let roles = members.roles.iter();
            there.extend(roles.map(|(role, count)| ((*role).to_owned(), *count)));
        }
        for pod in self.placed.keys() {
            let shape = self.demands[self.pods[*pod].demand].shape;
            if shape.group.as_ref() == Some(name) {
                *there.entry(shape.role().to_owned()).or_default() += 1;
            }
        }
        there
    }

    pub(super) fn begin(&mut self) {
        self.journal = Some(Journal {
            bins: self.bins.len(),
            saved: BTreeMap::new(),
            tallies: self
                .topology
                .tallies
                .iter()
                .map(|tally| (tally.counts.clone(), tally.total, tally.owners.clone()))
                .collect(),
            limits: self
                .limits
                .iter()
                .map(|limit| {
                    limit.as_ref().map(|limit| Limit {
                        rows: limit.rows.clone(),
                    })
                })
                .collect(),
            launches: self.launches.clone(),
            levels: self
                .demands
                .iter()
                .map(|demand| demand.level.get())
                .collect(),
        });
    }

    pub(super) fn roll_back(&mut self, pods: &[usize]) {
        self.within = None;
        let Some(journal) = self.journal.take() else {
            return;
        };
        self.bins.truncate(journal.bins);
        for (b, bin) in journal.saved {
            self.bins[b] = bin;
        }
        for (tally, (counts, total, owners)) in
            self.topology.tallies.iter_mut().zip(journal.tallies)
        {
            (tally.counts, tally.total, tally.owners) = (counts, total, owners);
        }
        self.topology.version += 1;
        (self.limits, self.launches) = (journal.limits, journal.launches);
        for (demand, level) in self.demands.iter().zip(journal.levels) {
            demand.level.set(level);
        }
        for pod in pods {
            self.placed.remove(pod);
        }
    }

    fn place_minimum(&mut self, name: &ObjectKey, pods: &[usize]) -> Result<(), Lacking> {
        let Some(group) = self.world.groups.get(name) else {
            return Ok(());
        };
        let there = self.roles(name);
        // On one node, what decides its type goes first.
        let plain = |role: &str| {
            let mut demands = pods.iter().map(|pod| &self.demands[self.pods[*pod].demand]);
            !demands.any(|demand| demand.special && demand.shape.role() == role)
        };
        let mut minimum: Vec<(&String, &u32)> = group.minimum.iter().collect();
        if matches!(self.within, Some((HOST, _))) {
            minimum.sort_by_key(|(role, _)| plain(role));
        }
        for (role, minimum) in minimum {
            let there = there.get(role).copied().unwrap_or(0);
            let needed = minimum.saturating_sub(there) as usize;
            let of_role = |pod: &&usize| self.demands[self.pods[**pod].demand].shape.role() == role;
            let of_role: Vec<usize> = pods.iter().filter(of_role).copied().collect();
            // Members of a role may differ: where one cannot be placed, another may.
            let mut placed = 0;
            let mut stuck = None;
            for (demand, list) in self.by_demand(&of_role) {
                let chosen = &list[..list.len().min(needed - placed)];
                let left = self.place_all(demand, chosen);
                placed += chosen.len() - left.len();
                stuck = stuck.or_else(|| left.first().copied());
            }
            if placed < needed {
                let placed = there + placed as u32;
                return Err(Lacking {
                    role: role.clone(),
                    placed,
                    minimum: *minimum,
                    stuck: stuck.map(|pod| self.pods[pod].demand),
                });
            }
        }
        Ok(())
    }

    /// Places what is not placed yet of these pods; gives back those that found no place.
    fn place_rest(&mut self, pods: &[usize]) -> Vec<usize> {
        (self.by_demand(pods).into_iter())
            .flat_map(|(demand, pods)| self.place_all(demand, &pods))
            .collect()
    }

    /// Those of these pods that are not placed yet, by demand, in the order in which they come.
    fn by_demand(&self, pods: &[usize]) -> Vec<(usize, Vec<usize>)> {
        let mut by_demand: Vec<(usize, Vec<usize>)> = Vec::new();
        for pod in pods.iter().filter(|pod| !self.placed.contains_key(pod)) {
            let demand = self.pods[*pod].demand;
            match by_demand.iter_mut().find(|(d, _)| *d == demand) {
                Some((_, list)) => list.push(*pod),
                None => by_demand.push((demand, vec![*pod])),
            }
        }
        by_demand
    }

    /// Score of everything that is planned now.
    fn total(&self) -> Money {
        let of_bin = |bin: &Bin<'w>| match &bin.kind {
            Kind::New(new) => new.score,
            Kind::Existing(existing) => self.waiting(existing, bin),
        };
        self.bins
            .iter()
            .map(of_bin)
            .fold(Money(0), |sum, part| sum + part)
    }

    /// What the pods put on a node that is there cost: its start, and the longest wait.
    fn waiting(&self, existing: &Existing<'w>, bin: &Bin<'w>) -> Money {
        if bin.pods.is_empty() {
            return Money(0);
        }
        existing.price.over(existing.life + existing.waited)
            + existing.value_of_time.over(existing.waited)
    }
}
