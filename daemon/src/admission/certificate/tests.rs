//! Renewal as time goes by, and what is served meanwhile.

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{ServerName, UnixTime};

use super::*;

const START: u64 = 1_780_000_000;
const DAY: u64 = 86_400;

fn names() -> Vec<String> {
    vec!["headstart.headstart-system.svc".to_owned()]
}

/// What is kept after one look at `now`.
fn look(kept: Option<&Kept>, now: u64) -> (Due, Option<Kept>) {
    let due = due(kept, &names(), now);
    let next = Kept::after(kept, due, &names(), now).unwrap();
    (due, next.or_else(|| kept.cloned()))
}

/// Whether a caller that trusts `bundle` accepts what is served.
fn accepts(bundle: &str, kept: &Kept, now: u64) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), ring);
    let verifier = verifier.build().unwrap();
    let certified = kept.certified("the test").unwrap();
    let name = ServerName::try_from(names()[0].clone()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier
        .verify_server_cert(&certified.cert[0], &[], &name, &[], now)
        .is_ok()
}

#[test]
fn for_twenty_years_every_caller_that_read_the_bundle_a_minute_ago_accepts_what_is_served() {
    let (first, kept) = look(None, START);
    assert_eq!(first, Due::Everything);
    let mut kept = kept.unwrap();
    let (mut renewed, mut authorities) = (0, 0);
    let mut now = START;
    while now < START + 20 * 365 * DAY {
        // While an authority is new every minute is looked at, else every third day.
        let newest = kept.authorities.last().unwrap().made;
        now += if kept.serving.signed_by == newest {
            3 * DAY
        } else {
            60
        };
        let before = kept.bundle();
        let (due, next) = look(Some(&kept), now);
        kept = next.unwrap();
        match due {
            Due::Nothing => {}
            Due::Serving => renewed += 1,
            Due::Authority => authorities += 1,
            Due::Everything => panic!("all was lost at {now}"),
        }
        assert!(
            accepts(&before, &kept, now),
            "not accepted at {now}, {due:?}"
        );
        assert!(accepts(&kept.bundle(), &kept, now));
    }
    assert!(renewed > 50, "{renewed} renewals");
    assert!(authorities >= 1, "{authorities} new authorities");
}

#[test]
fn renewal_is_due_a_third_of_the_life_before_the_end_and_for_other_names() {
    let (_, kept) = look(None, START);
    let kept = kept.unwrap();
    assert_eq!(look(Some(&kept), START + 59 * DAY).0, Due::Nothing);
    assert_eq!(look(Some(&kept), START + 60 * DAY).0, Due::Serving);
    let others = vec!["other.svc".to_owned()];
    assert_eq!(due(Some(&kept), &others, START + DAY), Due::Serving);
    assert_eq!(look(Some(&kept), START + 4000 * DAY).0, Due::Everything);
    // A clock that was ahead is no reason to start anew.
    assert_eq!(look(Some(&kept), START - DAY).0, Due::Nothing);
}

#[test]
fn a_new_authority_signs_only_once_callers_know_it() {
    let (_, kept) = look(None, START);
    let mut kept = kept.unwrap();
    let late = START + 2500 * DAY;
    kept.serving = Leaf::make(&kept.authorities[0], &names(), late - DAY).unwrap();
    let (due, next) = look(Some(&kept), late);
    assert_eq!(due, Due::Authority);
    let next = next.unwrap();
    assert_eq!(next.authorities.len(), 2);
    assert_eq!(next.serving, kept.serving);
    assert_eq!(look(Some(&next), late + 60).0, Due::Nothing);
    let (due, last) = look(Some(&next), late + 600);
    assert_eq!(due, Due::Serving);
    assert_eq!(last.unwrap().serving.signed_by, late);
}

#[test]
fn what_is_no_certificate_is_an_error_that_says_where() {
    let error = certified("/certs", b"nonsense", b"").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("/certs holds no usable certificate"),
        "{error}"
    );
    let made = Kept::after(None, Due::Everything, &["not a name!".to_owned()], START);
    assert!(made.is_ok() || made.unwrap_err().to_string().contains("not a name!"));
}
