use expect_test::expect;

use super::*;
use crate::ledger::tests::{hidden, moment};

#[test]
fn claims_caches_and_deploys_are_shown_with_what_they_wait_for() {
    let (mut objects, _) = hidden(200.0);
    let waiting = crate::ledger::tests::pod(None, serde_json::json!({"phase": "Pending"}));
    let mut waiting = (*waiting).clone();
    waiting.metadata.name = Some("vllm-1".to_owned());
    waiting.metadata.uid = Some("other".to_owned());
    objects.pods.push(Arc::new(waiting));
    expect![[r#"
        CLAIM  NODE  TYPE       CAPACITY   USD/h  REACHED            AGE  FOR
        c1     n1    g6.xlarge  on-demand   0.80  gpu-allocatable  198 s  serving/vllm-0

        CACHE  VERIFIED  COMING  FAILED  ROOM  REPORTED  FETCHING
        n1            2       0       0

        DEPLOY          NODE  CACHE    STATE                 TIME  EXPOSED  HIDDEN
        serving/vllm-1        unknown  waits for requested  200 s    0.0 s   0.0 s
        serving/vllm-0  n1    cold     serves               147 s    0.0 s  52.0 s
    "#]]
    .assert_eq(&top(&objects, None, moment(200.0)));
    let elsewhere = top(&objects, Some("elsewhere"), moment(200.0));
    assert!(elsewhere.ends_with("\nno deploys\n"), "{elsewhere}");
}

#[test]
fn an_empty_cluster_says_so() {
    let text = top(&Objects::default(), None, moment(0.0));
    assert_eq!(text, "no claims\n\nno caches\n\nno deploys\n");
}
