//! Images handed to real containerd are as if it had pulled them.
//!
//! Each proof runs on bookworm's containerd 1.6; the core ones on 1.7 and 2.x too. Every case has
//! a containerd and a registry of its own.

#[path = "containerd/killed.rs"]
mod killed;
#[path = "containerd/world.rs"]
mod world;

use std::time::Duration;

use anyhow::Result;
use headstart_containerd::{Auth, Committed, Config, Depth, Error, Runtime, Verdict};
use headstart_core::digest::Sha256;
use headstart_testbed::containerd::{Settings, Version};
use headstart_testbed::docker_registry::{Access, PASSWORD, USER};
use world::{Kind, World, until, warm};

const HOUR: Duration = Duration::from_secs(3600);

fn right() -> Option<Auth> {
    Some(Auth::Basic {
        username: USER.into(),
        password: PASSWORD.into(),
    })
}

fn wrong() -> Option<Auth> {
    Some(Auth::Basic {
        username: USER.into(),
        password: "guessed".into(),
    })
}

macro_rules! on_each_version {
    ($($name:ident: $proof:path;)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn on_containerd_1_6() -> Result<()> {
                $proof(Version::V1_6).await
            }

            #[tokio::test]
            async fn on_containerd_1_7() -> Result<()> {
                $proof(Version::V1_7).await
            }

            #[tokio::test]
            async fn on_containerd_2() -> Result<()> {
                $proof(Version::V2).await
            }
        }
    )*};
}

on_each_version! {
    an_image_is_present_as_if_pulled: present;
    an_index_is_present_as_if_pulled: present_by_index;
    a_racing_pull_is_safe: racing_pull;
    layers_without_a_record_need_the_right_secret: layers_only;
    blobs_without_a_record_need_the_right_secret: content_only;
    a_restart_in_mid_session_costs_nothing: restart_in_mid_session;
}

/// Listed, pulled again without a blob, run, kept over a restart, and gone when removed.
async fn present(version: Version) -> Result<()> {
    let mut world = World::start(version, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    assert!(
        runtime.detect().await?.is_fast(),
        "{:?}",
        runtime.detect().await?
    );
    let held = warm(&runtime, &image, Depth::Present, HOUR).await?;
    assert_eq!(held.image_id, image.spec.config.descriptor.digest);

    // The CRI learns of each of an image's names by an event of its own.
    until("the image is listed under both names", || async {
        let listed = runtime.list().await?;
        Ok(listed
            .iter()
            .all(|image| !image.tags.is_empty() && !image.digests.is_empty()))
    })
    .await?;
    let listed = runtime.list().await?;
    let [listed] = &listed[..] else {
        panic!("expected one image: {listed:?}");
    };
    assert_eq!(listed.id, held.image_id.prefixed());
    assert_eq!(listed.tags, std::slice::from_ref(&image.reference));
    assert_eq!(listed.digests, [image.by_digest()]);
    // 1.6.20 is older than pinning.
    assert_eq!(listed.pinned, version != Version::V1_6);

    let id = runtime.pull(&image.reference, None).await?;
    assert_eq!(id, held.image_id.prefixed());
    assert_eq!(world.layer_fetches(&image)?, 0);
    world.run(&image)?;
    world.containerd.restart()?;
    assert_eq!(runtime.list().await?.len(), 1);
    world.run(&image)?;
    runtime.pull(&image.by_digest(), None).await?;
    assert_eq!(world.layer_fetches(&image)?, 0);

    runtime.remove(&held.image_id.prefixed()).await?;
    world.until_reclaimed(&before).await
}

async fn present_by_index(version: Version) -> Result<()> {
    let settings = Settings {
        discard_unpacked_layers: true,
        ..Settings::default()
    };
    let world = World::start(version, Access::Open, settings).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Index)?;
    let runtime = world.runtime().await?;
    // containerd 2 does not tell.
    let told = (version != Version::V2).then_some(true);
    assert_eq!(runtime.detect().await?.discard_unpacked_layers, told);
    warm(&runtime, &image, Depth::Present, Duration::ZERO).await?;
    let status = runtime.status(&image.reference).await?.expect("listed");
    assert_eq!(status.digests, [image.by_digest()]);
    assert!(!status.pinned);
    runtime.pull(&image.reference, None).await?;
    assert_eq!(world.layer_fetches(&image)?, 0);
    world.run(&image)?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

/// A pull by the runtime at every point of a session, and beside all of it.
async fn racing_pull(version: Version) -> Result<()> {
    let world = World::start(version, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let layers = image.spec.layers.len();
    // Point 0 is before the session, 1 + n after n commits.
    for point in 0..layers + 2 {
        if point == 0 {
            runtime.pull(&image.reference, None).await?;
        }
        let mut session = runtime
            .begin(image.spec.clone(), Depth::Present, HOUR)
            .await?;
        assert_eq!(session.missing().len(), if point == 0 { 0 } else { layers });
        for layer in session.missing() {
            image.unpack(layer, &session.staging(layer)?)?;
        }
        for layer in session.missing() {
            if point == 1 + layer {
                runtime.pull(&image.reference, None).await?;
            }
            let committed = session
                .commit(layer, image.diff_id(layer), |_| Ok(()))
                .await?;
            let expected = match layer + 1 < point {
                true => Committed::New,
                false => Committed::AlreadyThere,
            };
            assert_eq!(committed, expected, "layer {layer}, pull at point {point}");
        }
        if point == 1 + layers {
            runtime.pull(&image.reference, None).await?;
        }
        session.finish().await?;
        world.run(&image)?;
        runtime.remove(&image.reference).await?;
        world.until_reclaimed(&before).await?;
    }
    for _ in 0..5 {
        let pulling = tokio::spawn({
            let (runtime, reference) = (runtime.clone(), image.reference.clone());
            async move { runtime.pull(&reference, None).await }
        });
        warm(&runtime, &image, Depth::Present, HOUR).await?;
        pulling.await??;
        world.run(&image)?;
        runtime.remove(&image.reference).await?;
        world.until_reclaimed(&before).await?;
    }
    Ok(())
}

async fn layers_only(version: Version) -> Result<()> {
    let mut world = World::start(version, Access::Password, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/secret", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let held = warm(&runtime, &image, Depth::Layers, HOUR).await?;
    assert!(held.until.is_some());
    let layers = world.inventory().await?;
    assert_eq!(layers.snapshots.len(), image.spec.layers.len());
    assert_eq!(
        (&layers.content, &layers.images),
        (&before.content, &before.images)
    );

    for auth in [None, wrong()] {
        let error = runtime
            .pull(&image.reference, auth)
            .await
            .expect_err("a secret is needed");
        assert!(error.is_unauthorized(), "{error}");
    }
    for name in [
        &image.reference,
        &image.by_digest(),
        &held.image_id.prefixed(),
    ] {
        assert_eq!(runtime.status(name).await?, None);
    }
    world.containerd.restart()?;
    world.collect()?;
    assert_eq!(world.inventory().await?.snapshots, layers.snapshots);
    runtime.pull(&image.reference, right()).await?;
    assert_eq!(world.layer_fetches(&image)?, 0);
    assert_eq!(runtime.sweep().await?.holds, 1);
    world.collect()?;
    world.run(&image)?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

async fn content_only(version: Version) -> Result<()> {
    let world = World::start(version, Access::Password, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/secret", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let session = runtime
        .begin(image.spec.clone(), Depth::Content, HOUR)
        .await?;
    for layer in 0..image.spec.layers.len() {
        let mut writer = session.blob(layer).await?.expect("not there yet");
        for piece in image.blob(layer).chunks(70_000) {
            writer.write(piece).await?;
        }
        writer.commit().await?;
        assert!(session.blob(layer).await?.is_none());
    }
    session.finish().await?;
    let error = runtime
        .pull(&image.reference, wrong())
        .await
        .expect_err("a secret is needed");
    assert!(error.is_unauthorized(), "{error}");
    world.collect()?;
    assert_eq!(
        world.inventory().await?.content.len(),
        image.spec.layers.len()
    );
    runtime.pull(&image.reference, right()).await?;
    assert_eq!(world.layer_fetches(&image)?, 0);
    assert!(runtime.release(&image.spec.target.digest).await?);
    world.run(&image)?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

async fn restart_in_mid_session(version: Version) -> Result<()> {
    let mut world = World::start(version, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let mut session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    for layer in session.missing() {
        image.unpack(layer, &session.staging(layer)?)?;
        world.containerd.restart()?;
        let committed = session
            .commit(layer, image.diff_id(layer), |_| Ok(()))
            .await?;
        assert_eq!(committed, Committed::New);
    }
    world.containerd.restart()?;
    session.finish().await?;
    runtime.pull(&image.reference, None).await?;
    assert_eq!(world.layer_fetches(&image)?, 0);
    world.run(&image)?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn another_snapshotter_needs_pull_image() -> Result<()> {
    let settings = Settings {
        snapshotter: Some("native".into()),
        ..Settings::default()
    };
    for version in [Version::V1_6, Version::V2] {
        let world = World::start(version, Access::Open, settings.clone()).await?;
        let image = world.push("team/app", "1", Kind::Manifest)?;
        let runtime = world.runtime().await?;
        let detected = runtime.detect().await?;
        assert_eq!(detected.snapshotter.as_deref(), Some("native"));
        let why = "its snapshotter is native, not overlayfs".to_owned();
        assert_eq!(detected.verdict, Verdict::Cri { why });
        let begun = runtime
            .begin(image.spec.clone(), Depth::Present, HOUR)
            .await;
        assert!(matches!(begun, Err(Error::NotFast { .. })), "{begun:?}");
        let id = runtime.pull(&image.reference, None).await?;
        assert_eq!(id, image.spec.config.descriptor.digest.prefixed());
        assert!(runtime.status(&image.reference).await?.is_some());
    }
    Ok(())
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_config_promises_is_refused() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let mut session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    image.unpack(0, &session.staging(0)?)?;
    let error = session
        .commit(0, Sha256([7; 32]), |_| Ok(()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Content { layer: 0, .. }), "{error}");
    assert!(
        !error.to_string().contains(&image.diff_id(0).to_string()),
        "{error}"
    );
    let error = session
        .commit(1, image.diff_id(1), |_| Ok(()))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Order { layer: 1, .. }), "{error}");
    assert_eq!(world.inventory().await?.snapshots, before.snapshots);
    let error = session.finish().await.unwrap_err();
    assert!(matches!(error, Error::Order { layer: 0, .. }), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_layer_whose_fixup_fails_can_be_committed_again() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let mut session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    for layer in session.missing() {
        image.unpack(layer, &session.staging(layer)?)?;
        let failing = |_: &_| Err(std::io::Error::other("no space"));
        let error = session
            .commit(layer, image.diff_id(layer), failing)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Disk { .. }), "{error}");
        let lower = move |staged: &headstart_containerd::StagedLayer| {
            assert_eq!(staged.lowerdirs.len(), layer);
            assert!(staged.lowerdirs.iter().all(|lower| lower.is_dir()));
            assert!(std::fs::read_dir(&staged.upperdir)?.next().is_none());
            Ok(())
        };
        session.commit(layer, image.diff_id(layer), lower).await?;
    }
    session.finish().await?;
    world.run(&image)?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn an_abandoned_session_leaves_nothing() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let mut session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    for layer in [0, 1] {
        image.unpack(layer, &session.staging(layer)?)?;
    }
    session.commit(0, image.diff_id(0), |_| Ok(())).await?;
    session.abandon().await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn pins_and_holds_end_and_can_be_renewed() -> Result<()> {
    let world = World::start(Version::V1_7, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let public = world.push("team/app", "1", Kind::Manifest)?;
    let secret = world.push("team/other", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let (pin, hold) = (public.spec.target.digest, secret.spec.target.digest);
    // Enough for both to be handed over and renewed under load.
    let first = Duration::from_secs(30);
    warm(&runtime, &public, Depth::Present, first).await?;
    warm(&runtime, &secret, Depth::Layers, first).await?;
    assert!(runtime.renew(&pin, HOUR).await? && runtime.renew(&hold, HOUR).await?);
    tokio::time::sleep(first + Duration::from_secs(1)).await;
    assert_eq!(
        runtime.sweep().await?,
        headstart_containerd::Swept::default()
    );
    world.collect()?;
    let pinned = || async {
        anyhow::Ok(
            runtime
                .status(&public.reference)
                .await?
                .expect("listed")
                .pinned,
        )
    };
    assert!(pinned().await?);
    let layers = public.spec.layers.len() + secret.spec.layers.len() - world::SHARED_LAYERS;
    assert_eq!(world.inventory().await?.snapshots.len(), layers);

    assert!(runtime.renew(&pin, Duration::from_secs(1)).await?);
    assert!(runtime.renew(&hold, Duration::from_secs(1)).await?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let swept = runtime.sweep().await?;
    assert_eq!(swept.pins, 3);
    // containerd's own collection may have been there first.
    assert!(swept.leases <= 1, "{swept:?}");
    world::until("the image is unpinned", || async { Ok(!pinned().await?) }).await?;
    assert_eq!(
        world.inventory().await?.snapshots.len(),
        public.spec.layers.len()
    );
    assert!(!runtime.renew(&pin, HOUR).await? && !runtime.renew(&hold, HOUR).await?);
    assert!(!runtime.release(&pin).await?);
    runtime.remove(&public.reference).await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn removing_an_image_that_shares_layers_takes_none_from_a_session() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let one = world.push("team/app", "1", Kind::Manifest)?;
    let other = world.push("team/other", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    runtime.pull(&one.reference, None).await?;
    let mut session = runtime
        .begin(other.spec.clone(), Depth::Present, HOUR)
        .await?;
    assert_eq!(
        session.missing().len(),
        other.spec.layers.len() - world::SHARED_LAYERS
    );
    runtime.remove(&one.reference).await?;
    world.collect()?;
    for layer in session.missing() {
        other.unpack(layer, &session.staging(layer)?)?;
        session
            .commit(layer, other.diff_id(layer), |_| Ok(()))
            .await?;
    }
    session.finish().await?;
    world.run(&other)?;
    runtime.remove(&other.reference).await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn kept_blobs_can_be_exported() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let config = Config {
        keep_blobs: true,
        ..Config::new(world.containerd.socket())
    };
    let runtime = Runtime::connect(config).await?;
    let mut session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    for layer in session.missing() {
        let mut writer = session.blob(layer).await?.expect("not there yet");
        writer.write(image.blob(layer)).await?;
        writer.commit().await?;
        image.unpack(layer, &session.staging(layer)?)?;
        session
            .commit(layer, image.diff_id(layer), |_| Ok(()))
            .await?;
    }
    session.finish().await?;
    world.collect()?;
    let export = world.directory().join("export.tar");
    world.containerd.ctr(&[
        "images",
        "export",
        export.to_str().unwrap(),
        &image.reference,
    ])?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn a_blob_with_a_wrong_byte_is_refused() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let session = runtime
        .begin(image.spec.clone(), Depth::Content, HOUR)
        .await?;
    let mut writer = session.blob(0).await?.expect("not there yet");
    let busy = session.blob(0).await.unwrap_err();
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    let mut bytes = image.blob(0).to_vec();
    bytes[100] ^= 1;
    writer.write(&bytes).await?;
    let error = writer.commit().await.unwrap_err();
    assert!(
        error.to_string().contains("unexpected commit digest"),
        "{error}"
    );
    session.abandon().await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn a_socket_where_nobody_listens_is_named() {
    let error = Runtime::connect(Config::new("/nowhere/containerd.sock"))
        .await
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("/nowhere/containerd.sock") && !error.contains('\n'),
        "{error}"
    );
}

#[tokio::test]
async fn a_docker_schema_2_image_is_present_as_if_pulled() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Docker)?;
    let runtime = world.runtime().await?;
    warm(&runtime, &image, Depth::Present, HOUR).await?;
    runtime.pull(&image.reference, None).await?;
    assert_eq!(world.layer_fetches(&image)?, 0);
    world.run(&image)?;
    runtime.remove(&image.reference).await?;
    world.until_reclaimed(&before).await
}

// Unpacking and collecting block; the lease is renewed on another thread meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_outlives_its_lease_keeps_its_layers_and_a_dropped_one_does_not()
-> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let life = Duration::from_secs(9);
    let config = Config {
        session_lease: life,
        ..Config::new(world.containerd.socket())
    };
    let runtime = Runtime::connect(config).await?;
    let mut session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    for layer in session.missing() {
        image.unpack(layer, &session.staging(layer)?)?;
        session
            .commit(layer, image.diff_id(layer), |_| Ok(()))
            .await?;
        tokio::time::sleep(life).await;
        world.collect()?;
        assert_eq!(world.inventory().await?.snapshots.len(), layer + 1);
    }
    drop(session);
    tokio::time::sleep(life + Duration::from_secs(1)).await;
    world.collect()?;
    assert_eq!(world.inventory().await?.snapshots, before.snapshots);
    assert_eq!(runtime.sweep().await?.staging, 1);
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn a_dropped_session_leaves_its_layers_to_the_next_and_nothing_else() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    let mut session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    for layer in session.missing() {
        image.unpack(layer, &session.staging(layer)?)?;
    }
    session.commit(0, image.diff_id(0), |_| Ok(())).await?;
    let mut writer = session.blob(1).await?.expect("not there yet");
    writer.write(&image.blob(1)[..1000]).await?;
    drop((writer, session));
    assert_eq!(runtime.sweep().await?.staging, 1);
    world.collect()?;
    let session = runtime
        .begin(image.spec.clone(), Depth::Present, HOUR)
        .await?;
    assert_eq!(session.missing(), [1, 2]);
    let mut writer = session.blob(1).await?.expect("not there yet");
    writer.write(image.blob(1)).await?;
    writer.commit().await?;
    session.abandon().await?;
    world.until_reclaimed(&before).await
}

#[tokio::test]
async fn a_dropped_pull_stops() -> Result<()> {
    let world = World::start(Version::V1_6, Access::Open, Settings::default()).await?;
    let before = world.inventory().await?;
    let image = world.push("team/app", "1", Kind::Manifest)?;
    let runtime = world.runtime().await?;
    // A fast pull may be over in the runtime before it hears that nobody waits: it is tried again.
    for after in 5..=24 {
        let pull = runtime.pull(&image.reference, None);
        let dropped = tokio::time::timeout(Duration::from_millis(after), pull).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let stopped = dropped.is_err() && runtime.status(&image.reference).await?.is_none();
        if !stopped {
            runtime.remove(&image.reference).await?;
        }
        world.until_reclaimed(&before).await?;
        if stopped {
            return Ok(());
        }
    }
    panic!("no pull was ever stopped");
}
