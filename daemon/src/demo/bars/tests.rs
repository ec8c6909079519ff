use expect_test::{Expect, expect};
use headstart_core::quantity::Bytes;

use super::*;
use crate::demo::report::sample;
use crate::demo::timeline::Moved;

fn check(timeline: &Timeline, now: f64, expected: &Expect) {
    let lines = lines(timeline, Seconds(now), Seconds(299.0), 100, Paint::Plain);
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
    expected.assert_eq(&(lines.join("\n") + "\n"));
}

#[test]
fn today_is_a_staircase() {
    check(
        &sample::today(),
        299.0,
        &expect![[r#"
            TODAY      one after the other: serving after 299.0 s
              node boots         ███                                              17.0 s
              kubelet Ready         █                                              9.0 s
              GPU allocatable        ██████████                                   64.0 s
              image                            ███████████                        72.0 s  10.8 GB
              container, imports                          ███                     18.0 s
              weights                                        ████████████         80.0 s  16.0 GB
              engine starts                                              ██████   39.0 s
        "#]],
    );
}

#[test]
fn headstart_has_its_bytes_beside_the_boot() {
    check(
        &sample::headstart(Seconds(59.0)),
        147.0,
        &expect![[r#"
            HEADSTART  bytes move while the node boots: serving after 147.0 s
              node boots         ███                                              17.0 s
              kubelet Ready         █                                              9.0 s
              GPU allocatable        ██████████                                   64.0 s
              image                 ██                                            18.0 s  10.8 GB, hidden
              container, imports               ███                                18.0 s
              weights               ██████                                        42.0 s  16.0 GB, hidden
              engine starts                       ██████                          39.0 s
        "#]],
    );
}

#[test]
fn bytes_that_were_waited_for_say_so() {
    check(
        &sample::headstart(Seconds(124.2)),
        182.0,
        &expect![[r#"
            HEADSTART  bytes move while the node boots: serving after 181.2 s
              node boots         ███                                              17.0 s
              kubelet Ready         █                                              9.0 s
              GPU allocatable        ██████████                                   64.0 s
              image                 ██                                            18.0 s  10.8 GB, hidden
              container, imports                    ███                           18.0 s
              weights               ████████████████                             107.2 s  16.0 GB, 34.2 s exposed
              engine starts                            ██████                     39.0 s
        "#]],
    );
}

#[test]
fn a_bar_under_way_grows_to_now_and_says_how_far_it_is() {
    let mut timeline = Timeline::new(Order::Today);
    timeline.begin(Lane::Network, Seconds(0.0));
    timeline.end(Lane::Network, Seconds(17.0));
    timeline.begin(Lane::Image, Seconds(17.0));
    let moved = Moved {
        done: Bytes(3_000_000_000),
        total: Bytes(10_800_000_000),
    };
    timeline.progress(Lane::Image, moved);
    check(
        &timeline,
        40.0,
        &expect![[r#"
            TODAY      one after the other:  40.0 s
              node boots         ███                                              17.0 s
              kubelet Ready
              GPU allocatable
              image                 ███                                           23.0 s  3.00 GB / 10.8 GB
              container, imports
              weights
              engine starts
        "#]],
    );
}

#[test]
fn lines_fit_their_columns_however_few_there_are() {
    for columns in [0, 40, 67, 80, 200, 500] {
        for line in lines(
            &sample::today(),
            Seconds(299.0),
            Seconds(10.0),
            columns,
            Paint::Plain,
        ) {
            let most = columns.max(2 + LABEL + 1 + LEAST_BAR + 1 + NOTE);
            assert!(line.chars().count() <= most, "{columns}: {line}");
        }
    }
}
