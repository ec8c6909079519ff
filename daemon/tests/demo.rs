//! The demo as a user starts it, small and fast: 100 times faster than a real node, with a
//! thousandth of its bytes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const SMALL: [&str; 4] = ["--time-scale", "100", "--byte-scale", "1000"];

/// Long, for a test under load.
const PATIENCE: Duration = Duration::from_secs(120);

fn demo(work_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
    command
        .arg("demo")
        .args(SMALL)
        .arg("--work-dir")
        .arg(work_dir);
    command.current_dir(work_dir);
    command
}

fn explain(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}", text(&output.stdout), text(&output.stderr))
}

fn stages(run: &Value) -> Vec<(String, f64)> {
    let stages = run["stages"].as_array().expect("stages");
    let stage = |stage: &Value| {
        let name = stage["stage"].as_str().expect("a name").to_owned();
        (name, stage["seconds"].as_f64().expect("a number"))
    };
    stages.iter().map(stage).collect()
}

fn span(run: &Value, lane: &str) -> (f64, f64) {
    let spans = run["spans"].as_array().expect("spans");
    let span = spans.iter().find(|span| span["lane"] == lane);
    let at = |end: &str| span.expect("it ran")[end].as_f64().expect("a number");
    (at("start"), at("end"))
}

fn is_empty(directory: &Path) -> bool {
    let mut entries = std::fs::read_dir(directory).expect("it is there");
    entries.next().is_none()
}

#[test]
fn both_deploys_come_to_serve_and_headstart_fetches_sooner() {
    let work = tempfile::tempdir().unwrap();
    let out = tempfile::tempdir().unwrap();
    let (page, picture) = (out.path().join("demo.html"), out.path().join("demo.svg"));
    let mut command = demo(work.path());
    command
        .arg("--json")
        .arg("--html")
        .arg(&page)
        .arg("--svg")
        .arg(&picture);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", explain(&output));
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");

    let order = |run: &str| {
        let names = stages(&result[run]).into_iter().map(|(name, _)| name);
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        order("today"),
        "network kubelet gpu image container weights engine"
    );
    let headstart = "network kubelet gpu image weights container engine";
    assert_eq!(order("headstart"), headstart);
    assert_eq!(order("headstart_without_bytes"), headstart);
    for run in ["today", "headstart", "headstart_without_bytes"] {
        let run = &result[run];
        let sum: f64 = stages(run).iter().map(|(_, seconds)| seconds).sum();
        let serving = run["serving_seconds"].as_f64().unwrap();
        assert!((sum - serving).abs() < 0.01, "{run}");
        // At least the boot and the engine were really waited for.
        assert!(serving >= 90.0 + 57.0, "{run}");
        assert_eq!(run["opened"]["shards"], 4, "{run}");
        assert!(run["opened"]["image_files"].as_u64() > Some(0), "{run}");
    }
    for run in ["today", "headstart"] {
        let opened = result[run]["opened"]["weight_bytes"].as_u64().unwrap();
        assert!((15_000_000..17_000_000).contains(&opened), "{opened}");
        let fetched = |fetch: &Value| fetch["bytes_here"].as_u64().unwrap();
        let fetches = result[run]["fetches"].as_array().unwrap();
        let moved: u64 = fetches.iter().map(fetched).sum();
        assert!((25_000_000..29_000_000).contains(&moved), "{moved}");
    }

    // Today waits for each thing; Headstart fetches before the GPU is there.
    let today = &result["today"];
    assert!(span(today, "image").0 >= span(today, "gpu").1);
    assert!(span(today, "weights").0 >= span(today, "container").1);
    let headstart = &result["headstart"];
    for lane in ["image", "weights"] {
        assert!(span(headstart, lane).0 < span(headstart, "gpu").1);
        assert!(span(headstart, "container").0 >= span(headstart, lane).1);
    }

    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    assert!(
        std::fs::read_to_string(picture)
            .unwrap()
            .starts_with("<svg")
    );
    assert!(is_empty(work.path()), "files are left");
}

#[test]
fn an_interrupted_demo_leaves_neither_files_nor_processes() {
    let work = tempfile::tempdir().unwrap();
    let mut command = demo(work.path());
    // Bytes for minutes, so that agents are at work when it is interrupted.
    command.args(["--boot", "1,1,1", "--link", "80Mbit/s", "--no-html"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while children_of(work.path()) == 0 {
        assert!(Instant::now() < deadline, "no agent was started");
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    while children_of(work.path()) > 0 {
        assert!(Instant::now() < deadline, "an agent is left");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(is_empty(work.path()), "files are left");
}

/// Agents at work below `directory`.
fn children_of(directory: &Path) -> usize {
    let directory = directory.as_os_str().as_bytes();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let arguments =
        processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let is_agent = |arguments: &Vec<u8>| {
        let has = |what: &[u8]| arguments.windows(what.len()).any(|window| window == what);
        has(b"\0warm\0") && has(directory)
    };
    arguments.filter(is_agent).count()
}

#[test]
fn a_bad_value_ends_with_one_line_that_names_the_flag() {
    let work = tempfile::tempdir().unwrap();
    for (flag, value) in [("--boot", "9,8,7"), ("--byte-scale", "1")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
        let output = command.args(["demo", flag, value]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", explain(&output));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.starts_with(&format!("error: {flag} {value}: ")),
            "{stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let mut command = demo(&work.path().join("absent"));
    let output = command.current_dir(work.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        explain(&output).contains("--work-dir"),
        "{}",
        explain(&output)
    );
}
