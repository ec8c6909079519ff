use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: Expect) {
    let shown = match text.parse::<ImageRef>() {
        Ok(image) => format!("{image} from {}", image.registry()),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&shown);
}

#[test]
fn short_names_are_docker_hubs() {
    check(
        "busybox",
        expect!["docker.io/library/busybox:latest from docker.io"],
    );
    check(
        "vllm/vllm-openai:v0.33.0",
        expect!["docker.io/vllm/vllm-openai:v0.33.0 from docker.io"],
    );
    check(
        "index.docker.io/library/busybox",
        expect!["docker.io/library/busybox:latest from docker.io"],
    );
    check(
        "localhost/app",
        expect!["localhost/app:latest from localhost"],
    );
    check(
        "ghcr.io/org/a/b:T_1.x-y",
        expect!["ghcr.io/org/a/b:T_1.x-y from ghcr.io"],
    );
    check(
        "10.0.0.5:5000/app",
        expect!["10.0.0.5:5000/app:latest from 10.0.0.5:5000"],
    );
}

#[test]
fn a_digest_beside_a_tag_is_what_counts() {
    let digest = format!("sha256:{}", "a1".repeat(32));
    let image: ImageRef = format!("busybox:1.36@{digest}").parse().unwrap();
    assert_eq!(
        image.to_string(),
        format!("docker.io/library/busybox@{digest}")
    );
    assert_eq!(image.tag(), Some("1.36"));
    assert_eq!(image.manifest_name(), digest);
    let pinned = image.pinned(Sha256([7; 32]));
    assert_eq!(pinned.tag(), None);
    assert_eq!(pinned.digest(), Some(Sha256([7; 32])));
}

#[test]
fn a_wrong_reference_says_what_is_wrong_and_what_to_write() {
    check(
        "",
        expect![[
            r#""" is not an image reference: it is empty: expected [HOST[:PORT]/]NAME[:TAG][@DIGEST]"#
        ]],
    );
    check(
        "docker://busybox",
        expect![[
            r#""docker://busybox" is not an image reference: leave out "docker://" and write "busybox""#
        ]],
    );
    check(
        "ghcr.io/Org/App:V1",
        expect![[
            r#""ghcr.io/Org/App:V1" is not an image reference: repository names are lower case: did you mean "ghcr.io/org/app:V1"?"#
        ]],
    );
    check(
        "busybox:",
        expect![[r#""busybox:" is not an image reference: the tag after ":" is empty"#]],
    );
    check(
        "busy box",
        expect![[r#""busy box" is not an image reference: it contains white space"#]],
    );
    check(
        "busybox@latest",
        expect![[
            r#""busybox@latest" is not an image reference: after "@" comes a digest, sha256:<64 hex digits>; a tag comes after ":""#
        ]],
    );
    check(
        "busybox@sha256:abc",
        expect![[
            r#""busybox@sha256:abc" is not an image reference: expected [HOST[:PORT]/]NAME[:TAG][@DIGEST]"#
        ]],
    );
    check(
        "reg.example:99999/app",
        expect![[
            r#""reg.example:99999/app" is not an image reference: "reg.example:99999" is not a host or host:port"#
        ]],
    );
    check(
        "../../etc/passwd",
        expect![[
            r#""../../etc/passwd" is not an image reference: expected [HOST[:PORT]/]NAME[:TAG][@DIGEST]"#
        ]],
    );
    let upper = format!("busybox@sha256:{}", "AB".repeat(32));
    assert!(
        upper
            .parse::<ImageRef>()
            .unwrap_err()
            .to_string()
            .contains("lower-case")
    );
    let long = format!("busybox@sha512:{}", "ab".repeat(64));
    assert!(
        long.parse::<ImageRef>()
            .unwrap_err()
            .to_string()
            .contains("sha256")
    );
}

#[test]
fn an_upper_case_first_part_is_no_host_and_no_repository() {
    let error = "A/a".parse::<ImageRef>().unwrap_err();
    assert!(
        error.to_string().contains("did you mean \"a/a\"?"),
        "{error}"
    );
    assert!("EXAMPLE.com/a/b".parse::<ImageRef>().is_ok());
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in "\\PC{0,300}") {
        let _ = text.parse::<ImageRef>();
    }

    #[test]
    fn no_text_of_reference_characters_makes_parsing_panic(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,80}") {
        if let Ok(image) = text.parse::<ImageRef>() {
            // What is printed reads back as itself, and no path climbs.
            let shown = image.to_string();
            let again: ImageRef = shown.parse().unwrap();
            prop_assert_eq!(again.to_string(), shown);
            prop_assert!(image.repository().split('/').all(|part| !part.is_empty() && part != ".."));
        }
    }

    #[test]
    fn every_name_of_the_grammar_reads_back(
        host in "([a-z0-9]{1,8}\\.[a-z]{2,4}(:[1-9][0-9]{0,3})?/)?",
        path in "[a-z0-9]{1,9}(/[a-z0-9]{1,9}(-[a-z0-9]{1,3})?){0,3}",
        tag in "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,20})?",
    ) {
        let text = format!("{host}{path}{tag}");
        let image: ImageRef = text.parse().unwrap();
        let shown = image.to_string();
        let end = format!("{path}{}", if tag.is_empty() { ":latest" } else { &tag });
        prop_assert!(shown.ends_with(&end), "{}", shown);
        prop_assert_eq!(shown.parse::<ImageRef>().unwrap(), image);
    }
}
