//! The labels and names, as they are written.

use headstart_core::digest::Sha256;

use super::*;
use crate::spec::{Blob, Descriptor, LayerSpec, Source, chain_ids};

fn digest(n: u8) -> Sha256 {
    Sha256([n; 32])
}

fn descriptor(n: u8) -> Descriptor {
    Descriptor {
        media_type: format!("type {n}"),
        digest: digest(n),
        size: 1,
    }
}

fn image() -> ImageSpec {
    let diff_ids = [digest(1), digest(2)];
    let layers = diff_ids.into_iter().zip(chain_ids(diff_ids)).enumerate();
    let index = format!(
        r#"{{"manifests":[{{"digest":"{}"}},{{"digest":"{}"}}]}}"#,
        digest(9).prefixed(),
        digest(4).prefixed()
    );
    ImageSpec {
        names: vec![
            "registry:5000/team/app:1".into(),
            "registry:5000/team/app".into(),
        ],
        target: descriptor(5),
        index: Some(Blob {
            descriptor: descriptor(5),
            bytes: index.into_bytes(),
        }),
        manifest: Blob {
            descriptor: descriptor(4),
            bytes: Vec::new(),
        },
        config: Blob {
            descriptor: descriptor(3),
            bytes: Vec::new(),
        },
        layers: layers
            .map(|(i, (diff_id, chain_id))| LayerSpec {
                descriptor: descriptor(6 + u8::try_from(i).unwrap()),
                diff_id,
                chain_id,
            })
            .collect(),
        source: Source {
            host: "registry:5000".into(),
            repository: "team/app".into(),
        },
    }
}

fn check(labels: Labels, expected: expect_test::Expect) {
    let mut lines: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    lines.sort();
    let text = lines.concat();
    let text = (1..=9).fold(text, |text, n| {
        text.replace(&digest(n).prefixed(), &format!("D{n}"))
    });
    let top = image().layers[1].chain_id.prefixed();
    expected.assert_eq(&text.replace(&top, "TOP"));
}

#[test]
fn the_config_keeps_the_top_snapshot() {
    check(
        config(&image(), "overlayfs"),
        expect_test::expect![[r#"
        containerd.io/distribution.source.registry=team/app
        containerd.io/gc.ref.snapshot.overlayfs=TOP
    "#]],
    );
}

#[test]
fn the_manifest_keeps_the_config_and_stored_layers() {
    check(
        manifest(&image(), false),
        expect_test::expect![[r#"
        containerd.io/distribution.source.registry=team/app
        containerd.io/gc.ref.content.config=D3
    "#]],
    );
    check(
        manifest(&image(), true),
        expect_test::expect![[r#"
        containerd.io/distribution.source.registry=team/app
        containerd.io/gc.ref.content.config=D3
        containerd.io/gc.ref.content.l.0=D6
        containerd.io/gc.ref.content.l.1=D7
    "#]],
    );
}

#[test]
fn the_index_keeps_the_manifest_at_its_position() {
    check(
        index(&image()),
        expect_test::expect![[r#"
        containerd.io/distribution.source.registry=team/app
        containerd.io/gc.ref.content.m.1=D4
    "#]],
    );
}

#[test]
fn records_are_by_tag_by_digest_and_by_config() {
    let names = record_names(&image()).join("\n");
    let names = (1..=9).fold(names, |text, n| {
        text.replace(&digest(n).prefixed(), &format!("D{n}"))
    });
    expect_test::expect![[r#"
        registry:5000/team/app
        registry:5000/team/app:1
        registry:5000/team/app@D5
        D3"#]]
    .assert_eq(&names);
}

#[test]
fn a_pinned_record_says_until_when() {
    check(
        record(None),
        expect_test::expect![[r#"
        io.cri-containerd.image=managed
    "#]],
    );
    check(
        record(Some("2030-01-01T00:00:00Z")),
        expect_test::expect![[r#"
            headstart.dev/pinned-until=2030-01-01T00:00:00Z
            io.cri-containerd.image=managed
            io.cri-containerd.pinned=pinned
        "#]],
    );
}

#[test]
fn the_repository_is_what_stands_before_tag_and_digest() {
    for (name, expected) in [
        ("host:5000/a/b:1", "host:5000/a/b"),
        ("host:5000/a/b", "host:5000/a/b"),
        ("docker.io/library/x@sha256:00", "docker.io/library/x"),
        ("docker.io/library/x:2@sha256:00", "docker.io/library/x"),
    ] {
        assert_eq!(repository(name), expected);
    }
}

#[test]
fn times_are_written_in_whole_seconds_and_read_back() {
    let soon = after(Duration::from_secs(60));
    assert!(soon.ends_with('Z') && !soon.contains('.'), "{soon}");
    assert!(!is_past(&soon));
    assert!(!is_past(&after(Duration::MAX)));
    assert!(is_past("2001-01-01T00:00:00Z"));
    assert!(is_past("gibberish"));
}
