//! Whether pods may be near each other: required affinity and anti-affinity, in both directions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::label::Labels;
use crate::plan::Plan;
use crate::pod::{PodTerm, Shape};
use crate::reason::Rejection;

use super::Violation;
use super::fit::Included;
use super::spread;
use super::state::{Here, State};

/// Who is near whom in the final state.
pub(super) struct Relations<'a> {
    anti: Vec<Anti<'a>>,
    /// For each shape, the anti-affinity terms that it carries or that select it.
    anti_of: Vec<Vec<usize>>,
    near: Vec<Near<'a>>,
    /// For each shape, its own list of affinity terms.
    near_of: Vec<Option<usize>>,
}

/// One distinct anti-affinity term.
struct Anti<'a> {
    term: &'a PodTerm,
    carriers: BTreeSet<usize>,
    matching: BTreeSet<usize>,
    /// Pods that carry it, by domain.
    carried: BTreeMap<String, u32>,
    /// Pods that it selects, by domain.
    selected: BTreeMap<String, u32>,
}

/// One distinct list of affinity terms.
#[derive(Clone)]
struct Near<'a> {
    terms: &'a [PodTerm],
    /// Shapes that match all of it.
    matching: BTreeSet<usize>,
    /// Pods of those, by key and domain.
    there: BTreeMap<&'a str, BTreeMap<String, u32>>,
    /// Whether there is any, anywhere.
    any: bool,
}

/// A shape on a node.
type Cell = (usize, usize);

impl<'a> Relations<'a> {
    /// Counts everything once.
    pub(super) fn of(state: &State<'a>) -> Self {
        let mut terms: BTreeMap<&'a PodTerm, BTreeSet<usize>> = BTreeMap::new();
        let mut lists: HashMap<&'a [PodTerm], usize> = HashMap::new();
        let mut near = Vec::new();
        let mut near_of = Vec::new();
        for (index, shape) in state.shapes.iter().enumerate() {
            for term in &shape.anti_affinity {
                terms.entry(term).or_default().insert(index);
            }
            near_of.push((!shape.affinity.is_empty()).then(|| {
                *lists.entry(&shape.affinity).or_insert_with(|| {
                    near.push(Near::of(state, &shape.affinity, Here::visible));
                    near.len() - 1
                })
            }));
        }
        let mut anti_of = vec![Vec::new(); state.shapes.len()];
        let mut anti = Vec::new();
        for (term, carriers) in terms {
            let matching = matching(state, |other| selects(term, other));
            for shape in carriers.union(&matching) {
                anti_of[*shape].push(anti.len());
            }
            // Whoever is being deleted keeps others away until it is gone.
            let count = |shapes| count(state, &term.topology_key, shapes, Here::all);
            anti.push(Anti {
                carried: count(&carriers),
                selected: count(&matching),
                term,
                carriers,
                matching,
            });
        }
        Self {
            anti,
            anti_of,
            near,
            near_of,
        }
    }

    /// Why a pod of that shape may not be in the domains of `labels`: it excludes somebody there, or
    /// somebody there excludes it.
    pub(super) fn anti_affinity(
        &self,
        shape: usize,
        labels: &Labels,
        included: Included,
    ) -> Option<Rejection> {
        let itself = u32::from(included == Included::Yes);
        self.anti_of[shape].iter().find_map(|index| {
            let anti = &self.anti[*index];
            let domain = labels.get(&anti.term.topology_key)?;
            let others = |counts: &BTreeMap<String, u32>, among: &BTreeSet<usize>| {
                let all = counts.get(domain).copied().unwrap_or(0);
                all.saturating_sub(if among.contains(&shape) { itself } else { 0 })
            };
            let carries = anti.carriers.contains(&shape);
            let matches = anti.matching.contains(&shape);
            let clash = carries && others(&anti.selected, &anti.matching) > 0
                || matches && others(&anti.carried, &anti.carriers) > 0;
            clash.then(|| Rejection::AntiAffinity {
                key: anti.term.topology_key.clone(),
            })
        })
    }

    /// Why a further pod of that shape may not come to `labels`: nobody it must be near is there.
    pub(super) fn affinity(&self, shape: usize, labels: &Labels) -> Option<Rejection> {
        let near = &self.near[self.near_of[shape]?];
        let first = !near.any && near.matching.contains(&shape);
        near.missing(labels, first)
    }
}

impl<'a> Near<'a> {
    fn of(state: &State<'a>, terms: &'a [PodTerm], counted: fn(Here) -> u32) -> Self {
        let matching = matching(state, |other| terms.iter().all(|term| selects(term, other)));
        let there: BTreeMap<&str, BTreeMap<String, u32>> = (terms.iter())
            .map(|term| term.topology_key.as_str())
            .map(|key| (key, count(state, key, &matching, counted)))
            .collect();
        // One on a node that has none of the keys is nowhere.
        let any = there.values().any(|domains| !domains.is_empty());
        Self {
            terms,
            matching,
            there,
            any,
        }
    }

    /// The first term that is not met at `labels`; `first` says that the pod may come before all
    /// others.
    fn missing(&self, labels: &Labels, first: bool) -> Option<Rejection> {
        (self.terms.iter())
            .map(|term| term.topology_key.as_str())
            .find(|key| {
                let met = labels.get(*key).is_some_and(|domain| {
                    first || self.there.get(key).is_some_and(|t| t.contains_key(domain))
                });
                !met
            })
            .map(|key| Rejection::Affinity {
                key: key.to_owned(),
            })
    }

    /// Pods of `shape` have come to `labels`.
    fn come(&mut self, shape: usize, labels: &Labels) {
        if !self.matching.contains(&shape) {
            return;
        }
        for (key, there) in &mut self.there {
            if let Some(domain) = labels.get(*key) {
                *there.entry(domain.clone()).or_default() += 1;
            }
        }
    }
}

/// Judges every placement by the company it is in.
pub(super) fn check(
    state: &State<'_>,
    relations: &Relations<'_>,
    plan: &Plan,
    violations: &mut Vec<Violation>,
) {
    let cells: Vec<Cell> = (state.sites.iter().enumerate())
        .flat_map(|(site, at)| {
            let placed = at.here.iter().filter(|(_, here)| here.placed > 0);
            placed.map(move |(shape, _)| (*shape, site))
        })
        .collect();
    let mut wrong: BTreeMap<Cell, Rejection> = spread::check(state, &cells);
    for (shape, site) in &cells {
        let labels = &state.sites[*site].labels;
        if let Some(why) = relations.anti_affinity(*shape, labels, Included::Yes) {
            wrong.insert((*shape, *site), why);
        }
    }
    wrong.extend(unreachable(state, relations, cells));
    if wrong.is_empty() {
        return;
    }
    for placement in &plan.placements {
        let why = (state.where_placed(placement)).and_then(|cell| wrong.get(&cell));
        if let Some(why) = why {
            violations.push(Violation::Misplaced {
                pod: placement.pod.clone(),
                target: placement.target.clone(),
                why: why.clone(),
            });
        }
    }
}

/// Placements whose affinity no order of arrival meets. Pods without affinity are there at once; one
/// pod of each list of terms may come before anybody else, unless somebody runs already.
fn unreachable(
    state: &State<'_>,
    relations: &Relations<'_>,
    cells: Vec<Cell>,
) -> BTreeMap<Cell, Rejection> {
    let (waiting, at_once): (Vec<Cell>, Vec<Cell>) =
        (cells.into_iter()).partition(|(shape, _)| relations.near_of[*shape].is_some());
    if waiting.is_empty() {
        return BTreeMap::new();
    }
    let mut near: Vec<Near<'_>> = (relations.near.iter())
        .map(|near| Near::of(state, near.terms, |here| here.bound))
        .collect();
    for cell in at_once {
        come(state, &mut near, cell);
    }
    let arrival = Arrival { state, relations };
    let (near, waiting) = arrival.rest(near, waiting, MOST_FOUNDERS);
    (waiting.into_iter())
        .filter_map(|cell| {
            let why = missing(state, relations, &near, cell, Turn::Joining)?;
            Some((cell, why))
        })
        .collect()
}

/// Pods that are tried at most as the first of all.
const MOST_FOUNDERS: usize = 8;

/// The order in which pods come.
struct Arrival<'s, 'a> {
    state: &'s State<'a>,
    relations: &'s Relations<'a>,
}

impl<'a> Arrival<'_, 'a> {
    /// Who never can come when the best of at most `founders` comes first wherever somebody must; with
    /// who is there then.
    fn rest(
        &self,
        mut near: Vec<Near<'a>>,
        mut waiting: Vec<Cell>,
        founders: usize,
    ) -> (Vec<Near<'a>>, Vec<Cell>) {
        let missing = |near: &[Near<'a>], cell: Cell, turn: Turn| {
            missing(self.state, self.relations, near, cell, turn)
        };
        loop {
            let before = waiting.len();
            let mut still = Vec::new();
            for cell in waiting {
                match missing(&near, cell, Turn::Joining) {
                    None => come(self.state, &mut near, cell),
                    Some(_) => still.push(cell),
                }
            }
            waiting = still;
            if waiting.len() == before || waiting.is_empty() {
                break;
            }
        }
        let able: Vec<Cell> = (waiting.iter().copied())
            .filter(|cell| missing(&near, *cell, Turn::First).is_none())
            .take(founders)
            .collect();
        let mut best: Option<(Vec<Near<'a>>, Vec<Cell>)> = None;
        for founder in able {
            let mut near = near.clone();
            if let Some(own) = self.relations.near_of[founder.0] {
                near[own].any = true;
            }
            come(self.state, &mut near, founder);
            let others = waiting.iter().copied().filter(|cell| *cell != founder);
            let found = self.rest(near, others.collect(), founders.div_ceil(2));
            if found.1.is_empty() {
                return found;
            }
            if best
                .as_ref()
                .is_none_or(|best| found.1.len() < best.1.len())
            {
                best = Some(found);
            }
        }
        best.unwrap_or((near, waiting))
    }
}

fn come(state: &State<'_>, near: &mut [Near<'_>], (shape, site): Cell) {
    for near in near {
        near.come(shape, &state.sites[site].labels);
    }
}

/// Whether a pod joins others or comes before them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Joining,
    First,
}

fn missing(
    state: &State<'_>,
    relations: &Relations<'_>,
    near: &[Near<'_>],
    (shape, site): Cell,
    turn: Turn,
) -> Option<Rejection> {
    let near = &near[relations.near_of[shape]?];
    let first = turn == Turn::First && !near.any && near.matching.contains(&shape);
    near.missing(&state.sites[site].labels, first)
}

/// Shapes for which `holds`.
fn matching(state: &State<'_>, holds: impl Fn(&Shape) -> bool) -> BTreeSet<usize> {
    (state.shapes.iter().enumerate())
        .filter(|(_, shape)| holds(shape))
        .map(|(index, _)| index)
        .collect()
}

/// Pods of these shapes by domain of `key`; only domains that have any.
fn count(
    state: &State<'_>,
    key: &str,
    shapes: &BTreeSet<usize>,
    counted: fn(Here) -> u32,
) -> BTreeMap<String, u32> {
    let mut domains = BTreeMap::new();
    for site in &state.sites {
        let Some(domain) = site.labels.get(key) else {
            continue;
        };
        let there: u32 = (site.here.iter())
            .filter(|(shape, _)| shapes.contains(shape))
            .map(|(_, here)| counted(*here))
            .sum();
        if there > 0 {
            *domains.entry(domain.clone()).or_default() += there;
        }
    }
    domains
}

/// Whether the term selects pods of that shape.
fn selects(term: &PodTerm, other: &Shape) -> bool {
    term.namespaces.contains(&other.namespace)
        && (term.selector.as_ref()).is_some_and(|selector| selector.matches(&other.labels))
}
