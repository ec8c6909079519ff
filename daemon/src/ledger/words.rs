//! Remarks of the ledger as sentences, and spans as people read them.

use std::time::Duration;

use super::deploy::{Known, Remark, Stage};

/// A remark in one sentence.
pub(crate) fn remark(remark: &Remark) -> String {
    match remark {
        Remark::NoStamp(stage) => format!(
            "nothing says when it was {}: that time is part of the next stage",
            stage.word()
        ),
        Remark::AtMost(stage) => format!(
            "nothing says when it was {}: the time given is the most it can have taken",
            stage.word()
        ),
        Remark::ForeignNode => {
            "the node was bought by somebody else: when it was asked for is not known".to_owned()
        }
        Remark::OutOfOrder { stage, after, by } => format!(
            "{} is stamped {} before {}: two clocks differ; it counts as the same moment",
            stage.word(),
            span(*by),
            after.map_or("the pod was created", Stage::word)
        ),
        Remark::NoInventory => {
            "no agent reports on the node: bytes that the pod fetched by itself are part of \
             image-ready, and for weights of serving"
                .to_owned()
        }
        Remark::NotListed(item) => {
            format!(
                "the node's agent does not list {item}: the pod fetched it by itself, if it did"
            )
        }
        Remark::StartedBeforeWeights => {
            "its container ran before all of its weights were there".to_owned()
        }
        Remark::Restarted(times) => {
            format!("its container was restarted, {times} in all; started is the first start known")
        }
    }
}

/// Where the end of an interval comes from, for programs.
pub(crate) fn known(known: Known) -> &'static str {
    match known {
        Known::Stamp => "stamp",
        Known::AtMost => "at-most",
        Known::Missing => "missing",
        Known::Nothing => "nothing",
        Known::Open => "open",
    }
}

/// A span in at most four characters and a unit: `0.4 s`, `12.3 s`, `147 s`, `12 min`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        s if s < 99.95 => format!("{s:.1} s"),
        s if s < 999.5 => format!("{s:.0} s"),
        s if s < 10.0 * 3600.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}
