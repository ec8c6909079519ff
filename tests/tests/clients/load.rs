//! transformers loads the model: configuration, tokenizer, every tensor of every shard.

use headstart_hub::view::Listing;
use serde_json::{Value, json};

use crate::pod::{Client, Outcome, Provisioned};
use crate::site::{Asked, Have, MISSING, Rev, Site};
use crate::tiny;

/// Everything it is asked to load.
pub(crate) const PARTS: [&str; 4] = ["config", "generation", "tokenizer", "tensors"];

/// Most requests for a complete model, online. A commit: two listings by AutoTokenizer, for which
/// there is no cache. `main`: those, the revision for each of three `from_pretrained`, and one HEAD
/// for each of four files of weights.
const REQUESTS: [(Rev, usize); 2] = [(Rev::Commit, 2), (Rev::Main, 9)];

/// Loads from complete and incomplete views.
pub(crate) fn online(name: &str) {
    let site = Site::new();
    let views: Vec<_> = REQUESTS
        .iter()
        .flat_map(|(rev, most)| {
            [Have::Complete, Have::Partial, Have::Evicted].map(|have| (*rev, have, *most))
        })
        .map(|(rev, have, most)| {
            let view = site.view(&format!("{rev:?}-{have:?}"), rev, have, Listing::Planned);
            (rev, have, most, view)
        })
        .collect();
    site.evict();
    let mut client = site
        .room
        .python(&Provisioned::find(), name, &site.env(false));
    introduce(&mut client, &site);
    for (rev, have, most, cache) in views {
        let request = request(site.request(rev, &cache, false), &PARTS);
        assert_loaded(&client.ask(&request).outcome, &PARTS);
        let asked = site.asked();
        let mut sent: Vec<u64> = asked.iter().filter_map(Asked::body).collect();
        if have == Have::Complete {
            assert!(asked.len() <= most, "{rev:?}: {asked:#?}");
            assert!(sent.is_empty(), "{asked:#?}");
            continue;
        }
        let mut missing = MISSING.map(|path| site.size(path));
        missing.sort_unstable();
        sent.sort_unstable();
        assert_eq!(sent, missing, "{rev:?} {have:?}: {asked:#?}");
    }
}

/// Loads from complete views, and asks for nothing.
pub(crate) fn offline(name: &str) {
    let site = Site::new();
    let mut client = site
        .room
        .python(&Provisioned::find(), name, &site.env(true));
    introduce(&mut client, &site);
    for rev in [Rev::Commit, Rev::Main] {
        let cache = site.view(&format!("{rev:?}"), rev, Have::Complete, Listing::Planned);
        let request = request(site.request(rev, &cache, true), &PARTS);
        assert_loaded(&client.ask(&request).outcome, &PARTS);
    }
    assert_eq!(site.asked(), []);
}

/// The request to load `parts`.
pub(crate) fn request(mut request: Value, parts: &[&str]) -> Value {
    request["op"] = json!("transformers");
    request["text"] = json!(tiny::TEXT);
    request["parts"] = json!(parts);
    request
}

/// `parts` were loaded, and are what was made.
pub(crate) fn assert_loaded(outcome: &Outcome, parts: &[&str]) {
    let Outcome::Ok(told) = outcome else {
        panic!("{outcome:?}");
    };
    for part in parts {
        let part_told = &told[part];
        match *part {
            "config" => assert_eq!(part_told["hidden_size"], 64),
            "generation" => assert_eq!(part_told["max_new_tokens"], 17),
            "tokenizer" => {
                let tokens: Vec<usize> = (1..=tiny::TEXT.split(' ').count()).collect();
                assert_eq!(*part_told, json!({"tokens": tokens, "text": tiny::TEXT}));
            }
            _ => assert_eq!(*part_told, json!(tiny::tensors())),
        }
    }
}

/// The client does what it does once per process, before anything is counted.
fn introduce(client: &mut Client, site: &Site) {
    let Outcome::Ok(told) = client.ask(&json!({"op": "versions"})).outcome else {
        panic!("it does not say which version it is");
    };
    assert!(told["transformers"].is_string(), "{told}");
    let other = |asked: &&Asked| !asked.is_about_agents();
    assert_eq!(site.asked().iter().filter(other).count(), 0);
}
