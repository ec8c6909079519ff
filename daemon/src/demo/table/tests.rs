use expect_test::expect;

use super::*;
use crate::demo::report::sample;

#[test]
fn the_table_says_where_each_second_went() {
    expect![[r#"
        stage                    today  Headstart     saved  its fetch (bound by)
        node boots              17.0 s     17.0 s         -
        kubelet Ready            9.0 s      9.0 s         -
        GPU allocatable         64.0 s     64.0 s         -
        image                   72.0 s      0.0 s    72.0 s  18.0 s during boot (link)
        container, imports      18.0 s     18.0 s         -
        weights                 80.0 s      0.0 s    80.0 s  42.0 s during boot (link)
        engine starts           39.0 s     39.0 s         -
        serving after          299.0 s    147.0 s   152.0 s  2.0x sooner
        exposed byte time      152.0 s      0.0 s            beyond a run without bytes
    "#]]
    .assert_eq(&table(&sample::report()));
}

#[test]
fn fetches_are_told_at_full_scale() {
    let report = sample::report();
    expect![[r#"
        image: 10.8 GB at 1.2 Gb/s, bound by connections
        weights: 16.0 GB at 1.6 Gb/s, bound by connections
    "#]]
    .assert_eq(&(fetches(&report, &report.today).join("\n") + "\n"));
}

#[test]
fn long_text_is_broken_at_spaces_and_no_word_is_lost() {
    assert_eq!(wrap("- one two three", 9), "- one two\n  three");
    assert_eq!(
        wrap("incomprehensible words", 4),
        "incomprehensible\n  words"
    );
    assert_eq!(wrap("", 4), "");
}
