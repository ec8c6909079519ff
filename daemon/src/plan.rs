//! `headstart plan`: what would be bought for these pods, and why. No cluster is asked.
//!
//! Exit codes: 0 all pods are served; 1 some are not; 2 an input is wrong, and every problem was said.

use std::process::ExitCode;

use clap::Args;
use headstart_core::money::Millis;
use headstart_core::solve;

use self::form::PlanForm;
use self::input::{Assembled, Inputs, assemble};

pub(crate) use self::table::pods;
use crate::out;

pub(crate) mod form;
pub(crate) mod input;
pub(crate) mod items;
mod table;
pub(crate) mod words;

/// Exit code of a plan that leaves pods unserved.
pub(crate) const NOT_SERVED: u8 = 1;

/// Exit code of wrong input.
pub(crate) const BAD_INPUT: u8 = 2;

/// Show what would be bought for these pods, when they would serve, and why
///
/// Reads manifests, asks no cluster. Exit codes: 0 all pods are served; 1 some are not; 2 an input is
/// wrong.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    inputs: Inputs,
    /// Form of the output; JSON and YAML are a stable form
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
}

/// Does it.
pub(crate) fn command(args: &PlanArgs) -> ExitCode {
    let assembled = match assemble(&args.inputs, now()) {
        Ok(assembled) => assembled,
        Err(problems) => return refused(&problems),
    };
    let plan = planned(&assembled);
    match rendered(&plan, args.output) {
        Ok(text) => {
            out::print(&text);
        }
        Err(problem) => return refused(&[problem]),
    }
    if plan.unserved.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_SERVED)
    }
}

fn planned(assembled: &Assembled) -> PlanForm {
    let Assembled {
        snapshot,
        policy,
        prices,
        notes,
    } = assembled;
    let plan = solve::plan(snapshot, policy);
    form::of(&plan, snapshot, prices, notes)
}

fn rendered(plan: &PlanForm, output: Output) -> Result<String, String> {
    match output {
        Output::Table => Ok(table::table(plan)),
        Output::Json => serde_json::to_string_pretty(plan)
            .map(|json| json + "\n")
            .map_err(|error| format!("cannot be written as JSON: {error}")),
        Output::Yaml => serde_saphyr::to_string(plan)
            .map_err(|error| format!("cannot be written as YAML: {error}")),
    }
}

/// Says all problems, one line each.
pub(crate) fn refused(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("error: {problem}");
    }
    ExitCode::from(BAD_INPUT)
}

/// The moment that is planned for.
pub(crate) fn now() -> Millis {
    let now = jiff::Timestamp::now().as_millisecond();
    Millis(u64::try_from(now).unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests;
