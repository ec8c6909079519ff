//! The child: one file, fetched by the `hf-hub` crate into a cache of its own.

use std::io::{BufRead as _, Read as _, Write as _};
use std::process::ExitCode;

use hf_hub::HFClient;
use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use nix::sys::resource::{Resource, setrlimit};

use super::{Order, Word};

/// Exit code when the parent is gone.
const ORPHANED: i32 = 3;

/// What a hidden command of the program calls at once, before any thread exists: reads its order
/// from standard input, fetches, and says how it went on standard output.
pub fn child_main() -> ExitCode {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    let order: Order = match read.map(|_| serde_json::from_str(&line)) {
        Ok(Ok(order)) => order,
        _ => return ExitCode::from(2),
    };
    let confined = setrlimit(Resource::RLIMIT_DATA, order.memory, order.memory)
        .and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0))
        .and_then(|()| nix::sys::prctl::set_dumpable(false));
    if let Err(errno) = confined {
        say(&Word::GaveUp(format!("it cannot be confined: {errno}")));
        return ExitCode::FAILURE;
    }
    std::thread::spawn(end_with_parent);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let fetched = match runtime {
        Ok(runtime) => runtime.block_on(fetch(&order)),
        Err(error) => Err(error.to_string()),
    };
    match fetched {
        Ok(()) => {
            say(&Word::Done);
            ExitCode::SUCCESS
        }
        Err(reason) => {
            say(&Word::GaveUp(reason));
            ExitCode::FAILURE
        }
    }
}

async fn fetch(order: &Order) -> Result<(), String> {
    let mut builder = HFClient::builder()
        .endpoint(order.endpoint.trim_end_matches('/'))
        .cache_dir(&order.cache)
        .user_agent(concat!("headstart/", env!("CARGO_PKG_VERSION")));
    if let Some(token) = &order.token {
        builder = builder.token(token);
    }
    let client = builder.build().map_err(|error| told(&error, order))?;
    let (owner, name) = order.repo.split_once('/').unwrap_or(("", &order.repo));
    let fetched = client
        .model(owner, name)
        .download_file()
        .filename(&order.path)
        .revision(&order.commit)
        .progress(Teller)
        .send()
        .await;
    fetched.map(|_| ()).map_err(|error| told(&error, order))
}

/// An error in one line, without the token wherever it may have got to.
fn told(error: &dyn std::error::Error, order: &Order) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text += &format!(": {next}");
        source = next.source();
    }
    if let Some(token) = &order.token {
        text = text.replace(token, "(token)");
    }
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(500).collect()
}

struct Teller;

impl ProgressHandler for Teller {
    fn on_progress(&self, event: &ProgressEvent) {
        if let ProgressEvent::Download(DownloadEvent::AggregateProgress {
            bytes_completed, ..
        }) = event
        {
            say(&Word::Bytes(*bytes_completed));
        }
    }
}

fn say(word: &Word) {
    let mut line = serde_json::to_vec(word).expect("a word is a number or a text");
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    if out.write_all(&line).and_then(|()| out.flush()).is_err() {
        std::process::exit(ORPHANED);
    }
}

/// The parent keeps the pipe open for as long as it lives.
fn end_with_parent() {
    let mut rest = Vec::new();
    let _ = std::io::stdin().lock().take(1).read_to_end(&mut rest);
    std::process::exit(ORPHANED);
}
