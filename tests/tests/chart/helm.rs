//! The real helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Helm, for one cluster or for none.
#[derive(Clone, Debug)]
pub(crate) struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// The one that `cargo xtask e2e` provisions.
    pub(crate) fn find() -> Self {
        let home = std::env::var_os("HEADSTART_HELM").expect("run by `cargo xtask e2e`");
        Self {
            program: Path::new(&home).join("helm"),
            kubeconfig: "/dev/null".into(),
        }
    }

    /// For a cluster.
    pub(crate) fn at(mut self, kubeconfig: PathBuf) -> Self {
        self.kubeconfig = kubeconfig;
        self
    }

    /// What it prints; or, when it fails, what it complains of.
    pub(crate) fn run(&self, arguments: &[&str], values: &[&str]) -> Result<String, String> {
        let mut helm = Command::new(&self.program);
        helm.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        // Nothing of this machine's user plays a part.
        for (name, place) in [("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")] {
            let home = std::env::temp_dir().join("headstart-helm").join(place);
            helm.env(format!("HELM_{name}_HOME"), home);
        }
        helm.args(values.iter().flat_map(|value| ["--set", value]));
        let output = helm.output().expect("helm starts");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        match output.status.success() {
            true => Ok(out),
            false => Err(format!("{out}{err}")),
        }
    }

    /// The chart rendered for no cluster.
    pub(crate) fn template(&self, values: &[&str]) -> Result<String, String> {
        let chart = super::chart();
        self.run(
            &["template", "headstart", &chart, "-n", "headstart"],
            values,
        )
    }
}

/// The objects of a stream of YAML documents.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let each = text.split("\n---").map(|document| {
        let parsed: Value = serde_saphyr::from_str(document).expect("YAML");
        parsed
    });
    each.filter(|document| !document.is_null()).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
