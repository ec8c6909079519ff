//! The real helm, and this project's chart.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Helm, for one cluster or for none.
#[derive(Clone, Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Helm {
    /// The one that `cargo xtask e2e` provisions.
    ///
    /// # Panics
    /// Unless it is run by that.
    pub fn find() -> Self {
        let home = std::env::var_os("HEADSTART_HELM").expect("run by `cargo xtask e2e`");
        Self {
            program: Path::new(&home).join("helm"),
            kubeconfig: "/dev/null".into(),
        }
    }

    /// For a cluster.
    pub fn at(mut self, kubeconfig: PathBuf) -> Self {
        self.kubeconfig = kubeconfig;
        self
    }

    /// What it prints.
    ///
    /// # Errors
    /// What it complains of, when it fails.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, arguments: &[&str], values: &[&str]) -> Result<String, String> {
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
    ///
    /// # Errors
    /// What helm complains of.
    pub fn template(&self, values: &[&str]) -> Result<String, String> {
        let chart = chart();
        self.run(
            &["template", "headstart", &chart, "-n", "headstart"],
            values,
        )
    }
}

/// Where the chart is.
pub fn chart() -> String {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/headstart");
    chart.display().to_string()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
