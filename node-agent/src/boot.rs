//! The agent before the kubelet: what the node is to have comes from a file, and nobody else needs to
//! be there yet. Weights come first, images as soon as containerd listens. It goes on until the
//! DaemonSet's agent takes over (`crate::handover`).

use std::path::{Path, PathBuf};

use headstart_api::NodeCache;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Changes, until_listening, watch_network};
use crate::cli::{BootArgs, Exit, Own};
use crate::items::blocking;
use crate::notice::{self, Notices};
use crate::report::chain;
use crate::settings::Reach;
use crate::store::{Lock, Store};
use crate::warm::interrupted;

/// Largest intent that is read, in bytes.
const MOST: u64 = 1 << 20;

/// Runs `headstart-agent boot`.
pub fn command(args: &BootArgs, own: Own) -> Exit {
    let read = Reach::read(&args.reach).and_then(|reach| {
        let notices = Notices::read(&args.notice)?;
        Ok((reach, notices))
    });
    let (reach, notices) = match read {
        Ok(read) => read,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage;
        }
    };
    let (store, lock) = match args.store.place().open_or_make() {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Store;
        }
    };
    crate::serve::block_on(run(args, own, (reach, notices), (store, lock)))
}

async fn run(
    args: &BootArgs,
    own: Own,
    (reach, notices): (Reach, Notices),
    (store, lock): (Store, Lock),
) -> Exit {
    let asked_to_end = interrupted();
    let containerd = reach.containerd.clone();
    let agent = match Agent::new(store.into(), reach, args.reach.share(), own) {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Failed;
        }
    };
    if let Err(error) = agent.open(lock).await {
        eprintln!("error: {}", chain(&error));
        return Exit::Store;
    }
    let (stop, leaving) = (CancellationToken::new(), CancellationToken::new());
    let working = agent.run(stop.clone());
    let ending = async {
        tokio::select! {
            () = asked_to_end => {}
            () = async { leaving.cancelled().await; agent.idle().await } => {
                tracing::info!("nothing is under way any more; the other agent goes on");
            }
        }
        stop.cancel();
    };
    let beside = async {
        tokio::select! {
            () = follow(&args.intent, &agent) => {}
            () = watch_network(agent.clone()) => {}
            () = notice::watch(notices, agent.clone()) => {}
            () = crate::serve::answering(agent.clone(), leaving.clone()) => {}
            () = runtime(containerd, &agent) => {}
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(working, ending) } => {}
        () = beside => {}
    }
    Exit::Done
}

/// Tells the agent when containerd listens; ends never.
pub(crate) async fn runtime(containerd: Option<PathBuf>, agent: &Agent) {
    if let Some(socket) = containerd {
        until_listening(&socket).await;
        agent.runtime_is_there();
    }
    std::future::pending::<()>().await;
}

/// Tells the agent of every intent that the file holds; ends never.
async fn follow(path: &Path, agent: &Agent) {
    let mut last = None;
    loop {
        let changes = Changes::at(path);
        let read = blocking({
            let path = path.to_owned();
            move || read(&path)
        });
        match read.await {
            Ok(cache) => {
                if last.as_ref() != Some(&cache) {
                    agent.hear(&cache).await;
                    last = Some(cache);
                }
            }
            Err(reason) => tracing::warn!(path = %path.display(), %reason, "no intent there yet"),
        }
        changes.next().await;
    }
}

fn read(path: &Path) -> Result<NodeCache, String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let read = file.take(MOST).read_to_end(&mut text);
    read.map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}
