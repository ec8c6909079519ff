//! Groups: all of a minimum, or nothing.
//!
//! A group is tried as a whole and taken back whole. Where its members must share a domain, every
//! domain is tried and the one that serves most of them is taken, of equals the one of least score.

use std::collections::BTreeMap;

use crate::money::Money;
use crate::pod::ObjectKey;
use crate::reason::NotServed;
use crate::solve::Solver;
use crate::solve::bins::{Bin, Existing, Kind};
use crate::solve::limits::Limit;
use crate::solve::topology::{HOST, Key, NO_DOMAIN};

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
    because: Option<Box<NotServed>>,
}

impl<'w> Solver<'w> {
    /// Places a group's minimum as a whole, then as many more as possible; gives back the others.
    pub(super) fn place_group(&mut self, name: &ObjectKey, pods: &[usize]) -> Vec<usize> {
        let (key, domains) = self.shared_domains(name);
        let within: Vec<Option<(Key, u32)>> = match key {
            None => vec![None],
            Some(key) => domains
                .into_iter()
                .map(|domain| Some((key, domain)))
                .collect(),
        };
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
                let rest = self.place_rest(pods);
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
        self.begin();
        let lacking = self.place_minimum(name, pods).err();
        self.roll_back(pods);
        for pod in pods {
            let why = match &lacking {
                Some(lacking) => NotServed::Group {
                    group: name.clone(),
                    role: lacking.role.clone(),
                    placed: lacking.placed,
                    minimum: lacking.minimum,
                    because: lacking.because.clone(),
                },
                None => self.not_served(self.pods[*pod].demand),
            };
            self.unserved.insert(*pod, why);
        }
    }

    /// Candidates and nodes of the domain that the group being placed must share.
    pub(super) fn within(&self) -> Option<&crate::bits::Bits> {
        self.within
            .and_then(|(key, domain)| self.topology.keys[key].masks.get(domain as usize))
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

    /// The key whose domain the group must share, and the domains it may be.
    fn shared_domains(&mut self, name: &ObjectKey) -> (Option<Key>, Vec<u32>) {
        let Some(same) = self
            .world
            .groups
            .get(name)
            .and_then(|group| group.same.clone())
        else {
            return (None, Vec::new());
        };
        let key = self.topology.key(&same, &self.world.market);
        if key == HOST {
            return (None, Vec::new());
        }
        let world = self.world;
        for b in 0..self.bins.len() {
            if self.bins[b].domains.len() > key {
                continue;
            }
            let value = match &self.bins[b].kind {
                Kind::Existing(existing) => world.classes[existing.class].labels.get(&same),
                Kind::New(_) => None,
            };
            let domain = value.map_or(NO_DOMAIN, |value| {
                self.topology.domain(key, value, &world.market)
            });
            self.bins[b].domains.resize(key, NO_DOMAIN);
            self.bins[b].domains.push(domain);
        }
        let bound = self.members.get(name).map(|members| &members.bins);
        let placed = self.placed.iter().filter(|(pod, _)| {
            let shape = self.demands[self.pods[**pod].demand].shape;
            shape.group.as_ref() == Some(name)
        });
        let there: Vec<u32> = (bound.into_iter().flatten().copied())
            .chain(placed.map(|(_, placed)| placed.bin))
            .map(|b| self.bins[b].domains[key])
            .collect();
        let domains = match there.first() {
            Some(domain) => vec![*domain],
            None => (0..self.topology.keys[key].masks.len() as u32).collect(),
        };
        (Some(key), domains)
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
        let mut there: BTreeMap<String, u32> = BTreeMap::new();
        if let Some(members) = self.members.get(name) {
            there.extend(
                members
                    .roles
                    .iter()
                    .map(|(role, count)| ((*role).to_owned(), *count)),
            );
        }
        for pod in self.placed.keys() {
            let shape = self.demands[self.pods[*pod].demand].shape;
            if shape.group.as_ref() == Some(name) {
                *there.entry(shape.role().to_owned()).or_default() += 1;
            }
        }
        for (role, minimum) in &group.minimum {
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
                let because = stuck.map(|pod| Box::new(self.not_served(self.pods[pod].demand)));
                let placed = there + placed as u32;
                return Err(Lacking {
                    role: role.clone(),
                    placed,
                    minimum: *minimum,
                    because,
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
