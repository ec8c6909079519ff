//! The unpacker process for the end-to-end tests; with `probe STYLE DIR ACT`, one forbidden act
//! after having been confined. Exit status 0: it was done; 7: it was refused.

use std::process::ExitCode;

use headstart_unpack::{Limits, Request, Style};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["probe", style, staging, act] => probe(style, staging, act),
        _ => headstart_unpack::child_main(),
    }
}

fn probe(style: &str, staging: &str, act: &str) -> ExitCode {
    let request = Request {
        staging: staging.into(),
        style: match style {
            "overlay" => Style::Overlay,
            _ => Style::Plain,
        },
        limits: Limits::default(),
        nice: 0,
    };
    let parent = rustix::process::getppid().expect("the test is its parent");
    let Ok(inside) = headstart_unpack::confine(&request) else {
        return ExitCode::from(9);
    };
    let (what, path) = act.split_once(':').unwrap_or((act, ""));
    let path = match path.strip_prefix("STAGING") {
        Some(rest) => inside.join(rest.trim_start_matches('/')),
        None => path.into(),
    };
    let done = match what {
        "read" => std::fs::File::open(path).is_ok(),
        "list" => std::fs::read_dir(path).is_ok(),
        "create" => std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .is_ok(),
        "mkdir" => std::fs::create_dir(path).is_ok(),
        "remove" => std::fs::remove_file(path).is_ok(),
        "chmod" => {
            let mode = rustix::fs::Mode::from_raw_mode(0o4777);
            let flags = rustix::fs::AtFlags::empty();
            rustix::fs::chmodat(rustix::fs::CWD, path, mode, flags).is_ok()
        }
        "socket" => std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
        "exec" => std::process::Command::new("/bin/true").status().is_ok(),
        "kill" => rustix::process::test_kill_process(parent).is_ok(),
        _ => return ExitCode::from(8),
    };
    ExitCode::from(if done { 0 } else { 7 })
}
