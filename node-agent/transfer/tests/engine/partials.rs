//! Partial files from earlier runs, true and false ones, and several claims to one.

use std::os::unix::fs::FileExt;

use headstart_core::digest::GitSha1;
use nix::fcntl::{Flock, FlockArg};

use super::*;

/// A case of which some has landed and the engine is gone.
async fn half_done(size: u64) -> Case {
    let case = Case::new(size, move |asked| match asked.number {
        0 | 1 => Act::Serve,
        // The second run finds an honest server.
        2..6 => Act::Stall(300_000),
        _ => Act::Serve,
    })
    .await;
    let engine = engine(
        policy(&[case.server.url("/")]),
        Limits {
            stall: Duration::from_secs(60),
            ..limits()
        },
    );
    let fetch = engine.file(&case.blob, &case.place.partial, case.progress.clone());
    let enough = async {
        until("two parts and four pieces have landed", || {
            case.progress.landed.load(Ordering::Relaxed) >= 2 * MIB + 4 * 300_000
        })
        .await;
    };
    tokio::select! {
        _ = fetch => panic!("it cannot end"),
        () = enough => {}
    }
    drop(engine);
    until("the last write is over", || {
        let file = std::fs::File::open(&case.place.partial).unwrap();
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
    })
    .await;
    case
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_run_fetches_what_is_missing_and_nothing_else() {
    let case = half_done(8 * MIB).await;
    let landed = case.progress.landed.load(Ordering::Relaxed);
    case.run().await.unwrap();
    assert!(case.progress.resumed.load(Ordering::Relaxed) >= landed);
    assert_eq!(case.sent_twice(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_claims_bytes_that_are_zero_is_caught_by_the_hash_and_costs_a_refetch() {
    let case = half_done(8 * MIB).await;
    let data = std::fs::File::options()
        .write(true)
        .open(&case.place.partial)
        .unwrap();
    data.write_all_at(&[0; 4096], 8192).unwrap();
    let before = case.server.record().sent();
    case.run().await.unwrap();
    let resumed = case.progress.resumed.load(Ordering::Relaxed);
    assert_eq!(
        case.server.record().sent() - before,
        8 * MIB - resumed + 8 * MIB
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_claims_everything_is_caught_too() {
    let case = Case::new(4 * MIB, |_| Act::Serve).await;
    let journal = format!(
        "headstart-journal-1 {} {} this boot\n0 {}\n",
        case.blob.expected,
        4 * MIB,
        4 * MIB
    );
    std::fs::write(case.place.journal(), journal).unwrap();
    std::fs::write(&case.place.partial, vec![0; 4 * MIB as usize]).unwrap();
    case.run().await.unwrap();
    assert_eq!(case.server.record().sent(), 4 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_that_was_cut_or_grown_is_not_believed() {
    together([0, 100, 9 * MIB].map(|length| async move {
        let case = half_done(8 * MIB).await;
        let data = std::fs::File::options()
            .write(true)
            .open(&case.place.partial)
            .unwrap();
        data.set_len(length).unwrap();
        drop(data);
        case.run().await.unwrap();
        assert_eq!(case.progress.resumed.load(Ordering::Relaxed), 0, "{length}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_where_the_journal_should_be_costs_a_refetch_and_no_more() {
    together(
        [
            &b"\xff\xfe\n\n"[..],
            b"",
            b"headstart-journal-9 x\n0 10\n",
            &[0; 5000],
        ]
        .map(|rubbish| async move {
            let case = half_done(8 * MIB).await;
            std::fs::write(case.place.journal(), rubbish).unwrap();
            case.run().await.unwrap();
            assert_eq!(case.progress.resumed.load(Ordering::Relaxed), 0);
        }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fetches_of_one_partial_file_never_write_it_both() {
    let case = Case::new(4 * MIB, |_| Act::Rate(200_000)).await;
    let policy = policy(&[case.server.url("/")]);
    // Two engines, as two agents would have.
    let (one, other) = (engine(policy.clone(), limits()), engine(policy, limits()));
    let first = one.file(&case.blob, &case.place.partial, Arc::default());
    let second = async {
        until("the first is under way", || case.server.record().sent() > 0).await;
        other
            .file(&case.blob, &case.place.partial, Arc::default())
            .await
    };
    let refused = tokio::select! {
        _ = first => panic!("the first is slow"),
        refused = second => refused.err().expect("the file is the first one's"),
    };
    let line = refused.to_string();
    assert!(line.contains("another process is fetching it"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_takes_over_when_the_first_is_gone() {
    let case = Case::new(4 * MIB, |asked| match asked.number {
        0..4 => Act::Rate(200_000),
        _ => Act::Serve,
    })
    .await;
    let one = engine(policy(&[case.server.url("/")]), limits());
    let progress = Arc::<Progress>::default();
    let first = one.file(&case.blob, &case.place.partial, progress.clone());
    let landed = || progress.landed.load(Ordering::Relaxed) > 0;
    tokio::select! {
        _ = first => panic!("the first is slow"),
        () = until("bytes land", landed) => {}
    }
    case.run().await.unwrap();
    assert!(case.progress.resumed.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_named_by_its_git_id_is_verified_by_it() {
    let mut case = Case::new(6, |_| Act::Answer(200, Vec::new(), b"hello\n".to_vec())).await;
    case.content = Bytes::from_static(b"hello\n");
    // `printf 'hello\n' | git hash-object --stdin`
    let id: GitSha1 = "ce013625030ba8dba906f756967f9e9ca394464a".parse().unwrap();
    case.blob.expected = Expected::GitSha1(id);
    case.run().await.unwrap();
    case.blob.expected = Expected::GitSha1(GitSha1([1; 20]));
    std::fs::remove_file(&case.place.to).unwrap();
    assert!(matches!(case.fails().await, FetchError::Mismatch { .. }));
}
