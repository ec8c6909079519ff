//! The levels of a shape's preferences: all of them obeyed, then one less each, of each kind the
//! heaviest given up first.

use std::cell::RefCell;

use super::{Coming, Level, Obeyed, eligible};
use crate::bits::Bits;
use crate::market::NodeTaints;
use crate::plan::Relaxed;
use crate::pod::{Shape, Unsatisfiable};
use crate::snapshot::Preferences;
use crate::solve::topology::{Rule, Topology, Use};
use crate::world::World;

pub(super) fn levels(
    world: &World,
    shape: &Shape,
    base: &Bits,
    reachable: &Bits,
    topology: &mut Topology,
) -> Vec<Level> {
    let soft = shape
        .spread
        .iter()
        .filter(|s| s.when == Unsatisfiable::ScheduleAnyway)
        .count();
    let none = Obeyed {
        affinity: 0,
        anti_affinity: 0,
        node_affinity: 0,
        spread: 0,
        taints: NodeTaints::Hard,
    };
    if world.policy.preferences == Preferences::Ignore {
        return vec![level(world, shape, base, reachable, topology, &none, &[])];
    }
    let mut obeyed = Obeyed {
        affinity: shape.preferred_affinity.len(),
        anti_affinity: shape.preferred_anti_affinity.len(),
        node_affinity: shape.preferred_node_affinity.len(),
        spread: soft,
        taints: NodeTaints::All,
    };
    // A taint that may be tolerated counts as a preference only where a pool or a node has one.
    let tainted = |taints: &[crate::label::Taint]| {
        crate::market::untolerated(taints, &shape.tolerations, NodeTaints::All).is_some()
            && crate::market::untolerated(taints, &shape.tolerations, NodeTaints::Hard).is_none()
    };
    let some_taint = world.market.pools.iter().any(|pool| tainted(&pool.taints))
        || world.classes.iter().any(|class| tainted(&class.taints));
    if !some_taint {
        obeyed.taints = NodeTaints::Hard;
    }
    let mut relaxed = Vec::new();
    let mut levels = Vec::new();
    loop {
        levels.push(level(
            world, shape, base, reachable, topology, &obeyed, &relaxed,
        ));
        let given_up = if obeyed.affinity > 0 {
            obeyed.affinity -= 1;
            Relaxed::Affinity
        } else if obeyed.anti_affinity > 0 {
            obeyed.anti_affinity -= 1;
            Relaxed::AntiAffinity
        } else if obeyed.node_affinity > 0 {
            obeyed.node_affinity -= 1;
            Relaxed::NodeAffinity
        } else if obeyed.spread > 0 {
            obeyed.spread -= 1;
            Relaxed::Spread
        } else if obeyed.taints == NodeTaints::All {
            obeyed.taints = NodeTaints::Hard;
            Relaxed::Taint
        } else {
            return levels;
        };
        relaxed.push(given_up);
    }
}

fn level(
    world: &World,
    shape: &Shape,
    base: &Bits,
    reachable: &Bits,
    topology: &mut Topology,
    obeyed: &Obeyed,
    relaxed: &[Relaxed],
) -> Level {
    let market = &world.market;
    let mut mask = base.clone();
    if obeyed.taints == NodeTaints::All {
        mask.keep(&market.compatible(shape, NodeTaints::All));
    }
    // The heaviest preference that is left counts as required; heavier ones were given up before.
    let prefers = lightest(&shape.preferred_node_affinity, obeyed.node_affinity)
        .first()
        .map(|term| (*term).clone());
    if let Some(term) = &prefers {
        mask.keep(&market.satisfying_term(term));
    }
    let mut uses = Vec::new();
    let mut relate = |tally: usize, rule: Rule, topology: &Topology| {
        let own = topology.tallies[tally].selects(shape);
        uses.push(Use {
            tally,
            key: topology.tallies[tally].key,
            own,
            rule,
        });
    };
    let preferred = lightest(&shape.preferred_affinity, obeyed.affinity);
    let together: Vec<usize> = (shape.affinity.iter())
        .map(|term| topology.affinity(term, &shape.affinity, market))
        .collect();
    for tally in &together {
        let together = together.clone();
        relate(*tally, Rule::Affinity { together }, topology);
    }
    for term in preferred {
        let tally = topology.term(term, market);
        let together = vec![tally];
        relate(tally, Rule::Affinity { together }, topology);
    }
    let preferred = lightest(&shape.preferred_anti_affinity, obeyed.anti_affinity);
    for term in shape.anti_affinity.iter().chain(preferred) {
        let tally = topology.term(term, market);
        relate(tally, Rule::AntiAffinity, topology);
    }
    let mut soft = obeyed.spread;
    for spread in &shape.spread {
        if spread.when == Unsatisfiable::ScheduleAnyway {
            if soft == 0 {
                continue;
            }
            soft -= 1;
        }
        let tally = topology.spread(spread, shape, market);
        let eligible = eligible(world, topology, shape, tally, reachable, Coming::Counted);
        let rule = Rule::Spread {
            max_skew: spread.max_skew.max(1),
            min_domains: spread.min_domains,
            eligible,
            floor: 0,
            soft: spread.when == Unsatisfiable::ScheduleAnyway,
        };
        relate(tally, rule, topology);
    }
    Level {
        mask,
        uses,
        taints: obeyed.taints,
        prefers,
        relaxed: relaxed.to_vec(),
        wide: None,
        leads: None,
        apart_from: None,
        classes: RefCell::default(),
        allowed: RefCell::default(),
    }
}

/// The `count` lightest of weighted terms, heaviest first. The heaviest is given up first: one that
/// cannot be met would otherwise take all lighter ones with it.
fn lightest<T>(terms: &[(i32, T)], count: usize) -> Vec<&T> {
    let mut sorted: Vec<&(i32, T)> = terms.iter().collect();
    sorted.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let given_up = terms.len() - count;
    sorted
        .into_iter()
        .skip(given_up)
        .map(|(_, term)| term)
        .collect()
}
