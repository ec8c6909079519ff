//! The parent's side against children that do everything a child may do wrong. The real child is
//! tested in `tests/xet.rs`, in builds that have it.

use std::sync::atomic::{AtomicU64, Ordering};

use headstart_core::digest::GitSha1;
use headstart_core::model::{Format, ModelRef, Revision};
use headstart_transfer::chain;
use sha2::Digest as _;

use super::*;
use crate::plan::XetHash;
use crate::scripted::{COMMIT, TOKEN};

const CONTENT: &[u8] = b"the bytes of a large file";

struct World {
    temp: tempfile::TempDir,
    plan: ModelPlan,
    hub: Hub,
    limits: XetLimits,
}

impl World {
    fn new() -> Self {
        let model: ModelRef = "org/name".parse().unwrap();
        let digest = Sha256(sha2::Sha256::digest(CONTENT).into());
        let file = PlannedFile {
            path: "model.safetensors".parse().unwrap(),
            size: CONTENT.len() as u64,
            expected: Expected::Sha256(digest),
            blob_id: GitSha1([1; 20]),
            xet_hash: Some(XetHash(digest)),
        };
        let commit = COMMIT.parse().unwrap();
        let format = Format::Safetensors;
        let plan = ModelPlan::new(
            model.repo,
            Revision::main(),
            commit,
            format,
            vec![file],
            vec![],
        );
        let token = TOKEN.parse().unwrap();
        Self {
            temp: tempfile::tempdir().unwrap(),
            plan: plan.unwrap(),
            hub: Hub::new("https://hub.test".parse().unwrap(), Some(token)),
            // Far longer than any child here takes under load.
            limits: XetLimits {
                window: Duration::from_secs(60),
                least: 1000,
                ..XetLimits::default()
            },
        }
    }

    /// Runs `script` as the child. `$1` is a file with the right bytes, `$2` where they belong.
    async fn run(&self, script: &str) -> Result<Fetched, XetError> {
        let right = self.temp.path().join("right");
        std::fs::write(&right, CONTENT).unwrap();
        let scratch = self.temp.path().join("scratch");
        std::fs::create_dir_all(&scratch).unwrap();
        let file = &self.plan.files[0];
        let blobs = scratch
            .join(file.etag())
            .join("cache/models--org--name/blobs");
        let begin = format!("mkdir -p {}\n", blobs.display());
        let xet = Xet {
            program: "/bin/sh".into(),
            arguments: [
                "-c".into(),
                (begin + script).into(),
                "child".into(),
                right.into(),
                blobs.join(file.etag()).into(),
            ]
            .to_vec(),
            scratch,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            limits: self.limits,
        };
        let told = AtomicU64::new(0);
        let tell = |bytes| told.store(bytes, Ordering::Relaxed);
        xet.fetch(&self.hub, &self.plan, file, tell).await
    }

    fn nothing_is_left(&self) -> bool {
        let left = std::fs::read_dir(self.temp.path().join("scratch")).unwrap();
        left.count() == 0
    }
}

#[tokio::test]
async fn what_a_child_leaves_is_handed_over_verified_and_goes_when_nobody_wants_it() {
    let world = World::new();
    let script = r#"read order; echo "noise"; echo '{"bytes":12}'; cp "$1" "$2"; echo '"done"'; exec sleep 60"#;
    let fetched = world.run(script).await.unwrap();
    assert_eq!(std::fs::read(&fetched.path).unwrap(), CONTENT);
    let mode = std::fs::metadata(&fetched.path)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o444);
    assert_eq!(fetched.sha256.to_string(), world.plan.files[0].etag());
    drop(fetched);
    assert!(world.nothing_is_left());
}

#[tokio::test]
async fn every_way_a_child_can_fail_is_told_and_nothing_is_left() {
    let cases = [
        (
            "gives up",
            r#"read o; echo '{"gave_up":"no such xorb"}'"#,
            "the Xet client gave up: no such xorb",
        ),
        (
            "exits",
            "exit 7",
            "the Xet client ended with exit status: 7",
        ),
        (
            "is killed",
            "kill -9 $$",
            "the Xet client ended with signal: 9 (SIGKILL)",
        ),
        (
            "runs out of memory",
            "read o; echo 'memory allocation of 8 bytes failed' >&2; kill -6 $$",
            "it needs more than the 1024 MiB of memory allowed",
        ),
        (
            "says nothing",
            "read o; exec sleep 60",
            "only 0 bytes came in 0 s",
        ),
        (
            "crawls",
            r#"read o; while :; do echo '{"bytes":10}'; sleep 0.1; done"#,
            " bytes came in 0 s",
        ),
        (
            "leaves nothing",
            r#"read o; echo '"done"'"#,
            "the Xet client left no file of 25 bytes",
        ),
        (
            "leaves too little",
            r#"read o; echo x > "$2"; echo '"done"'"#,
            "the Xet client left no file of 25 bytes",
        ),
        (
            "leaves a link out",
            r#"read o; ln -s "$1" "$2"; echo '"done"'"#,
            "the Xet client left no file of 25 bytes",
        ),
        (
            "tampers",
            r#"read o; tr b B < "$1" > "$2"; echo '"done"'"#,
            "content mismatch: expected sha256:",
        ),
        (
            "closes its output",
            "read o; exec >&-; exec sleep 60",
            "the Xet client ended with signal: 9 (SIGKILL)",
        ),
    ];
    for (name, script, word) in cases {
        let mut world = World::new();
        if matches!(name, "says nothing" | "crawls" | "closes its output") {
            world.limits.window = Duration::from_millis(700);
        }
        if name == "closes its output" {
            // The window is for its end; until it closes its output it may be slow.
            world.limits.least = 0;
        }
        let error = world.run(script).await.unwrap_err();
        let line = chain(&error);
        assert!(
            line.starts_with("model.safetensors: not fetched through Xet: "),
            "{name}: {line}"
        );
        assert!(line.contains(word), "{name}: {line}");
        assert!(world.nothing_is_left(), "{name}");
    }
}

#[tokio::test]
async fn the_token_comes_by_the_pipe_alone_and_the_environment_is_what_was_given() {
    let world = World::new();
    let script = r#"read order; cp "$1" "$2"
        case "$order" in *"Canary""Canary"*) ;; *) exit 5;; esac
        tr '\0' '\n' < /proc/$$/environ > "$2.env"; tr '\0' '\n' < /proc/$$/cmdline >> "$2.env"
        if grep -q "Canary""Canary" "$2.env"; then exit 6; fi
        if grep -q '^CARGO' "$2.env"; then exit 8; fi
        grep -q '^HF_XET_TELEMETRY_ENABLED=0' "$2.env" || exit 9
        echo '"done"'"#;
    world.run(script).await.unwrap();
}

#[tokio::test]
async fn a_file_outside_xet_storage_starts_no_child() {
    let mut world = World::new();
    world.plan.files[0].xet_hash = None;
    let error = world.run("exit 1").await.unwrap_err();
    assert!(matches!(error.source, XetFault::Elsewhere));
}

#[tokio::test]
async fn a_fetch_that_is_dropped_takes_its_child_and_its_files_along() {
    let world = World::new();
    let pid = world.temp.path().join("pid");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; read o; exec sleep 60",
        pid.display()
    );
    let mut fetch = Box::pin(world.run(&script));
    let started = async {
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let deadline = Duration::from_secs(20);
    tokio::select! {
        _ = &mut fetch => panic!("the child ended by itself"),
        started = tokio::time::timeout(deadline, started) => started.unwrap(),
    }
    drop(fetch);
    let pid: u32 = std::fs::read_to_string(&pid)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let gone = async {
        let stat = PathBuf::from(format!("/proc/{pid}/stat"));
        while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(deadline, gone).await.unwrap();
    assert!(world.nothing_is_left());
}
