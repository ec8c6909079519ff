//! Bad input: one line that names what was asked, what was found and what to do; the other items
//! of the job go on.

use std::process::Stdio;

use headstart_testbed::hub::RepoFile;
use headstart_testbed::model::{Model, Recipe};

use crate::bed::{Bed, files_below, finish, text_of};

/// Warms `bad` beside a good model; the line that says why it is not ready.
async fn refusal(bed: &Bed, bad: &str) -> String {
    bed.commit("org/good", Recipe::default());
    let ran = bed.warm(&["--model", bad, "org/good"]).await.exits(1);
    ran.ready("org/good");
    assert_eq!(ran.of("failed", bad)["transient"], false);
    ran.failed(bad)
}

#[tokio::test]
async fn an_unknown_scheme() {
    let line = refusal(&Bed::new().await, "s3://org/name").await;
    assert!(
        line.contains("\"s3") && line.contains("hf://org/name"),
        "{line}"
    );
}

#[tokio::test]
async fn a_typo_in_a_repository() {
    let line = refusal(&Bed::new().await, "org/gppd").await;
    assert!(
        line.contains("org/gppd") && line.contains("no such model"),
        "{line}"
    );
    assert!(
        line.contains("check the spelling") && line.contains("127.0.0.1"),
        "{line}"
    );
}

#[tokio::test]
async fn a_revision_that_does_not_exist() {
    let line = refusal(&Bed::new().await, "org/good@v9").await;
    assert!(line.contains("org/good") && line.contains("v9"), "{line}");
    assert!(line.contains("no such revision"), "{line}");
}

#[tokio::test]
async fn a_file_name_that_climbs_out_of_the_cache() {
    let bed = Bed::new().await;
    for (repo, name) in [
        ("org/climbs", "../../../climbed.safetensors"),
        ("org/absolute", "/climbed.safetensors"),
        ("org/inside", "a/../../climbed.safetensors"),
    ] {
        let mut files = Model::make(Recipe::default()).unwrap().files;
        files.push(RepoFile::new(name, "out").unwrap());
        bed.hub.commit(repo, "main", files);
        let line = refusal(&bed, repo).await;
        assert!(line.contains(repo) && line.contains("refused"), "{line}");
        assert!(line.contains(name), "{line}");
    }
    let climbed = files_below(bed.root().parent().unwrap());
    let climbed = climbed
        .iter()
        .filter(|path| path.ends_with("climbed.safetensors"));
    assert_eq!(climbed.count(), 0);
}

#[tokio::test]
async fn patterns_that_choose_nothing() {
    let line = refusal(&Bed::new().await, "org/good?include=*.gguf").await;
    assert!(
        line.contains("*.gguf") && line.contains("check the patterns"),
        "{line}"
    );
}

#[tokio::test]
async fn a_repository_without_files() {
    let bed = Bed::new().await;
    bed.hub.commit("org/empty", "main", Vec::new());
    let line = refusal(&bed, "org/empty").await;
    assert!(
        line.contains("org/empty") && line.contains("empty"),
        "{line}"
    );
}

#[tokio::test]
async fn a_command_line_that_is_wrong_ends_with_2_before_anything_begins() {
    let bed = Bed::new().await;
    let (missing, hosts) = (
        text_of(&bed.path("missing")),
        text_of(&bed.path("no-hosts")),
    );
    let empty = bed.write("empty", "\n");
    for (flag, value) in [
        ("--token-file", &missing),
        ("--token-file", &empty),
        ("--registry-config", &missing),
        ("--hosts-dir", &hosts),
        ("--ca-file", &missing),
    ] {
        let ran = bed
            .warm(&["--model", "org/good", flag, value])
            .await
            .exits(2);
        let line = ran.only_line();
        assert!(line.contains(flag), "{line}");
        assert!(line.contains(value) || value == &empty, "{line}");
    }
    for (flag, value) in [
        ("--endpoint", "ftp://hub"),
        ("--platform", "plan9"),
        ("--plain-http", ":"),
    ] {
        let ran = bed
            .run("warm", &["--image", "a:b", flag, value])
            .await
            .exits(2);
        assert!(ran.only_line().contains(flag), "{ran:#?}");
        assert!(ran.only_line().contains(value), "{ran:#?}");
    }
    for wrong in [
        &["--model"][..],
        &[],
        &["--model", "org/good", "--max-bandwidth", "fast"],
        &["--model", "org/good", "--depth", "layers"],
        &["--model", "org/good", "--max-connections", "0"],
    ] {
        let ran = bed.warm(wrong).await.exits(2);
        assert!(ran.err.starts_with("error: "), "{ran:#?}");
    }
    assert!(!bed.root().exists());
    assert_eq!(bed.requests(), 0);
}

#[tokio::test]
async fn a_token_file_that_is_a_directory() {
    let bed = Bed::new().await;
    let directory = text_of(bed.path(".").as_path());
    let ran = bed
        .warm(&["--model", "org/good", "--token-file", &directory])
        .await
        .exits(2);
    assert!(ran.only_line().contains(&directory), "{ran:#?}");
}

#[tokio::test]
async fn directories_that_are_no_store_of_ours_are_left_alone() {
    let bed = Bed::new().await;
    bed.commit("org/good", Recipe::default());
    let root = bed.root();
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("thesis.txt"), "years of work").unwrap();
    let ran = bed.warm(&["--model", "org/good"]).await.exits(3);
    assert!(
        ran.only_line().contains("is not empty and is no store"),
        "{ran:#?}"
    );
    for command in ["inspect", "verify", "gc"] {
        let ran = bed.run(command, &[]).await.exits(3);
        assert!(ran.only_line().contains("holds no store"), "{ran:#?}");
    }
    let left: Vec<_> = std::fs::read_dir(&root).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:#?}");

    std::fs::remove_file(root.join("thesis.txt")).unwrap();
    std::fs::write(root.join("store.json"), r#"{"headstart_store": 99}"#).unwrap();
    let ran = bed.warm(&["--model", "org/good"]).await.exits(3);
    assert!(ran.only_line().contains("store format 99"), "{ran:#?}");
    std::fs::remove_file(root.join("store.json")).unwrap();

    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&root, open).unwrap();
    let ran = bed.warm(&["--model", "org/good"]).await.exits(3);
    assert!(ran.only_line().contains("chmod 700"), "{ran:#?}");
    let file = bed.write("file", "");
    let mut agent = bed.warming(&["--model", "org/good"]);
    agent.env("HEADSTART_LOG", "nonsense=really=what");
    assert_eq!(finish(agent).await.exits(2).err.lines().count(), 1);
    let args = [
        "--model",
        "org/good",
        "--require-mount",
        text_of(&root).as_str(),
    ]
    .map(str::to_owned);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ran = bed.warm(&args).await.exits(3);
    assert!(ran.only_line().contains("not a mount point"), "{ran:#?}");
    let args = ["--model", "org/good", "--require-mount", &file];
    bed.warm(&args).await.exits(3).only_line();
}

#[tokio::test]
async fn a_store_of_somebody_else() {
    let bed = Bed::new().await;
    // Every machine has directories that this user does not own, unless it is root: it may give
    // one away.
    let (root, owner) = match nix::unistd::geteuid().is_root() {
        true => {
            let root = bed.path("theirs");
            std::fs::create_dir(&root).unwrap();
            std::os::unix::fs::chown(&root, Some(4242), None).unwrap();
            (text_of(&root), "4242")
        }
        false => ("/usr".to_owned(), "0"),
    };
    let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_headstart-agent"));
    agent.args(["warm", "--root", &root, "--model", "org/good"]);
    agent.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = finish(agent).await.exits(3);
    let line = ran.only_line();
    assert!(
        line.contains(&root) && line.contains(&format!("uid {owner}")),
        "{line}"
    );
}
