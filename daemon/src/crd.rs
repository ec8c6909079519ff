//! `headstart crd`: the CustomResourceDefinitions, as YAML on standard output.
//!
//! The chart holds the same text (`cargo xtask generate crds`); nothing here talks to a cluster.

use std::process::ExitCode;

use clap::Args;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::out;

/// Print the CustomResourceDefinitions as YAML, to apply or to read
#[derive(Debug, Args)]
pub(crate) struct CrdArgs {
    /// Only the one of this name, such as nodepools.headstart.dev
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Does it.
pub(crate) fn command(args: &CrdArgs) -> ExitCode {
    match rendered(args.name.as_deref()) {
        Ok(text) => {
            out::print(&text);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(crate::plan::BAD_INPUT)
        }
    }
}

fn rendered(name: Option<&str>) -> Result<String, String> {
    let all = headstart_api::crd::all();
    let names: Vec<String> = all.iter().filter_map(named).collect();
    let mut text = String::new();
    for crd in &all {
        if name.is_some_and(|name| named(crd).as_deref() != Some(name)) {
            continue;
        }
        let yaml = serde_saphyr::to_string(crd)
            .map_err(|error| format!("cannot be written as YAML: {error}"))?;
        text.push_str("---\n");
        text.push_str(yaml.trim_end());
        text.push('\n');
    }
    match name {
        Some(name) if text.is_empty() => Err(format!(
            "{name:?} is none of the definitions; they are {}",
            names.join(", ")
        )),
        _ => Ok(text),
    }
}

fn named(crd: &CustomResourceDefinition) -> Option<String> {
    crd.metadata.name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_definition_can_be_asked_for_by_name_and_a_wrong_name_is_answered_with_all() {
        let one = rendered(Some("prefetches.headstart.dev")).unwrap();
        assert_eq!(one.matches("kind: CustomResourceDefinition").count(), 1);
        let all = rendered(None).unwrap();
        assert_eq!(all.matches("kind: CustomResourceDefinition").count(), 4);
        assert!(all.contains("x-kubernetes-validations"));
        let wrong = rendered(Some("pools")).unwrap_err();
        assert!(wrong.contains("nodepools.headstart.dev"), "{wrong}");
    }
}
