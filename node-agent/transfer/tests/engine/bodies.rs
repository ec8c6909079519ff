//! Bodies that break off, lie about their length, stand still or hold wrong bytes.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_server_is_asked_for_every_byte_once_over_no_more_connections_than_allowed() {
    let case = Case::new(8 * MIB, |_| Act::Serve).await;
    case.run().await.unwrap();
    let record = case.server.record();
    assert_eq!((case.faults(), case.sent_twice()), (0, 0));
    assert!(record.most_at_once <= 4, "{}", record.most_at_once);
    assert!(record.requests.len() >= 4, "it is fetched in ranges");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_file_and_a_tiny_one_arrive() {
    for size in [0, 1, 4096] {
        Case::new(size, |_| Act::Serve).await.run().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_at_any_point_of_a_body_costs_at_most_what_was_on_the_wire() {
    together([0, 1, 4095, 300_000, MIB - 1].map(|at| async move {
        let case = Case::new(6 * MIB, move |asked| match asked.number % 3 {
            1 => Act::Reset(at),
            _ => Act::Serve,
        })
        .await;
        case.survives().await;
        // What the kernel still held when the reset came is lost: sent, never read.
        let resets = case.server.record().requests.len() as u64;
        assert!(
            case.sent_twice() <= resets * at,
            "{at}: {}",
            case.sent_twice()
        );
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_that_ends_early_is_continued_where_it_ended() {
    let case = Case::new(4 * MIB, |_| Act::Close(200_000)).await;
    case.survives().await;
    assert_eq!(case.sent_twice(), 0, "a FIN loses nothing that was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_that_ends_cleanly_but_short_is_continued() {
    let case = Case::new(4 * MIB, |asked| match asked.number {
        0..3 => Act::ChunkedShort(100_000),
        _ => Act::Serve,
    })
    .await;
    case.survives().await;
    assert_eq!(case.sent_twice(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_more_than_it_was_asked_for_is_given_up() {
    for act in [Act::ChunkedLong(1), Act::ChunkedLong(MIB)] {
        // Many requests: one whose end comes too late to be seen is believed.
        let case = Case::new(32 * MIB, move |_| act.clone()).await;
        let error = case.fails().await;
        assert!(matches!(error, FetchError::Sources { .. }), "{error}");
        assert!(
            error.to_string().contains("more than it was asked for"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_of_another_length_is_not_even_read() {
    // The whole file in one request, and a page that is not it.
    let case = Case::new(MIB / 2, |_| {
        Act::Answer(200, Vec::new(), b"<html>Please log in</html>".to_vec())
    })
    .await;
    let error = case.fails().await;
    assert!(
        error.to_string().contains("has 26 bytes instead of 524288"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bit_flipped_once_costs_a_second_fetch_and_no_more() {
    for at in [0, 3 * MIB + 12_345, 4 * MIB - 1] {
        let first = std::sync::atomic::AtomicBool::new(true);
        let case = Case::new(4 * MIB, move |asked| {
            let range = asked.range.clone().unwrap_or(0..u64::MAX);
            match range.contains(&at) && first.swap(false, Ordering::Relaxed) {
                true => Act::Flip(at),
                false => Act::Serve,
            }
        })
        .await;
        case.run().await.unwrap();
        assert_eq!(
            case.sent_twice(),
            4 * MIB,
            "everything is fetched once more"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_from_everybody_end_in_a_mismatch_after_bounded_bytes_and_nothing_is_left() {
    let case = Case::new(2 * MIB, |_| Act::Flip(MIB)).await;
    let error = case.fails().await;
    let FetchError::Mismatch {
        expected,
        found,
        from,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(expected, case.blob.expected);
    assert_ne!(found, expected);
    assert_eq!(from, "127.0.0.1");
    assert!(case.server.record().sent() <= 3 * 2 * MIB);
    assert!(case.place.names().is_empty(), "{:?}", case.place.names());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_range_is_read_through_once() {
    let case = Case::new(32 * MIB, |_| Act::IgnoreRange).await;
    case.run().await.unwrap();
    // The first answers to ranges are cut off when they turn out to be whole: no socket holds one.
    assert!(case.sent_twice() < 2 * 32 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_landed_is_kept_when_a_server_begins_to_ignore_range() {
    let case = Case::new(8 * MIB, |asked| match asked.number {
        0..3 => Act::Serve,
        _ => Act::IgnoreRange,
    })
    .await;
    case.run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_content_range_is_never_written() {
    for told in [
        "bytes 0-9/100",
        "bytes 5-1048580/8388608",
        "bytes */8388608",
        "rubbish",
        "",
    ] {
        let case = Case::new(8 * MIB, move |_| Act::ContentRange(told.to_owned())).await;
        let error = case.fails().await;
        assert!(
            error.to_string().contains("with Content-Range"),
            "{told}: {error}"
        );
        assert_eq!(right_bytes(&case.place.partial, &case.content), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_total_that_is_not_the_files_is_refused() {
    let case = Case::new(8 * MIB, |asked| {
        let range = asked.range.clone().unwrap();
        Act::ContentRange(format!("bytes {}-{}/9000000", range.start, range.end - 1))
    })
    .await;
    assert!(case.fails().await.to_string().contains("/9000000"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoding_nobody_asked_for_is_refused() {
    let case = Case::new(MIB, |_| Act::With("Content-Encoding".into(), "gzip".into())).await;
    assert!(
        case.fails()
            .await
            .to_string()
            .contains("Content-Encoding gzip")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stands_still_is_replaced_and_its_bytes_are_kept() {
    let case = Case::new(4 * MIB, |asked| match asked.number {
        1 => Act::Stall(700_000),
        2 => Act::Silence,
        3 => Act::Stall(0),
        _ => Act::Serve,
    })
    .await;
    case.run_with(replacing()).await.unwrap();
    assert_eq!(case.cut_short(), [1, 2, 3]);
    assert_eq!(case.sent_twice(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_silent_ends_the_fetch_when_patience_does() {
    let case = Case::new(4 * MIB, |_| Act::Silence).await;
    let error = case.fails_with(impatient()).await;
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    assert!(error.is_transient());
}

/// Soon tired of a connection, but not of the transfer.
fn replacing() -> Limits {
    Limits {
        patience: limits().patience,
        ..impatient()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_lorris_in_the_body_is_replaced() {
    let case = Case::new(4 * MIB, |asked| match asked.number {
        0 | 2 => Act::TrickleBody(Duration::from_millis(100)),
        _ => Act::Serve,
    })
    .await;
    case.run_with(replacing()).await.unwrap();
    assert_eq!(case.cut_short(), [0, 2]);
    assert!(case.faults() >= 2, "{}", case.faults());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_lorris_in_the_head_is_replaced() {
    let case = Case::new(4 * MIB, |asked| match asked.number {
        0 | 2 => Act::TrickleHead(Duration::from_millis(100)),
        _ => Act::Serve,
    })
    .await;
    case.run_with(replacing()).await.unwrap();
    assert_eq!(case.cut_short(), [0, 2]);
    assert!(case.faults() >= 2, "{}", case.faults());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_slow_lorrises_end_the_fetch() {
    let case = Case::new(4 * MIB, |_| Act::TrickleBody(Duration::from_millis(100))).await;
    let error = case.fails_with(impatient()).await;
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    assert!(error.to_string().contains("bytes a second"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_slow_for_everybody_is_not_mistaken_for_a_broken_one() {
    let case = Case::new(MIB, |_| Act::Rate(400_000)).await;
    let limits = Limits {
        floor: 10 << 20,
        patience: Duration::from_secs(2),
        floor_window: Duration::from_millis(500),
        ..limits()
    };
    case.run_with(limits).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_part_on_a_slow_connection_is_shared_with_idle_ones() {
    // One connection brings 10 kB/s and would need minutes for its part; the others are quick.
    let case = Case::new(24 * MIB, |asked| match asked.number {
        0 => Act::Rate(10_000),
        _ => Act::Serve,
    })
    .await;
    let limits = Limits {
        floor: 0,
        share_beyond: Duration::from_secs(1),
        ..limits()
    };
    case.run_with(limits).await.unwrap();
    assert_eq!(case.faults(), 0, "it was helped, not replaced");
    let first = &case.server.record().requests[0];
    let asked = first.asked.range.clone().unwrap();
    assert!(
        asked.end - asked.start >= 1_900_000,
        "the case is not what it should be"
    );
    assert!(
        first.sent < asked.end - asked.start,
        "its end was given away"
    );
}
