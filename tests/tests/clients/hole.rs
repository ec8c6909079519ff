//! A Hub that accepts connections and never answers.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_hub::view::Listing;
use serde_json::{Value, json};

use crate::pod::{Client, Outcome, Provisioned};
use crate::site::{Have, Rev, Site};
use crate::{case, load};

/// How long a cached file may take under load: what this tells apart is waiting for an answer
/// (10 s and more) and not waiting.
const PROMPT: Duration = Duration::from_secs(9);

/// The same for transformers, which imports itself meanwhile: its six files would wait 60 s.
const PROMPT_ENOUGH: Duration = Duration::from_secs(30);

/// One client before a silent Hub.
pub(crate) struct Hole {
    name: &'static str,
    site: Site,
    endpoint: String,
    client: Client,
}

impl Hole {
    pub(crate) fn before(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let kept: Vec<_> = listener.incoming().collect();
            drop(kept);
        });
        let provisioned = Provisioned::find();
        let site = Site::new();
        let mut env = site.env(false);
        env.insert("HF_ENDPOINT", endpoint.clone());
        let client = match name {
            "hf-hub" => site.room.hf_hub(&provisioned),
            name => site.room.python(&provisioned, name, &env),
        };
        let mut hole = Self {
            name,
            site,
            endpoint,
            client,
        };
        if name != "hf-hub" {
            // Waits 3 s for a list of agents, once per process, in versions from 1.20 or so on.
            hole.client.ask(&json!({"op": "versions"}));
        }
        hole
    }

    /// Reads a cached commit at once, in each of these ways.
    pub(crate) fn commit(mut self, ways: &[&str]) -> Self {
        let view = self.view(Rev::Commit);
        // AutoTokenizer lists the repository without a timeout, so it is not among them.
        let parts = ["config", "generation", "tensors"];
        let all = self.site.digests_except(&BTreeSet::new());
        for way in ways {
            let mut request = self.request(Rev::Commit, &view);
            if *way == "transformers" {
                let request = load::request(request, &parts);
                let answer = self.within(PROMPT_ENOUGH, &request);
                load::assert_loaded(&answer, &parts);
                continue;
            }
            request["op"] = json!(way);
            request["names"] = json!(all.keys().collect::<Vec<_>>());
            match self.within(PROMPT, &request) {
                Outcome::Ok(told) => assert_eq!(case::files(told), all),
                Outcome::Error(failure) => panic!("{way}: {failure:?}"),
            }
        }
        self
    }

    /// Reads a cached file of `main` as soon as the client's timeout, here 1 s, is over.
    pub(crate) fn main(mut self) {
        let view = self.view(Rev::Main);
        let mut request = self.request(Rev::Main, &view);
        request["op"] = json!("files");
        request["names"] = json!(["config.json"]);
        request["etag_timeout"] = json!(1);
        match self.within(PROMPT, &request) {
            Outcome::Ok(told) => {
                let read = &case::files(told)["config.json"];
                let all = self.site.digests_except(&BTreeSet::new());
                assert_eq!(read, &all["config.json"]);
            }
            Outcome::Error(failure) => panic!("{failure:?}"),
        }
    }

    fn view(&self, rev: Rev) -> PathBuf {
        let name = format!("{rev:?}");
        self.site.view(&name, rev, Have::Complete, Listing::Planned)
    }

    fn request(&self, rev: Rev, view: &Path) -> Value {
        let mut request = self.site.request(rev, view, false);
        request["endpoint"] = json!(self.endpoint);
        request
    }

    fn within(&mut self, limit: Duration, request: &Value) -> Outcome {
        let answer = self.client.ask(request);
        let took = answer.took;
        assert!(took < limit, "{} {request}: {took:?}", self.name);
        answer.outcome
    }
}
