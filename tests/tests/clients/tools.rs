//! `hf cache` and its forerunners, as a person would use them on a view.

use std::process::Output;

use headstart_hub::view::Listing;
use serde_json::{Value, json};

use crate::pod::Provisioned;
use crate::site::{Have, REPO, Rev, Site};

/// The Hub's command line of one environment, on a view of the whole model.
pub(crate) struct Tool {
    name: &'static str,
    site: Site,
    provisioned: Provisioned,
    cache: std::path::PathBuf,
}

impl Tool {
    pub(crate) fn of(name: &'static str) -> Self {
        let provisioned = Provisioned::find();
        let site = Site::new();
        let cache = site.view("tool", Rev::Main, Have::Complete, Listing::Planned);
        Self {
            name,
            site,
            provisioned,
            cache,
        }
    }

    /// The table of `scan-cache` has the model, and no warning stands below it.
    pub(crate) fn scans(&self, command: &[&str]) {
        let output = self.run(command);
        let table = String::from_utf8_lossy(&output.stdout);
        let files = self.site.digests_except(&[].into()).len();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let row = rows
            .iter()
            .find(|row| row.first() == Some(&REPO))
            .expect(&table);
        assert_eq!(row[2], self.site.revision(Rev::Commit));
        assert_eq!(row[4], files.to_string());
        assert!(row.contains(&"main"), "{row:?}");
        assert!(
            table.contains("Scanned 1 repo(s)") && !table.contains("arning"),
            "{table}"
        );
    }

    /// `hf cache ls` has the model with its revision.
    pub(crate) fn lists(&self) {
        let told = self.json(&["hf", "cache", "ls", "--revisions", "--format", "json"]);
        let [revision] = told.as_array().expect("a list").as_slice() else {
            panic!("{told}");
        };
        assert_eq!(revision["repo_id"], REPO);
        assert_eq!(revision["revision"], self.site.revision(Rev::Commit));
        assert_eq!(revision["refs"], json!(["main"]));
    }

    /// `hf cache verify` hashes every file and finds neither a wrong, nor a missing, nor a strange
    /// one; `hf cache prune` finds nothing to throw away.
    pub(crate) fn verifies(&self) {
        let strict = [
            "--fail-on-missing-files",
            "--fail-on-extra-files",
            "--format",
            "json",
        ];
        let told = self.json(&[&["hf", "cache", "verify", REPO][..], &strict].concat());
        assert_eq!(told["checked"], self.site.digests_except(&[].into()).len());
        let pruned = self.run(&["hf", "cache", "prune", "--dry-run"]);
        let pruned = String::from_utf8_lossy(&pruned.stdout);
        assert!(pruned.contains("Nothing to prune"), "{pruned}");
    }

    fn json(&self, command: &[&str]) -> Value {
        let output = self.run(command);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs it; it succeeds, and has nothing to say on standard error.
    fn run(&self, command: &[&str]) -> Output {
        let mut env = self.site.env(false);
        env.insert("HF_HUB_CACHE", self.cache.display().to_string());
        let bin = format!("python/{}/bin", self.name);
        let python = format!("{bin}/python");
        let mut run = self.site.room.command(&self.provisioned, &python, &env);
        run.arg(self.site.room.path("pod/bin").join(bin).join(command[0]));
        let output = run.args(&command[1..]).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{command:?}: {output:?}");
        output
    }
}
