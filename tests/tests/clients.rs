//! Every Hugging Face client reads what Headstart publishes.
//!
//! Real clients, each as uid 65534 in a mount namespace of its own, read views over trees that are
//! bound read-only there: huggingface_hub of seven versions, transformers of two, and the hf-hub
//! crate. A local Hub counts what they ask for. Needs root and what `cargo xtask e2e` provisions.
//!
//! What every client must do, for `main` and for a commit:
//!
//! | the tree is | online | offline |
//! | --- | --- | --- |
//! | complete | no body is downloaded; files of a commit cost no request | everything is read |
//! | partial, evicted | what is missing is downloaded, once, and nothing else | the rest is read, what is missing is an error |
//!
//! What differs between versions stands in [`Habits`], and is asserted exactly.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

#[path = "clients/case.rs"]
mod case;
#[path = "clients/hole.rs"]
mod hole;
#[path = "clients/load.rs"]
mod load;
#[path = "clients/pod.rs"]
mod pod;
#[path = "clients/site.rs"]
mod site;
#[path = "clients/tiny.rs"]
mod tiny;
#[path = "clients/tools.rs"]
mod tools;

use case::{Habits, Net, Session};
use hole::Hole;
use tools::Tool;

/// Before `trees`: every `snapshot_download` asks for the revision.
const BEFORE_TREES: Habits = Habits {
    lookups: [1, 1],
    reads_trees: false,
};

/// From 1.23 on, `trees` spares a pinned `snapshot_download` its request.
const WITH_TREES: Habits = Habits {
    lookups: [0, 1],
    reads_trees: true,
};

/// The crate asks for the revision and for the tree.
const HF_HUB: Habits = Habits {
    lookups: [1, 2],
    reads_trees: false,
};

macro_rules! reads_every_view {
    ($($client:ident: $name:literal, $habits:expr;)*) => {$(
        mod $client {
            use super::*;

            #[test]
            fn reads_every_view_online_and_downloads_only_what_is_missing() {
                Session::start($name, $habits, Net::Online).run();
            }

            #[test]
            fn reads_every_view_offline_and_asks_for_nothing() {
                Session::start($name, $habits, Net::Offline).run();
            }
        }
    )*};
}

reads_every_view! {
    hub_0_23_5: "hub-0.23.5", BEFORE_TREES;
    hub_0_36_2: "hub-0.36.2", BEFORE_TREES;
    hub_1_0_1: "hub-1.0.1", BEFORE_TREES;
    hub_1_26_1: "hub-1.26.1", WITH_TREES;
    hub_1_33_0: "hub-1.33.0", WITH_TREES;
    hub_2_1_1: "hub-2.1.1", WITH_TREES;
    hub_2_4_0: "hub-2.4.0", WITH_TREES;
    hf_hub: "hf-hub", HF_HUB;
}

mod transformers_5_19_with_hub_1_33 {
    use super::*;

    #[test]
    fn loads_the_model_online_and_downloads_only_what_is_missing() {
        load::online("hub-1.33.0");
    }

    #[test]
    fn loads_the_model_offline_and_asks_for_nothing() {
        load::offline("hub-1.33.0");
    }
}

mod transformers_5_24_with_hub_2_4 {
    use super::*;

    #[test]
    fn loads_the_model_online_and_downloads_only_what_is_missing() {
        load::online("hub-2.4.0");
    }

    #[test]
    fn loads_the_model_offline_and_asks_for_nothing() {
        load::offline("hub-2.4.0");
    }
}

#[test]
fn the_cache_tools_list_a_view_without_complaint() {
    Tool::of("hub-0.23.5").scans(&["huggingface-cli", "scan-cache", "-v"]);
    Tool::of("hub-0.36.2").scans(&["hf", "cache", "scan", "-v"]);
    Tool::of("hub-1.0.1").lists();
}

#[test]
fn the_cache_tools_list_and_verify_a_view_without_complaint() {
    for name in ["hub-1.26.1", "hub-1.33.0", "hub-2.1.1", "hub-2.4.0"] {
        let tool = Tool::of(name);
        tool.lists();
        tool.verifies();
    }
}

/// Where a view alone does not help, `HF_HUB_OFFLINE=1` does: a pinned `snapshot_download` before
/// `trees` and transformers' AutoTokenizer ask the API, `snapshot_download` of `main` does so in
/// every version, all of them without a timeout.
#[test]
fn a_silent_hub_delays_no_cached_commit() {
    for name in ["hub-0.23.5", "hub-0.36.2", "hub-1.0.1", "hf-hub"] {
        Hole::before(name).commit(&["files"]);
    }
    for name in ["hub-1.26.1", "hub-2.1.1"] {
        Hole::before(name).commit(&["files", "snapshot"]);
    }
    for name in ["hub-1.33.0", "hub-2.4.0"] {
        Hole::before(name).commit(&["files", "snapshot", "transformers"]);
    }
}

/// `HF_HUB_ETAG_TIMEOUT`, 10 s unless set, and again for every file. 0.36.2 tries six times before
/// it takes the cached file: 83 s.
#[test]
fn a_silent_hub_delays_a_cached_file_of_main_by_one_timeout() {
    for name in [
        "hub-0.23.5",
        "hub-1.0.1",
        "hub-1.26.1",
        "hub-1.33.0",
        "hub-2.1.1",
        "hub-2.4.0",
    ] {
        Hole::before(name).main();
    }
}
