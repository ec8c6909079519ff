//! Groups: all of a minimum, or nothing.
//!
//! A group is tried as a whole and taken back whole, and so is every set of members that are of use only
//! together. Where members must share a domain, every domain is tried and the one that serves most of
//! them is taken, of equals the one of least score.

use std::collections::BTreeMap;

use crate::bits::Bits;
use crate::money::Money;
use crate::pod::{Group, ObjectKey, Sharing};
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
    within: Within,
}

/// Members of a group that run already.
#[derive(Default)]
pub(crate) struct Members<'w> {
    pub(super) roles: BTreeMap<&'w str, u32>,
    /// Where, by role.
    pub(super) bins: Vec<(&'w str, usize)>,
}

/// A domain that must be shared, if any, with its key.
type Within = Option<(Key, u32)>;

/// The first role that lacks members.
struct Lacking {
    role: String,
    placed: u32,
    minimum: u32,
    why: Stuck,
}

/// What came of placing some members of one role.
#[derive(Default)]
struct Tried {
    placed: usize,
    stuck: Stuck,
}

/// Where it went no further.
#[derive(Clone, Copy, Default)]
struct Stuck {
    /// The demand of the first member that found no place.
    demand: Option<usize>,
    /// The domain in which it should have.
    within: Within,
}

impl<'w> Solver<'w> {
    /// Places what a group's minimum lacks, as a whole; if it lacks nothing, as many more as possible.
    /// Gives back the others.
    pub(super) fn place_group(&mut self, name: &ObjectKey, pods: &[usize]) -> Vec<usize> {
        let within = self.shared_domains(name, pods, None);
        let domain = self.best_within(&within, pods, |solver| {
            solver.place_minimum(name, pods).ok()?;
            Some(solver.place_rest(name, pods).len())
        });
        let Some(domain) = domain else {
            return pods.to_vec();
        };
        self.begin();
        self.within = domain;
        let placed = self.place_minimum(name, pods);
        match placed {
            Ok(()) => {
                self.keep();
                let left = |pod: &usize| !self.placed.contains_key(pod);
                let mut rest: Vec<usize> = pods.iter().copied().filter(left).collect();
                if rest.len() == pods.len() {
                    rest = self.place_rest(name, pods);
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

    /// Of these domains the one in which `place` leaves the fewest of `pods`, of equals for the least
    /// score. A single one is not tried. `None` where it fails in all.
    fn best_within(
        &mut self,
        domains: &[Within],
        pods: &[usize],
        mut place: impl FnMut(&mut Self) -> Option<usize>,
    ) -> Option<Within> {
        if let [domain] = domains {
            return Some(*domain);
        }
        let mut best: Option<((usize, Money), Within)> = None;
        for domain in domains {
            self.begin();
            self.within = *domain;
            let left = place(self);
            let total = self.total();
            self.roll_back(pods);
            if let Some(left) = left
                && best.is_none_or(|(least, _)| (left, total) < least)
            {
                best = Some(((left, total), *domain));
            }
        }
        best.map(|(_, domain)| domain)
    }

    /// Says why each of these members is not served.
    pub(super) fn explain_group(&mut self, name: &ObjectKey, pods: &[usize]) {
        let within = self.shared_domains(name, pods, None);
        // Where most members found a place, what the others lack says most.
        let mut most: Option<(u32, Within)> = None;
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
        let whole = lacking.map(|lacking| self.lacks(name, lacking));
        self.roll_back(pods);
        let mut of_sets: BTreeMap<&str, Option<NotServed>> = BTreeMap::new();
        for pod in pods {
            let role = self.demands[self.pods[*pod].demand].shape.role();
            let why = match &whole {
                Some(why) => why.clone(),
                None => {
                    let of_set = of_sets
                        .entry(role)
                        .or_insert_with(|| self.explain_set(name, role, pods));
                    let alone = || self.not_served(self.pods[*pod].demand);
                    of_set.clone().unwrap_or_else(alone)
                }
            };
            self.unserved.insert(*pod, why);
        }
    }

    /// Why the next set of a role is not served; `None` where its members come one by one.
    fn explain_set(&mut self, name: &ObjectKey, role: &str, pods: &[usize]) -> Option<NotServed> {
        let group = self.world.groups.get(name)?;
        if group.set_of(role) == 1 {
            return None;
        }
        let there = self.roles(name).get(role).copied().unwrap_or(0);
        let minimum = group.next_whole(role, there);
        let of_role = self.of_role(pods, role);
        let needed = (minimum - there) as usize;
        self.begin();
        let tried = self.place_members(name, role, &of_role, needed);
        let why = (tried.placed < needed).then(|| {
            let lacking = Lacking {
                role: role.to_owned(),
                placed: there + tried.placed as u32,
                minimum,
                why: tried.stuck,
            };
            self.lacks(name, lacking)
        });
        self.roll_back(&of_role);
        why
    }

    fn lacks(&mut self, name: &ObjectKey, lacking: Lacking) -> NotServed {
        let outer = std::mem::replace(&mut self.within, lacking.why.within);
        let because = lacking.why.demand.map(|demand| self.not_served(demand));
        self.within = outer;
        NotServed::Group {
            group: name.clone(),
            role: lacking.role,
            placed: lacking.placed,
            minimum: lacking.minimum,
            because: because.map(Box::new),
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
        if let Some(journal) = self.journals.last_mut()
            && b < journal.bins
        {
            let bin = &self.bins[b];
            journal.saved.entry(b).or_insert_with(|| bin.clone());
        }
    }

    /// The domains that a group may share, or of one whose roles each share one, that `role`; each with
    /// its key. `None` where none need be shared.
    fn shared_domains(
        &mut self,
        name: &ObjectKey,
        pods: &[usize],
        role: Option<&str>,
    ) -> Vec<Within> {
        let sharing = self.world.groups.get(name).map(|group| group.sharing);
        let shares = sharing
            == Some(match role {
                None => Sharing::Group,
                Some(_) => Sharing::Role,
            });
        let key = if shares { self.shared_key(name) } else { None };
        let Some(key) = key else {
            return vec![None];
        };
        let (bound, placed) = self.members_at(name, role);
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
    fn hosts(&self, pods: &[usize]) -> Vec<Within> {
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

    /// Bins of a group's members, or of those of one role: of those that are bound, and of those that are
    /// placed.
    pub(super) fn members_at(
        &self,
        name: &ObjectKey,
        role: Option<&str>,
    ) -> (Vec<usize>, Vec<usize>) {
        let is_meant = |of: &str| role.is_none_or(|role| role == of);
        let members = self.members.get(name).into_iter();
        let bound = members.flat_map(|members| &members.bins);
        let placed = self.placed.iter().filter(|(pod, _)| {
            let shape = self.demands[self.pods[**pod].demand].shape;
            shape.group.as_ref() == Some(name) && is_meant(shape.role())
        });
        (
            (bound.filter(|(of, _)| is_meant(of)).map(|(_, b)| *b)).collect(),
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

    /// Remembers how things are, until [`Self::keep`] or [`Self::roll_back`]. May be within another.
    pub(super) fn begin(&mut self) {
        self.journals.push(Journal {
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
            within: self.within,
        });
    }

    /// Leaves what was done since the last [`Self::begin`]; that before it may still take it back.
    pub(super) fn keep(&mut self) {
        let Some(inner) = self.journals.pop() else {
            return;
        };
        if let Some(outer) = self.journals.last_mut() {
            let older = inner.saved.into_iter().filter(|(b, _)| *b < outer.bins);
            for (b, bin) in older {
                outer.saved.entry(b).or_insert(bin);
            }
        }
    }

    /// Takes back what was done since the last [`Self::begin`], when none of `pods` was placed.
    pub(super) fn roll_back(&mut self, pods: &[usize]) {
        let Some(journal) = self.journals.pop() else {
            return;
        };
        self.within = journal.within;
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
            let of_role = self.of_role(pods, role);
            let tried = self.place_members(name, role, &of_role, needed);
            if tried.placed < needed {
                return Err(Lacking {
                    role: role.clone(),
                    placed: there + tried.placed as u32,
                    minimum: *minimum,
                    why: tried.stuck,
                });
            }
        }
        Ok(())
    }

    /// Places up to `needed` of these members of one role, in the domain that it must share.
    fn place_members(
        &mut self,
        name: &ObjectKey,
        role: &str,
        pods: &[usize],
        needed: usize,
    ) -> Tried {
        let outer = self.within;
        let within = match outer {
            None if needed > 0 => self.shared_domains(name, pods, Some(role)),
            _ => vec![outer],
        };
        let left = |pod: &&usize| !self.placed.contains_key(*pod);
        let pods: Vec<usize> = pods.iter().filter(left).copied().collect();
        let best = self.best_within(&within, &pods, |solver| {
            Some(needed - solver.place_any(&pods, needed).placed)
        });
        let Some(best) = best else {
            return Tried::default();
        };
        self.within = best;
        let tried = self.place_any(&pods, needed);
        self.within = outer;
        tried
    }

    /// Places up to `needed` of these pods. They may differ: where one cannot be placed, another may.
    fn place_any(&mut self, pods: &[usize], needed: usize) -> Tried {
        let mut tried = Tried::default();
        tried.stuck.within = self.within;
        for (demand, list) in self.by_demand(pods) {
            let chosen = &list[..list.len().min(needed - tried.placed)];
            let left = self.place_all(demand, chosen);
            tried.placed += chosen.len() - left.len();
            let stuck = left.first().map(|pod| self.pods[*pod].demand);
            tried.stuck.demand = tried.stuck.demand.or(stuck);
        }
        tried
    }

    fn of_role(&self, pods: &[usize], role: &str) -> Vec<usize> {
        let of_role = |pod: &&usize| self.demands[self.pods[**pod].demand].shape.role() == role;
        pods.iter().filter(of_role).copied().collect()
    }

    /// Places what is not placed yet of these pods, sets whole; gives back those that found no place.
    fn place_rest(&mut self, name: &ObjectKey, pods: &[usize]) -> Vec<usize> {
        let group = self.world.groups.get(name);
        for (demand, alike) in self.by_demand(pods) {
            let role = self.demands[demand].shape.role();
            match group {
                Some(group) if group.set_of(role) > 1 => self.place_sets(group, role, pods),
                _ => {
                    self.place_members(name, role, &alike, alike.len());
                }
            }
        }
        let left = |pod: &&usize| !self.placed.contains_key(*pod);
        pods.iter().filter(left).copied().collect()
    }

    /// Places sets of a role until one finds no place as a whole.
    fn place_sets(&mut self, group: &Group, role: &str, pods: &[usize]) {
        let mut there = self.roles(&group.key).get(role).copied().unwrap_or(0);
        loop {
            let needed = (group.next_whole(role, there) - there) as usize;
            let mut next = self.of_role(pods, role);
            next.retain(|pod| !self.placed.contains_key(pod));
            next.truncate(needed);
            if next.len() < needed {
                return;
            }
            self.begin();
            if self.place_members(&group.key, role, &next, needed).placed < needed {
                self.roll_back(&next);
                return;
            }
            self.keep();
            there += needed as u32;
        }
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
