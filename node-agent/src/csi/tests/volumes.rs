//! Volumes from the first call to the last.

use super::*;

fn snapshot(world: &World, repo: &str) -> String {
    let begun = world.weights.begun.lock().unwrap();
    let asked = begun
        .iter()
        .rev()
        .find(|asked| asked.model.repo.as_str() == repo);
    let plan = &asked.unwrap().plan;
    format!("{}/snapshots/{}", plan.repo.cache_dir(), plan.commit)
}

#[tokio::test]
async fn a_volume_shows_the_models_asked_for_and_nothing_is_left_of_it_afterwards() {
    let world = World::new().await;
    let mut plugin = world.serve(quick()).await;
    let both = format!("{OPEN},{GATED}");
    let request = with_token(world.request("p", &both), "hf_right");
    let (weights, mut waiting) = (world.weights.clone(), plugin.node.clone());
    let asked = request.clone();
    let call = tokio::spawn(async move { waiting.node_publish_volume(asked).await });
    until(async || (weights.begun().len() == 2).then_some(())).await;
    weights.arrive();
    call.await.unwrap().unwrap();
    // The agent's own token would do for what anybody may read.
    let begun = [
        ("org/open".to_owned(), false),
        ("org/gated".to_owned(), true),
    ];
    assert!(begun.iter().all(|one| weights.begun().contains(one)));

    let mounted = world.mounted("p");
    let [(at, view, Access::Write), gated, open] = &mounted[..] else {
        panic!("{mounted:?}");
    };
    assert!(at.is_empty() && view.starts_with(world.store.root().join("views")));
    for ((at, tree, access), repo) in [(gated, "org--gated"), (open, "org--open")] {
        assert!(
            at.starts_with(&format!("models--{repo}/.headstart-")),
            "{at}"
        );
        assert!(tree.starts_with(world.store.root().join("models")));
        assert_eq!(*access, Access::Read);
    }
    for repo in ["org/open", "org/gated"] {
        let snapshot = snapshot(&world, repo);
        let config = world.read("p", &format!("{snapshot}/config.json")).unwrap();
        assert_eq!(config, format!("{{\"of\": \"{repo}\"}}").as_bytes());
        let weights = world.read("p", &format!("{snapshot}/model.safetensors"));
        assert_eq!(weights.unwrap().len(), 300_000);
        let main = view.join(repo.replace('/', "--").replace("org", "models--org"));
        assert_eq!(
            fs::read_to_string(main.join("refs/main")).unwrap().len(),
            40
        );
    }
    plugin.publish(request.clone()).await.unwrap();
    assert_eq!(world.metrics.count(Outcome::Again), 1);
    assert_eq!(world.mounted("p"), mounted);
    fs::write(view.join("what-the-pod-wrote"), "x").unwrap();

    for _ in 0..2 {
        plugin.unpublish(&request).await;
        assert!(world.mounted("p").is_empty());
        assert!(!world.target("p").exists());
        assert!(!world.store.root().join("views/csi-p").exists());
    }
    plugin.end().await;
}

#[tokio::test]
async fn a_waiting_call_tells_how_far_it_is_and_the_next_one_mounts() {
    let world = World::new().await;
    let mut plugin = world.serve(quick()).await;
    let request = world.request("p", OPEN);
    let (weights, mut waiting) = (world.weights.clone(), plugin.node.clone());
    let asked = request.clone();
    let call = tokio::spawn(async move { waiting.node_publish_volume(asked).await });
    until(async || (!weights.begun().is_empty()).then_some(())).await;
    weights.come(150_000);
    let told = call.await.unwrap().unwrap_err();
    assert_eq!(told.code(), Code::Aborted);
    assert!(
        told.message().contains("org/open: 49 % of 300 kB"),
        "{told}"
    );
    assert!(world.mounted("p").is_empty());
    // Held for the whole of what is allowed, since it was told once.
    let began = std::time::Instant::now();
    let told = plugin.publish(request.clone()).await.unwrap_err();
    assert_eq!(told.code(), Code::Aborted);
    assert!(began.elapsed() >= quick().hold.most, "{told}");
    weights.arrive();
    plugin.publish(request.clone()).await.unwrap();
    assert_eq!(world.mounted("p").len(), 2);
    // One that is taken away while it waits leaves nothing either.
    let other = world.request("q", GATED);
    let other = with_token(other, "hf_right");
    plugin.publish(other.clone()).await.unwrap_err();
    plugin.unpublish(&other).await;
    assert!(!world.store.root().join("views/csi-q").exists());
}

#[tokio::test]
async fn a_failed_fetch_is_begun_again_within_the_call_and_one_that_is_hopeless_is_not_waited_for()
{
    let world = World::new().await;
    let rules = Rules {
        hold: HoldRules {
            most: WAIT,
            first: WAIT,
            deadline: WAIT,
        },
        ..quick()
    };
    let mut plugin = world.serve(rules).await;
    let (weights, mut waiting) = (world.weights.clone(), plugin.node.clone());
    let asked = world.request("p", OPEN);
    let call = tokio::spawn(async move { waiting.node_publish_volume(asked).await });
    for tries in 1..3 {
        until(async || (weights.begun().len() == tries).then_some(())).await;
        weights.end(|asked| match tries {
            1 => Stage::Failed {
                said: "the link broke".to_owned(),
                is_transient: true,
            },
            _ => {
                weights.publish(&asked.plan, usize::MAX);
                weights.ready(&asked.plan)
            }
        });
    }
    call.await.unwrap().unwrap();
    assert_eq!(world.metrics.count(Outcome::Weights), 1);

    let asked = with_token(world.request("q", GATED), "hf_right");
    let mut waiting = plugin.node.clone();
    let call = tokio::spawn(async move { waiting.node_publish_volume(asked).await });
    until(async || (weights.begun().len() == 3).then_some(())).await;
    weights.end(|_| Stage::Failed {
        said: "no room for 300 kB".to_owned(),
        is_transient: false,
    });
    call.await.unwrap().unwrap();
    assert_eq!(world.metrics.count(Outcome::Empty), 1);
    assert!(world.problem.borrow().contains("no room for 300 kB"));
    assert_eq!(world.mounted("q").len(), 1);
    plugin.unpublish(&world.request("q", GATED)).await;
}

#[tokio::test]
async fn after_the_deadline_a_pod_gets_what_is_there_and_a_cache_to_fill() {
    let world = World::new().await;
    let mut rules = quick();
    rules.hold.deadline = Duration::from_secs(2);
    rules.hold.most = WAIT;
    rules.hold.first = WAIT;
    let plugin = world.serve(rules).await;
    let (weights, mut waiting) = (world.weights.clone(), plugin.node.clone());
    let asked = world.request("p", OPEN);
    let call = tokio::spawn(async move { waiting.node_publish_volume(asked).await });
    until(async || (!weights.begun().is_empty()).then_some(())).await;
    let plan = weights.begun.lock().unwrap()[0].plan.clone();
    weights.publish(&plan, 1);
    call.await.unwrap().unwrap();
    assert_eq!(world.metrics.count(Outcome::Partial), 1);
    assert!(world.problem.borrow().contains("tenant/p"));
    let snapshot = snapshot(&world, "org/open");
    assert!(world.read("p", &format!("{snapshot}/config.json")).is_ok());
    let view = world.view("p");
    assert!(
        view.join(&snapshot)
            .join("model.safetensors")
            .symlink_metadata()
            .is_err()
    );
    let parts = world.mounted("p")[1].1.clone();
    assert!(parts.starts_with(world.store.root().join("views/csi-p")));
    // What a client needs to know what is missing.
    let trees = fs::read_dir(view.join("models--org--open/trees")).unwrap();
    assert_eq!(trees.count(), 1);
}

#[tokio::test]
async fn a_gated_model_is_for_whose_own_token_opens_it_whoever_has_brought_it() {
    let world = World::new().await;
    let mut plugin = world.serve(quick()).await;
    let ask = |pod: &str, token: Option<&str>| match token {
        Some(token) => with_token(world.request(pod, GATED), token),
        None => world.request(pod, GATED),
    };
    let mut refusals = Vec::new();
    for is_cached in [false, true] {
        if is_cached {
            let (weights, mut waiting) = (world.weights.clone(), plugin.node.clone());
            let asked = ask("right", Some("hf_right"));
            let call = tokio::spawn(async move { waiting.node_publish_volume(asked).await });
            until(async || (!weights.begun().is_empty()).then_some(())).await;
            weights.arrive();
            call.await.unwrap().unwrap();
            world.weights.remember(GATED, None);
        }
        for token in [None, Some("hf_other"), Some("hf_unknown")] {
            let refused = plugin.publish(ask("other", token)).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            let said = refused.message();
            assert!(said.contains("nodePublishSecretRef"), "{said}");
            assert!(!said.contains("hf_o") && !said.contains("hf_u"), "{said}");
            refusals.push(said.to_owned());
        }
        assert!(!world.store.root().join("views/csi-other").exists());
    }
    assert_eq!(refusals[..3], refusals[3..]);
    assert_eq!(world.weights.begun().len(), 1);
    let mut harmless = ask("other", None);
    let choice = (CSI_ON_REFUSAL.to_owned(), "empty".to_owned());
    harmless.volume_context.extend([choice]);
    plugin.publish(harmless).await.unwrap();
    assert_eq!(world.metrics.count(Outcome::Empty), 1);
    assert!(world.is_empty(&world.view("other")));
    // Another pod of the first tenant needs no new bytes.
    plugin
        .publish(ask("again", Some("hf_right")))
        .await
        .unwrap();
    assert_eq!(world.mounted("again").len(), 2);
}

#[tokio::test]
async fn without_the_hub_a_pod_gets_what_it_was_allowed_before_or_an_empty_cache() {
    let world = World::new().await;
    let mut plugin = world.serve(quick()).await;
    let gated = |pod: &str| with_token(world.request(pod, GATED), "hf_right");
    for request in [gated("p"), world.request("q", OPEN)] {
        plugin.publish(request.clone()).await.unwrap_err();
        world.weights.arrive();
        plugin.publish(request).await.unwrap();
        let now = super::super::grants::now();
        let begun = world.weights.begun().last().unwrap().0.clone();
        let since = (begun == "org/open").then_some(now);
        world.weights.remember(&format!("hf://{begun}"), since);
    }
    plugin.end().await;
    world.goes_away();
    // Those that are remembered only as public by whoever fetched them.
    fs::remove_file(world.store.root().join("views/grants.json")).unwrap();
    let mut plugin = world.serve(quick()).await;
    plugin.publish(world.request("r", OPEN)).await.unwrap();
    assert_eq!(world.mounted("r").len(), 2);
    plugin.publish(gated("s")).await.unwrap();
    assert!(world.is_empty(&world.view("s")));
    assert!(world.problem.borrow().contains("tenant/s"));
    let mut patient = quick();
    patient.without_hub = WithoutHub::Wait;
    plugin.end().await;
    let mut plugin = world.serve(patient).await;
    let waits = plugin.publish(gated("t")).await.unwrap_err();
    assert_eq!(waits.code(), Code::Aborted, "{waits}");
    assert!(waits.message().contains("503"), "{waits}");
}

#[tokio::test]
async fn a_new_agent_finds_what_is_mounted_holds_it_and_clears_what_no_pod_has() {
    let world = World::new().await;
    let mut plugin = world.serve(quick()).await;
    let (kept, gone) = (world.request("kept", OPEN), world.request("gone", OPEN));
    plugin.publish(kept.clone()).await.unwrap_err();
    world.weights.arrive();
    plugin.publish(kept.clone()).await.unwrap();
    plugin.publish(gone.clone()).await.unwrap();
    plugin.end().await;
    // The kubelet took its pod's directory away while nobody was there to be asked.
    world.mounts.detach(&world.target("gone")).unwrap();
    fs::remove_dir_all(world.kubelet().join("pods/gone")).unwrap();
    // Half a volume, of an agent killed in between.
    let half = world.request("half", OPEN);
    let record = world.store.root().join("views/csi-kept/record.json");
    let text = fs::read_to_string(record).unwrap().replace("kept", "half");
    let directory = world.store.root().join("views/csi-half");
    fs::create_dir_all(directory.join("view/hub")).unwrap();
    fs::write(directory.join("record.json"), text).unwrap();

    let mut plugin = world.serve(quick()).await;
    assert!(!world.store.root().join("views/csi-gone").exists());
    let plan = world.weights.begun.lock().unwrap()[0].plan.id().to_string();
    let mounted = world.mounted("kept");
    plugin.publish(kept.clone()).await.unwrap();
    assert_eq!(world.metrics.count(Outcome::Again), 1);
    assert_eq!(world.mounted("kept"), mounted);
    assert!(world.store.is_in_use(&plan));
    plugin.publish(half.clone()).await.unwrap();
    assert_eq!(world.mounted("half").len(), 2);
    plugin.unpublish(&half).await;
    plugin.unpublish(&kept).await;
    assert!(!world.store.is_in_use(&plan));
    assert!(world.mounts.0.lock().unwrap().is_empty());
}
