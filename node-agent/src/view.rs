//! Shows a warmed model to one consumer: a small writable cache of links into its tree.

use std::path::PathBuf;

use headstart_core::model::ModelRef;
use headstart_hub::layout::Tree;
use headstart_hub::view::{Listing, Owner, View, ViewSpec};

use crate::cli::{Exit, ViewArgs};
use crate::items::{Known, known_model};
use crate::report::chain;

/// Makes or refreshes a view and prints the setting that makes a client use it.
pub fn command(args: &ViewArgs) -> Exit {
    match make(args) {
        Ok(hub) => {
            println!("HF_HUB_CACHE={}", hub.display());
            Exit::Done
        }
        Err((exit, said)) => {
            eprintln!("error: {said}");
            exit
        }
    }
}

fn make(args: &ViewArgs) -> Result<PathBuf, (Exit, String)> {
    let usage = |error: &dyn std::error::Error| (Exit::Usage, chain(error));
    let unusable = |error: &dyn std::error::Error| (Exit::Store, chain(error));
    let model: ModelRef = args.model.parse().map_err(|error| usage(&error))?;
    let store = args
        .store
        .place()
        .open()
        .map_err(|error| unusable(&error))?;
    let known = known_model(&store, &model).map_err(|error| unusable(&error))?;
    let Some(Known { plan, .. }) = known else {
        let said = format!("--model {model}: the store holds no such model: warm it first");
        return Err((Exit::Failed, said));
    };
    let tree = Tree::at(store.model(&plan.id().to_string()));
    let absolute = |path: &std::path::Path| {
        let absolute = std::path::absolute(path);
        absolute.map_err(|error| (Exit::Failed, format!("{}: {error}", path.display())))
    };
    let view = View::of(ViewSpec {
        tree_inside: absolute(args.tree_inside.as_deref().unwrap_or(tree.root()))?,
        at: absolute(&args.at)?,
        owner: match args.owner {
            Some((uid, gid)) => Owner::User { uid, gid },
            None => Owner::Anyone,
        },
        listing: Listing::Planned,
    });
    let made = view.refresh(&plan, &tree);
    made.map_err(|error| (Exit::Failed, chain(&error)))?;
    if let Err(error) = store.note_use(&plan.id().to_string(), None) {
        tracing::warn!(reason = %chain(&error), "use not noted: the model may be evicted sooner");
    }
    Ok(view.hub())
}
