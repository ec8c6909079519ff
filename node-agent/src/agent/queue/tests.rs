use headstart_api::CacheItem;

use super::*;

fn model(letter: char) -> Wish {
    let commit = letter.to_string().repeat(40);
    let item = CacheItem {
        model: Some(format!("org/m@{commit}")),
        ..CacheItem::default()
    };
    Wish::read(&item).unwrap()
}

fn image(letter: char, name: Option<&str>) -> Wish {
    let digest = letter.to_string().repeat(64);
    let item = CacheItem {
        image: Some(format!("docker.io/org/app@sha256:{digest}")),
        image_name: name.map(str::to_owned),
        ..CacheItem::default()
    };
    Wish::read(&item).unwrap()
}

fn open() -> (Queue, Instant) {
    let mut queue = Queue::default();
    queue.steer(Course::Open);
    queue.runtime(Runtime::There);
    (queue, Instant::now())
}

fn started(steps: &[Step]) -> Vec<String> {
    let starts = steps.iter().map(|step| match step {
        Step::Start { key, .. } => key.to_string(),
        Step::Look { key } => format!("look {key}"),
    });
    starts.collect()
}

fn keys(wishes: &[Wish]) -> Vec<String> {
    wishes.iter().map(|wish| wish.key.to_string()).collect()
}

fn failed(again: Again) -> Ended {
    let said = "no".to_owned();
    Ended::Failed { said, again }
}

fn stop_of(queue: &Queue, wish: &Wish) -> CancellationToken {
    match &queue.entries[&wish.key].phase {
        Phase::Running { stop, .. } => stop.clone(),
        _ => panic!("{} does not run", wish.key),
    }
}

#[test]
fn the_order_of_the_intent_is_the_order_of_priority_and_changes_while_items_run() {
    let (mut queue, now) = open();
    let [a, b, c] = ['a', 'b', 'c'].map(model);
    queue.take(vec![c.clone(), a.clone()], now);
    assert_eq!(started(&queue.steps(now)), keys(&[c.clone(), a.clone()]));
    let priority = queue.entries[&a.key].priority.clone();
    assert!(priority.rank() > queue.entries[&c.key].priority.rank());
    queue.take(vec![a.clone(), b.clone(), c.clone()], now);
    assert_eq!(started(&queue.steps(now)), keys(std::slice::from_ref(&b)));
    assert!(priority.rank() < queue.entries[&b.key].priority.rank());
    assert!(!stop_of(&queue, &c).is_cancelled());
}

#[test]
fn what_is_no_longer_wanted_is_stopped_unless_a_pod_waits_for_it() {
    let (mut queue, now) = open();
    let [a, b] = ['a', 'b'].map(model);
    queue.take(vec![a.clone(), b.clone()], now);
    queue.steps(now);
    queue.want(b.clone(), None, now);
    queue.take(vec![], now);
    queue.steps(now);
    assert!(stop_of(&queue, &a).is_cancelled());
    assert!(!stop_of(&queue, &b).is_cancelled());
    assert_eq!(queue.entries[&b.key].priority.rank(), 0);
    queue.ended(&a.key, Ended::Stopped, now);
    assert!(queue.steps(now).is_empty());
    assert!(!queue.entries.contains_key(&a.key));

    // The kubelet gives up a call and asks again: meanwhile it goes on.
    queue.unwant(&b.key, now);
    queue.steps(now + LINGER / 2);
    assert!(!stop_of(&queue, &b).is_cancelled());
    queue.steps(now + LINGER);
    assert!(stop_of(&queue, &b).is_cancelled());
}

#[test]
fn a_pod_that_waits_goes_before_a_full_house() {
    let (mut queue, now) = open();
    let wishes: Vec<Wish> = "0123456789ab".chars().map(model).collect();
    queue.take(wishes.clone(), now);
    assert_eq!(started(&queue.steps(now)), keys(&wishes[..AT_ONCE]));
    queue.want(wishes[11].clone(), None, now);
    assert_eq!(started(&queue.steps(now)), keys(&wishes[11..]));
    queue.ended(&wishes[0].key, Ended::Ready, now);
    queue.ended(&wishes[1].key, Ended::Ready, now);
    assert_eq!(started(&queue.steps(now)), keys(&wishes[8..9]));
}

#[test]
fn pauses_double_and_what_a_source_asks_for_is_kept() {
    let (mut queue, mut now) = open();
    let a = model('a');
    queue.take(vec![a.clone()], now);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        assert_eq!(queue.steps(now).len(), 1);
        queue.ended(&a.key, failed(Again::Soon), now);
        let due = queue.due(now).unwrap();
        assert!(queue.steps(due - Duration::from_millis(1)).is_empty());
        pauses.push((due - now).as_secs_f64());
        now = due;
    }
    assert!((0.75..1.25).contains(&pauses[0]), "{pauses:?}");
    assert!((3.0..5.0).contains(&pauses[2]), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 75.0), "{pauses:?}");
    queue.steps(now);
    let asked = Duration::from_secs(300);
    queue.ended(&a.key, failed(Again::After(asked)), now);
    assert_eq!(queue.due(now), Some(now + asked));
}

#[test]
fn what_failed_for_good_is_tried_again_for_a_new_intent_or_another_token() {
    let (mut queue, now) = open();
    let a = model('a');
    queue.take(vec![a.clone()], now);
    queue.steps(now);
    queue.ended(&a.key, failed(Again::Lasting), now);
    assert!(queue.steps(now).is_empty());
    queue.want(a.clone(), None, now);
    assert!(queue.steps(now).is_empty());
    queue.want(a.clone(), Some("hf_abc".parse().unwrap()), now);
    assert_eq!(queue.steps(now).len(), 1);
    queue.ended(&a.key, failed(Again::Lasting), now);
    queue.take(vec![a.clone()], now);
    assert_eq!(queue.steps(now).len(), 1);
}

#[test]
fn images_wait_for_the_runtime_while_models_go_ahead() {
    let (mut queue, now) = open();
    queue.runtime(Runtime::Awaited);
    let (app, a) = (image('a', None), model('a'));
    queue.take(vec![app.clone(), a.clone()], now);
    assert_eq!(started(&queue.steps(now)), keys(&[a]));
    queue.runtime(Runtime::There);
    assert_eq!(started(&queue.steps(now)), keys(&[app]));
}

#[test]
fn nothing_new_begins_once_it_closes_and_what_runs_goes_on() {
    let (mut queue, now) = open();
    let [a, b] = ['a', 'b'].map(model);
    queue.take(vec![a.clone()], now);
    queue.steps(now);
    queue.steer(Course::Closing);
    queue.take(vec![a.clone(), b], now);
    assert!(queue.steps(now).is_empty());
    assert!(queue.is_busy() && !stop_of(&queue, &a).is_cancelled());
    queue.hurry();
    assert!(stop_of(&queue, &a).is_cancelled());
    queue.ended(&a.key, Ended::Stopped, now);
    assert!(queue.steps(now).is_empty() && !queue.is_busy());
}

#[test]
fn a_network_that_comes_up_ends_every_pause_and_every_attempt_without_a_byte() {
    let (mut queue, now) = open();
    let [a, b] = ['a', 'b'].map(model);
    queue.take(vec![a.clone(), b.clone()], now);
    queue.steps(now);
    queue.ended(&a.key, failed(Again::Soon), now);
    queue.kick(now);
    assert!(stop_of(&queue, &b).is_cancelled());
    queue.ended(&b.key, Ended::Stopped, now);
    assert_eq!(started(&queue.steps(now)), keys(&[a, b]));
}

#[test]
fn what_is_ready_is_looked_at_and_brought_again_when_it_is_gone() {
    let (mut queue, now) = open();
    let a = model('a');
    queue.take(vec![a.clone()], now);
    queue.steps(now);
    queue.ended(&a.key, Ended::Ready, now);
    assert!(queue.steps(now).is_empty());
    let later = queue.due(now).unwrap();
    assert_eq!(started(&queue.steps(later)), [format!("look {}", a.key)]);
    queue.looked(&a.key, false, later);
    assert_eq!(started(&queue.steps(later)), keys(&[a]));
}

#[test]
fn an_image_that_is_there_is_done_again_for_another_name() {
    let (mut queue, now) = open();
    queue.take(vec![image('a', Some("org/app:v1"))], now);
    queue.steps(now);
    let key = image('a', None).key;
    queue.ended(&key, Ended::Ready, now);
    queue.take(vec![image('a', Some("org/app:v1"))], now);
    assert!(queue.steps(now).is_empty());
    queue.take(vec![image('a', Some("org/app:v2"))], now);
    assert_eq!(queue.steps(now).len(), 1);
}

#[test]
fn on_a_machine_that_is_taken_away_only_what_a_pod_waits_for_goes_on_or_begins() {
    let (mut queue, now) = open();
    let [wished, waited, later] = ['a', 'b', 'c'].map(model);
    queue.want(waited.clone(), None, now);
    queue.take(vec![wished.clone(), waited.clone()], now);
    assert_eq!(queue.steps(now).len(), 2);
    queue.ends(Some(now + Duration::from_secs(120)));
    queue.take(vec![wished.clone(), waited.clone(), later.clone()], now);
    assert_eq!(started(&queue.steps(now)), Vec::<String>::new());
    assert!(stop_of(&queue, &wished).is_cancelled());
    assert!(!stop_of(&queue, &waited).is_cancelled());
    queue.ended(&wished.key, Ended::Stopped, now);
    assert_eq!(started(&queue.steps(now)), Vec::<String>::new());
    queue.want(later.clone(), None, now);
    assert_eq!(started(&queue.steps(now)), keys(&[later]));
    // A notice that is taken back leaves nothing behind.
    queue.ends(None);
    assert_eq!(started(&queue.steps(now)), keys(&[wished]));
}

#[test]
fn what_cannot_be_there_before_the_end_does_not_begin() {
    let (mut queue, now) = open();
    let [done, small, large] = ['a', 'b', 'c'].map(model);
    for wish in [&done, &small, &large] {
        queue.want(wish.clone(), None, now);
    }
    queue.ends(Some(now + Duration::from_secs(30)));
    let fact = |queue: &mut Queue, wish: &Wish, total, took: Option<u64>| {
        let fact = &mut queue.entries.get_mut(&wish.key).unwrap().fact;
        (fact.total, fact.took) = (total, took.map(Duration::from_secs));
    };
    // 100 bytes a second.
    fact(&mut queue, &done, 1000, Some(10));
    fact(&mut queue, &small, 2900, None);
    fact(&mut queue, &large, 3100, None);
    assert_eq!(started(&queue.steps(now)), keys(&[done, small]));
    assert!(queue.delay().contains("taken away"));
    assert_eq!(queue.due(now), None);
    let over = now + Duration::from_secs(30);
    queue.want(model('d'), None, over);
    assert_eq!(started(&queue.steps(over)), Vec::<String>::new());
}
