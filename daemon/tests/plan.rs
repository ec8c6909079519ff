//! `headstart plan` and `headstart explain` as programs see them: exit codes and where text goes.

use std::process::{Command, Output, Stdio};

/// Runs the command in the crate's directory, where the example manifests are, with a home of its own.
fn headstart(args: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    Command::new(env!("CARGO_BIN_EXE_headstart"))
        .args(args)
        .env_remove("HEADSTART_CATALOG_DIR")
        .env_remove("XDG_CACHE_HOME")
        .env("HOME", home.path())
        .output()
        .expect("the built program can be started")
}

const FILES: [&str; 4] = [
    "--pods",
    "tests/plan/rayservice.yaml",
    "--node-pool",
    "tests/plan/pools.yaml",
];

fn with<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<&'a str> {
    [before, &FILES, after].concat()
}

#[test]
fn a_plan_that_serves_all_ends_with_0_and_writes_to_standard_output() {
    let output = headstart(&with(&["plan"], &["-o", "json"]));
    assert_eq!(output.status.code(), Some(0));
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plan["apiVersion"], "plan.headstart.dev/v1");
    assert!(output.stderr.is_empty());
}

#[test]
fn whoever_has_read_enough_of_an_answer_ends_the_command_quietly() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
    let piped = command
        .arg("crd")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = piped.spawn().unwrap();
    // More than a pipe holds is still to come.
    drop(running.stdout.take());
    let ended = running.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn a_plan_that_leaves_a_pod_unserved_ends_with_1() {
    // The GPUs that the worker asks for are not sold there.
    let own = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    std::fs::write(
        own.path(),
        "type,vcpu,memory_mib,on_demand\nplain,8,32768,0.2\n",
    )
    .unwrap();
    let own = own.path().to_str().unwrap();
    let only = ["--catalog", own, "--no-builtin-catalog"];
    let output = headstart(&with(&["plan"], &only));
    assert_eq!(output.status.code(), Some(1));
    let worker = "pod/serving/qwen-gpu-worker-0";
    let output = headstart(&with(&["explain", worker], &only));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("not served"));
}

#[test]
fn wrong_input_ends_with_2_and_every_problem_on_a_line_of_standard_error() {
    let output = headstart(&with(
        &["plan"],
        &[
            "--nodes",
            "tests/plan/gone.yaml",
            "--catalog",
            "tests/plan/gone.csv",
        ],
    ));
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.lines().count(), 2, "{said}");
    let output = headstart(&with(&["explain", "pod/gone"], &[]));
    assert_eq!(output.status.code(), Some(2));
}
