use super::*;

#[test]
fn chain_ids_follow_the_specifications_formula() {
    // `printf 'sha256:<a> sha256:<b>' | sha256sum`, and again with the result and the third.
    let diff_ids = [Sha256([0x11; 32]), Sha256([0x22; 32]), Sha256([0x33; 32])];
    let chain: Vec<String> = chain_ids(&diff_ids).iter().map(Sha256::to_string).collect();
    assert_eq!(
        chain,
        [
            "1111111111111111111111111111111111111111111111111111111111111111",
            "9932074217c35353d2e03a3f5a86549f7c67bfeb0ba53e23d69f4d4c8f7958f5",
            "50127c0d6b338be78246434b4bce23ecf75e505158ea0bbd15effeb162fbf3ec",
        ]
    );
    assert!(chain_ids(&[]).is_empty());
}
