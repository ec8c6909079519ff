use proptest::prelude::*;

use super::*;

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

#[test]
fn other_words_for_one_platform_are_one() {
    assert_eq!(platform("linux/x86_64"), platform("linux/amd64"));
    assert_eq!(platform("linux/amd64/v1"), platform("linux/amd64"));
    assert_eq!(platform("linux/aarch64"), platform("linux/arm64/v8"));
    assert_eq!(platform("Linux/ARM"), platform("linux/arm/v7"));
    assert_eq!(platform("linux/armhf"), platform("linux/arm/7"));
    assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64");
    assert_eq!(Platform::host(), platform(&Platform::host().to_string()));
}

#[test]
fn texts_that_are_no_platforms_are_refused() {
    for text in [
        "",
        "linux",
        "linux/",
        "/amd64",
        "a/b/c/d",
        "linux/am d64",
        "linux/ä",
    ] {
        assert!(text.parse::<Platform>().is_err(), "{text}");
    }
}

#[test]
fn newer_machines_run_older_variants_and_never_the_other_way() {
    fn best<'a>(wanted: &str, offered: &[&'a str]) -> Option<&'a str> {
        let ranked = offered.iter().filter_map(|text| {
            let rank = platform(wanted).rank(&platform(text))?;
            Some((rank, *text))
        });
        ranked.min().map(|(_, text)| text)
    }
    let arm = ["linux/arm/v6", "linux/arm/v7", "linux/arm64"];
    assert_eq!(best("linux/arm64/v8", &arm), Some("linux/arm64"));
    assert_eq!(best("linux/arm64", &arm[..2]), Some("linux/arm/v7"));
    assert_eq!(best("linux/arm/v6", &arm), Some("linux/arm/v6"));
    assert_eq!(
        best("linux/arm64/v9", &["linux/arm64", "linux/arm64/v9"]),
        Some("linux/arm64/v9")
    );
    assert_eq!(best("linux/arm64", &["linux/arm64/v9"]), None);
    assert_eq!(best("linux/amd64", &["linux/amd64/v3"]), None);
    assert_eq!(
        best("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2"]),
        Some("linux/amd64/v2")
    );
    assert_eq!(best("linux/amd64", &["linux/386"]), Some("linux/386"));
    assert_eq!(best("linux/amd64", &["windows/amd64"]), None);
    assert_eq!(best("linux/s390x", &["linux/s390x"]), Some("linux/s390x"));
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic_and_what_is_printed_reads_back(text in "\\PC{0,40}") {
        if let Ok(platform) = text.parse::<Platform>() {
            prop_assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform);
        }
    }
}
