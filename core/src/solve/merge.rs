//! Merging new nodes of special types: four pods of four workloads, each with a GPU of its own, go on
//! one node of four GPUs where that costs less.
//!
//! Placing pod by pod does not see this, since the second pod alone never justifies the larger node.

use crate::solve::bins::Kind;
use crate::solve::{Placed, Solver};

/// Merges tried at most; each one that succeeds saves a node.
const MOST: usize = 256;

/// New nodes that one larger node could replace.
struct Merge {
    saves: i64,
    candidate: usize,
    bins: Vec<usize>,
}

impl Solver<'_> {
    /// Replaces new nodes of special types by larger ones while that saves score; says whether it did.
    pub(super) fn merge_special(&mut self) -> bool {
        let mut refused: Vec<usize> = Vec::new();
        let mut merged = false;
        for _ in 0..MOST {
            let Some(merge) = self.best_merge(&refused) else {
                break;
            };
            if self.try_merge(&merge) {
                merged = true;
            } else {
                refused.push(merge.candidate);
            }
        }
        merged
    }

    /// The merge that would save most, relations between pods aside.
    fn best_merge(&self, refused: &[usize]) -> Option<Merge> {
        let market = &self.world.market;
        let mut bins: Vec<usize> = (0..self.bins.len())
            .filter(|b| self.is_mergeable(*b))
            .collect();
        if bins.len() < 2 {
            return None;
        }
        let score = |b: usize| match &self.bins[b].kind {
            Kind::New(new) => new.score.0,
            Kind::Existing(_) => 0,
        };
        bins.sort_by_key(|b| (std::cmp::Reverse(score(*b)), *b));
        let sum: i64 = bins.iter().map(|b| score(*b)).sum();
        let mut best: Option<Merge> = None;
        for c in market.special.meet(&[&self.available]) {
            if self.base(c).0 >= sum || refused.contains(&c) {
                continue;
            }
            let room = market.room(c);
            let mut used = vec![0; room.len()];
            let (mut chosen, mut before) = (Vec::new(), 0);
            for b in &bins {
                let Kind::New(new) = &self.bins[*b].kind else {
                    continue;
                };
                let amounts = &self.bins[*b].amounts;
                let fits = used
                    .iter()
                    .zip(amounts)
                    .zip(room)
                    .all(|((used, more), room)| used + more <= *room);
                if fits && new.wide.contains(c) {
                    used.iter_mut()
                        .zip(amounts)
                        .for_each(|(used, more)| *used += more);
                    before += new.score.0;
                    chosen.push(*b);
                }
            }
            let saves = before - self.base(c).0;
            if chosen.len() > 1 && saves > 0 && best.as_ref().is_none_or(|best| saves > best.saves)
            {
                best = Some(Merge {
                    saves,
                    candidate: c,
                    bins: chosen,
                });
            }
        }
        best
    }

    /// Whether a bin is new, in use, of a special type, shared, and free of pods that belong to a group.
    fn is_mergeable(&self, b: usize) -> bool {
        let bin = &self.bins[b];
        let grouped = |pod: &usize| self.demands[self.pods[*pod].demand].shape.group.is_some();
        match &bin.kind {
            Kind::New(new) => {
                !new.exclusive
                    && !bin.pods.is_empty()
                    && self.world.market.special.contains(new.best)
                    && !bin.pods.iter().any(grouped)
            }
            Kind::Existing(_) => false,
        }
    }

    /// Moves everything in the bins of a merge to one new node; leaves all as it was if the pods'
    /// relations forbid it or nothing is saved.
    fn try_merge(&mut self, merge: &Merge) -> bool {
        let pods: Vec<usize> = merge
            .bins
            .iter()
            .flat_map(|b| self.bins[*b].pods.clone())
            .collect();
        let before: Vec<(usize, Placed)> = pods
            .iter()
            .filter_map(|pod| self.placed.get(pod).map(|placed| (*pod, placed.clone())))
            .collect();
        let score: i64 = merge.bins.iter().map(|b| self.new_score(*b)).sum();
        // Others may rely on the domains its pods have now.
        let mut mask =
            self.world.market.tiers()[self.world.market.candidates[merge.candidate].tier].clone();
        mask.keep(&self.available);
        for b in &merge.bins {
            if let Kind::New(new) = &self.bins[*b].kind {
                mask.keep(&new.wide);
            }
        }
        self.begin();
        for b in &merge.bins {
            self.empty(*b);
        }
        if !self.affordable(merge.candidate, None) {
            self.roll_back(&pods);
            self.placed.extend(before);
            return false;
        }
        let b = self.open_bin(merge.candidate, mask);
        let moved = before.iter().all(|(pod, placed)| {
            let d = self.pods[*pod].demand;
            let fits = self
                .appraise(&self.demands[d], &self.demands[d].levels[placed.level], b)
                .is_some();
            if fits {
                self.put(d, placed.level, *pod, b);
                self.placed.insert(
                    *pod,
                    Placed {
                        bin: b,
                        level: placed.level,
                        next: None,
                    },
                );
            }
            fits
        });
        if moved && self.new_score(b) < score {
            self.keep();
            return true;
        }
        self.roll_back(&pods);
        self.placed.extend(before);
        false
    }

    fn new_score(&self, b: usize) -> i64 {
        match &self.bins[b].kind {
            Kind::New(new) => new.score.0,
            Kind::Existing(_) => 0,
        }
    }
}
