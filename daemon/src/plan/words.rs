//! Reasons as sentences: the only place where data of `headstart_core::reason` becomes text.
//!
//! Pure functions. A sentence names what was found, what was asked for, and by whom, in numbers.

use headstart_core::amount::{CPU, EPHEMERAL_STORAGE, display};
use headstart_core::cache::{Item, Pin};
use headstart_core::label::{Effect, Expression, Operator, Taint};
use headstart_core::money::{Millis, Money};
use headstart_core::plan::{Relaxed, Urgency};
use headstart_core::pool::DisruptionReason;
use headstart_core::ready::Timing;
use headstart_core::reason::{
    Candidate, Kept, NotFetched, NotServed, Origin, Rejection, RunnerUp, Score, Tally,
};

use self::tallies::condensed;

mod tallies;

/// Most reasons of one pool that are written out.
const MOST_REASONS: usize = 8;

/// Most values of a list that are written out.
const MOST_VALUES: usize = 6;

/// Why one candidate cannot take a pod, without its name: `0.81 USD/h is over the pod's cap of 0.50
/// USD/h`. `now` makes moments into spans.
pub(crate) fn rejection(rejection: &Rejection, now: Millis) -> String {
    match rejection {
        Rejection::PoolNotReady { why } => format!("the pool may not buy now: {why}"),
        Rejection::PoolLimit {
            resource,
            used,
            adding,
            limit,
        } => format!(
            "the pool's limit of {} is reached: {} in use and planned, {} more would be over {}",
            resource_name(resource),
            amount(resource, *used),
            amount(resource, *adding),
            amount(resource, *limit)
        ),
        Rejection::Unavailable { until, why } => {
            format!("the cloud said {why}; not asked again for {}", *until - now)
        }
        Rejection::NotSold => "not sold in that zone under that capacity type".to_owned(),
        Rejection::LaunchBudget { allowed } => {
            format!("{allowed} of it asked for already, which is as many as may be in one round")
        }
        Rejection::Price { price, cap, by } => {
            format!("{price} over the {} cap of {cap}", whose(*by))
        }
        Rejection::GpuSku { found, wanted, by } => format!(
            "{}, the {} asks for {}",
            found
                .as_deref()
                .map_or_else(|| "no GPU".to_owned(), |sku| format!("GPU {sku}")),
            who(*by),
            any_of(wanted)
        ),
        Rejection::GpuCount { found, most, by } => {
            format!("{found} GPUs, the {} allows at most {most}", who(*by))
        }
        Rejection::CapacityType { found, wanted, by } => {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            format!("{found}, the {} asks for {}", who(*by), any_of(&wanted))
        }
        Rejection::Family { found, by } => {
            format!("family {found} is not one that the {} allows", who(*by))
        }
        Rejection::TypePattern { pattern, by } => {
            format!(
                "its name does not match the {} pattern {pattern:?}",
                whose(*by)
            )
        }
        Rejection::SpotWithoutDiscount { price, on_demand } => {
            format!("spot at {price} is no discount on on-demand at {on_demand}")
        }
        Rejection::Label {
            expression: asked,
            found,
            by,
        } => {
            let found = found.as_deref().map_or_else(
                || "the label is absent".to_owned(),
                |value| format!("the label is {}", cut(value)),
            );
            format!("the {} asks for {}, {found}", who(*by), expression(asked))
        }
        Rejection::Taint(taint) => format!("taint {} is not tolerated", self::taint(taint)),
        Rejection::Resource {
            resource,
            asked,
            free,
        } => format!(
            "{} asked for, {} free of {}",
            amount(resource, *asked),
            amount(resource, *free),
            resource_name(resource)
        ),
        Rejection::HostPort { port } => format!("host port {port} is taken"),
        Rejection::Volume { claim } => format!("volume claim {claim} cannot be used there"),
        Rejection::AttachLimit { driver, limit } => {
            format!("driver {driver} attaches {limit} volumes, all in use")
        }
        Rejection::Spread { key, max_skew } => {
            format!("spread over {key} would exceed a skew of {max_skew}")
        }
        Rejection::Affinity { key } => {
            format!("no pod that its affinity asks for is in that {key}")
        }
        Rejection::AntiAffinity { key } => {
            format!("a pod that anti-affinity keeps apart is in that {key}")
        }
        Rejection::Leaving => "takes no pods: cordoned, being deleted or not Ready".to_owned(),
        Rejection::Dedicated => "one of the two pods needs the node for itself".to_owned(),
        Rejection::PodSelector { pool } => format!("the pool {pool} serves other pods"),
        Rejection::MinValues { key, wanted, found } => {
            format!("the pool asks for {wanted} different values of {key}, {found} would be left")
        }
        Rejection::GroupDomain { key } => {
            format!("members of its group run in another {key}")
        }
    }
}

/// Short name of a rejection for programs; stable.
pub(crate) fn rejection_code(rejection: &Rejection) -> &'static str {
    match rejection {
        Rejection::PoolNotReady { .. } => "PoolNotReady",
        Rejection::PoolLimit { .. } => "PoolLimit",
        Rejection::Unavailable { .. } => "Unavailable",
        Rejection::NotSold => "NotSold",
        Rejection::LaunchBudget { .. } => "LaunchBudget",
        Rejection::Price { .. } => "Price",
        Rejection::GpuSku { .. } => "GpuSku",
        Rejection::GpuCount { .. } => "GpuCount",
        Rejection::CapacityType { .. } => "CapacityType",
        Rejection::Family { .. } => "Family",
        Rejection::TypePattern { .. } => "TypePattern",
        Rejection::SpotWithoutDiscount { .. } => "SpotWithoutDiscount",
        Rejection::Label { .. } => "Label",
        Rejection::Taint(_) => "Taint",
        Rejection::Resource { .. } => "Resource",
        Rejection::HostPort { .. } => "HostPort",
        Rejection::Volume { .. } => "Volume",
        Rejection::AttachLimit { .. } => "AttachLimit",
        Rejection::Spread { .. } => "Spread",
        Rejection::Affinity { .. } => "Affinity",
        Rejection::AntiAffinity { .. } => "AntiAffinity",
        Rejection::Leaving => "Leaving",
        Rejection::Dedicated => "Dedicated",
        Rejection::PodSelector { .. } => "PodSelector",
        Rejection::MinValues { .. } => "MinValues",
        Rejection::GroupDomain { .. } => "GroupDomain",
    }
}

/// Several candidates rejected alike: `g6.xlarge spot in us-east-1a excluded: …`. `what` is the word
/// for one of them.
pub(crate) fn tally(tally: &Tally, what: &str, now: Millis) -> String {
    let why = rejection(&tally.rejection, now);
    match tally.count {
        0 | 1 => format!("{} excluded: {why}", tally.example),
        count => format!("{count} {what}s excluded, such as {}: {why}", tally.example),
    }
}

/// Why a pod is not served, line by line; a line that belongs to the one before begins with blanks.
pub(crate) fn not_served(reason: &NotServed, now: Millis) -> Vec<String> {
    match reason {
        NotServed::NoCandidate { nodes, offerings } => {
            let mut lines = Vec::new();
            if nodes.is_empty() {
                lines.push("no node exists".to_owned());
            } else {
                lines.push("no node that exists can take it:".to_owned());
                lines.extend(tallied(nodes, "node", now));
            }
            if offerings.is_empty() {
                lines.push("no pool is there to buy from".to_owned());
            }
            for (pool, tallies) in offerings {
                if tallies.is_empty() {
                    lines.push(format!("pool {pool} has nothing to buy"));
                    continue;
                }
                lines.push(format!("pool {pool} can buy nothing for it:"));
                lines.extend(tallied(tallies, "offering", now));
            }
            lines
        }
        NotServed::Impossible { what } => vec![format!("cannot be met anywhere: {what}")],
        NotServed::Group {
            group,
            role,
            placed,
            minimum,
            because,
        } => {
            let of = match role.as_str() {
                "" => String::new(),
                role => format!(" of role {role}"),
            };
            let mut lines = vec![format!(
                "its group {group} is placed as a whole or not at all: {placed}{of} can be, \
                 {minimum} must be"
            )];
            if let Some(because) = because {
                lines.push("the next one is not, as".to_owned());
                let inner = not_served(because, now);
                lines.extend(inner.into_iter().map(|line| format!("  {line}")));
            }
            lines
        }
    }
}

fn tallied(tallies: &[Tally], what: &str, now: Millis) -> Vec<String> {
    let few = condensed(tallies);
    let shown = few.iter().take(MOST_REASONS);
    let mut lines: Vec<String> = shown
        .map(|t| format!("  {}", tally(t, what, now)))
        .collect();
    if few.len() > MOST_REASONS {
        lines.push(format!("  and {} more reasons", few.len() - MOST_REASONS));
    }
    lines
}

/// What the choice cost and saved against the candidate that came second.
pub(crate) fn runner_up(score: &Score, timing: &Timing, second: &RunnerUp) -> String {
    let time = compared(timing.total(), second.timing.total());
    let cost = (score.money + score.risk) - (second.score.money + second.score.risk);
    let waiting = second.score.waiting - score.waiting;
    let mut said = format!(
        "chosen over {}: {time}, {}",
        candidate(&second.what),
        more_or_less(cost)
    );
    if waiting.0 > 0 {
        said += &format!("; the time saved is worth {waiting}");
    } else if waiting.0 < 0 {
        said += &format!(
            "; the time lost is worth {}",
            Money(waiting.0.saturating_neg())
        );
    }
    if score.total() == second.score.total() {
        said += "; equal in the sum, the first by name was taken";
    }
    said
}

fn compared(chosen: Millis, other: Millis) -> String {
    if chosen == other {
        format!("serves in {chosen} as that would")
    } else {
        format!("serves in {chosen} instead of {other}")
    }
}

fn more_or_less(cost: Money) -> String {
    match cost.0 {
        0 => "at the same cost".to_owned(),
        1.. => format!("for {cost} more"),
        less => format!("for {} less", Money(less.saturating_neg())),
    }
}

/// The parts of a time to ready as a sum. Bytes that cost nothing are said for a node that boots, as
/// that is where they could.
pub(crate) fn timing(timing: &Timing) -> String {
    let nothing = Millis(0);
    let boots = timing.allocatable > nothing;
    let parts = [
        ("boot", timing.allocatable, boots),
        ("image", timing.image, boots || timing.image > nothing),
        ("start", timing.start, true),
        ("weights", timing.weights, boots || timing.weights > nothing),
        ("load", timing.load, timing.load > nothing),
        ("engine", timing.engine, timing.engine > nothing),
    ];
    let said = parts.iter().filter(|(.., shown)| *shown);
    let said: Vec<String> = said
        .map(|(what, took, _)| format!("{what} {took}"))
        .collect();
    format!(
        "{}; exposed byte time {}",
        said.join(" + "),
        timing.exposed()
    )
}

/// A node or an offering.
pub(crate) fn candidate(candidate: &Candidate) -> String {
    match candidate {
        Candidate::Node(name) => format!("node {name}"),
        Candidate::Offering { pool, offering } => format!("{offering} (pool {pool})"),
    }
}

/// Why an item is not fetched to a node.
pub(crate) fn not_fetched(reason: &NotFetched) -> String {
    match reason {
        NotFetched::Present => "is there and verified".to_owned(),
        NotFetched::Unresolved { name } => {
            format!("{} is not resolved to a digest or commit yet", cut(name))
        }
        NotFetched::SizeUnknown => {
            "its size is not known, so no room can be kept for it".to_owned()
        }
        NotFetched::Budget { bytes, left } => format!(
            "{} needed, {} left of the budget ahead of demand",
            gigabytes(*bytes),
            gigabytes(*left)
        ),
        NotFetched::Room { bytes, room } => {
            format!(
                "{} needed, {} of room on the disk",
                gigabytes(*bytes),
                gigabytes(*room)
            )
        }
        NotFetched::NoInventory { age: None } => "its agent has reported nothing".to_owned(),
        NotFetched::NoInventory { age: Some(age) } => {
            format!("its agent's last report is {age} old")
        }
    }
}

/// Why a node stays.
pub(crate) fn kept(reason: &Kept, now: Millis) -> Vec<String> {
    let one = |said: String| vec![said];
    match reason {
        Kept::Used { percent, threshold } => one(format!(
            "{percent} % of it is requested, under-used would be below {threshold} %"
        )),
        Kept::TooSoon { since, after } => one(format!(
            "empty or under-used for {since} only, {after} is asked for"
        )),
        Kept::Starting => one("it is starting, or fetching for a pod that waits for it".to_owned()),
        Kept::PodStarting(pod) => one(format!("pod {pod} on it is starting")),
        Kept::PodForbids(pod) => one(format!("pod {pod} on it may not be moved")),
        Kept::PodBudget { pod, budget } => {
            one(format!("budget {budget} of pod {pod} on it is used up"))
        }
        Kept::PodStuck { pod, why } => {
            let mut lines = vec![format!("pod {pod} on it fits nowhere else:")];
            let inner = not_served(why, now);
            lines.extend(inner.into_iter().map(|line| format!("  {line}")));
            lines
        }
        Kept::Group(group) => one(format!(
            "group {group}, of which a member runs on it, cannot be moved as a whole"
        )),
        Kept::NodeForbids => one("an annotation of the node forbids it".to_owned()),
        Kept::Budget { allowed } => one(format!(
            "the pool lets {allowed} node{} go at once",
            plural(u64::from(*allowed))
        )),
        Kept::Nominated(pod) => one(format!("pod {pod} is about to run on it")),
        Kept::Cheapest => one("nothing else would be cheaper".to_owned()),
        Kept::Foreign => one("it belongs to no pool of ours".to_owned()),
        Kept::Standby => one("it stands by, which is what it is for".to_owned()),
        Kept::NotTried { simulated } => one(format!(
            "{simulated} removals were simulated before its turn, as many as one round may"
        )),
    }
}

/// Why a node goes.
pub(crate) fn disruption(reason: DisruptionReason) -> &'static str {
    match reason {
        DisruptionReason::Empty => "nothing but daemons runs on it",
        DisruptionReason::Underused => "its pods fit elsewhere",
        DisruptionReason::Replaceable => "something cheaper would do",
        DisruptionReason::Drifted => "it differs from what its pool says now",
        DisruptionReason::Expired => "it is too old",
    }
}

/// A preference that was given up.
pub(crate) fn relaxed(relaxed: Relaxed) -> &'static str {
    match relaxed {
        Relaxed::Affinity => "preferred pod affinity",
        Relaxed::AntiAffinity => "preferred pod anti-affinity",
        Relaxed::NodeAffinity => "preferred node affinity",
        Relaxed::Spread => "topology spread with ScheduleAnyway",
        Relaxed::Taint => "PreferNoSchedule taint",
    }
}

/// Whether somebody waits for an item.
pub(crate) fn urgency(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Demand => "a pod waits for it",
        Urgency::Ahead => "ahead of demand",
    }
}

/// An item as a person writes it.
pub(crate) fn item(item: &Item) -> String {
    match item {
        Item::Image { repository, pin } => match pin {
            Pin::To(digest) => format!("{repository}@sha256:{digest}"),
            Pin::Name(name) => format!("{repository}:{name}"),
        },
        Item::Model { repo, pin, files } => {
            let files = match files.as_str() {
                "" => String::new(),
                files => format!("?{files}"),
            };
            match pin {
                Pin::To(commit) => format!("hf://{repo}@{commit}{files}"),
                Pin::Name(name) if name == "main" => format!("hf://{repo}{files}"),
                Pin::Name(name) => format!("hf://{repo}@{name}{files}"),
            }
        }
    }
}

/// The same with digests and commits at a length that tables can bear.
pub(crate) fn short_item(item: &str) -> String {
    const SHOWN: usize = 12;
    let Some((name, pin)) = item.rsplit_once('@') else {
        return item.to_owned();
    };
    let (kind, hex) = pin
        .split_once(':')
        .map_or(("", pin), |(kind, hex)| (kind, hex));
    let digits = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
    if digits < 40 {
        return item.to_owned();
    }
    let colon = if kind.is_empty() { "" } else { ":" };
    format!("{name}@{kind}{colon}{}{}", &hex[..SHOWN], &hex[digits..])
}

/// A condition on a label.
pub(crate) fn expression(expression: &Expression) -> String {
    let Expression {
        key,
        operator,
        values,
    } = expression;
    let bound = values.first().map_or("", String::as_str);
    match (operator, values.as_slice()) {
        (Operator::In, [value]) => format!("{key} = {}", cut(value)),
        (Operator::In, _) => format!("{key} in {}", listed(values)),
        (Operator::NotIn, [value]) => format!("{key} not {}", cut(value)),
        (Operator::NotIn, _) => format!("{key} not in {}", listed(values)),
        (Operator::Exists, _) => format!("{key} to be there"),
        (Operator::DoesNotExist, _) => format!("{key} to be absent"),
        (Operator::Gt, _) => format!("{key} > {bound}"),
        (Operator::Lt, _) => format!("{key} < {bound}"),
        (Operator::Gte, _) => format!("{key} >= {bound}"),
        (Operator::Lte, _) => format!("{key} <= {bound}"),
    }
}

/// A taint as kubectl writes it.
pub(crate) fn taint(taint: &Taint) -> String {
    let effect = match taint.effect {
        Effect::NoSchedule => "NoSchedule",
        Effect::PreferNoSchedule => "PreferNoSchedule",
        Effect::NoExecute => "NoExecute",
    };
    match taint.value.as_str() {
        "" => format!("{}:{effect}", taint.key),
        value => format!("{}={value}:{effect}", taint.key),
    }
}

/// Bytes in decimal gigabytes, as registries and hubs count.
pub(crate) fn gigabytes(bytes: u64) -> String {
    let gigabytes = bytes as f64 / 1e9;
    if gigabytes >= 0.095 || bytes == 0 {
        format!("{gigabytes:.1} GB")
    } else {
        format!("{:.1} MB", bytes as f64 / 1e6)
    }
}

/// `s` where there is not one.
pub(crate) fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn who(by: Origin) -> &'static str {
    match by {
        Origin::Pod => "pod",
        Origin::Pool => "pool",
    }
}

fn whose(by: Origin) -> &'static str {
    match by {
        Origin::Pod => "pod's",
        Origin::Pool => "pool's",
    }
}

fn resource_name(resource: &str) -> &str {
    match resource {
        CPU => "CPU",
        EPHEMERAL_STORAGE => "disk",
        other => other,
    }
}

fn amount(resource: &str, amount: i64) -> String {
    display(resource, amount).to_string()
}

fn any_of(values: &[String]) -> String {
    match values {
        [one] => cut(one),
        _ => format!("one of {}", listed(values)),
    }
}

fn listed(values: &[String]) -> String {
    let shown: Vec<String> = values.iter().take(MOST_VALUES).map(|v| cut(v)).collect();
    match values.len().saturating_sub(MOST_VALUES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A text from outside, at a length that a line can bear.
fn cut(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
