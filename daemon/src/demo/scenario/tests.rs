use super::*;
use crate::demo::report::sample::scenario;

#[test]
fn a_transfer_takes_as_long_here_as_the_scales_say() {
    let scales = Scales {
        time: 6.0,
        bytes: 100.0,
    };
    let (full, rate) = (Bytes(16_000_000_000), Rate(625_000_000));
    let real = scales.bytes(full).0 as f64 / scales.rate(rate).0 as f64;
    let stands_for = scales.full(Duration::from_secs_f64(real));
    let should = full.0 as f64 / rate.0 as f64;
    assert!(
        (stands_for.0 - should).abs() < 1e-3,
        "{stands_for} {should}"
    );
    assert_eq!(scales.rate(rate), Rate(37_500_000));
    assert_eq!(scales.real(Seconds(90.0)), Duration::from_secs(15));
}

#[test]
fn the_default_deploy_hides_all_of_its_bytes_and_plays_in_under_two_minutes() {
    let scenario = scenario();
    // 90 + 10.8 GB / (3 x 50 MB/s) + 16 GB / (4 x 50 MB/s) + 57.
    assert_eq!(
        scenario.expected_today(),
        Seconds(90.0 + 72.0 + 80.0 + 57.0)
    );
    // 26.8 GB / 625 MB/s = 43 s fit into the 73 s between network and GPU.
    assert_eq!(scenario.expected_headstart(), Seconds(90.0 + 57.0));
    let scales = Scales::fitting(&scenario, None, None).unwrap();
    let both = scenario.expected_today() + scenario.expected_headstart();
    assert!(scales.real(both) <= Duration::from_secs_f64(REAL_SECONDS));
    assert!(scales.rate(scenario.network.link) <= EASY_RATE);
}

#[test]
fn every_cloud_and_link_plays_in_about_the_same_time_at_a_rate_two_cores_can_serve() {
    for cloud in [Cloud::Eks, Cloud::Gke, Cloud::Aks] {
        for link in [1_250_000, 125_000_000, 625_000_000, 12_500_000_000] {
            let mut scenario = scenario();
            scenario.boot = cloud.boot();
            scenario.network.link = Rate(link);
            let scales = Scales::fitting(&scenario, None, None).unwrap();
            let both = scenario.expected_today() + scenario.expected_headstart();
            let real = scales.real(both).as_secs_f64();
            assert!(real <= REAL_SECONDS, "{cloud:?} {link}: {real} s");
            assert!(scales.rate(Rate(link)) <= EASY_RATE, "{cloud:?} {link}");
        }
    }
}

#[test]
fn a_link_that_is_too_thin_for_headstart_exposes_what_does_not_fit() {
    let mut scenario = scenario();
    scenario.network.link = Rate(250_000_000);
    // 17 + 26.8 GB / 250 MB/s = 124.2, which is 34.2 s after the GPU.
    assert_eq!(scenario.expected_headstart(), Seconds(124.2 + 57.0));
}

#[test]
fn what_cannot_be_played_is_refused_with_the_flag_to_change() {
    let refused = |time, bytes| {
        let scales = Scales::fitting(&scenario(), Some(time), Some(bytes));
        scales.unwrap_err().to_string()
    };
    assert!(
        refused(6.0, 1.0).starts_with("--byte-scale 1: "),
        "{}",
        refused(6.0, 1.0)
    );
    assert!(refused(1.0, 1e5).contains("--time-scale"));
    for seconds in [[0.0, 1.0, 2.0], [5.0, 4.0, 6.0], [1.0, 3.0, 2.0]] {
        assert!(
            Boot::own(seconds)
                .unwrap_err()
                .to_string()
                .starts_with("--boot ")
        );
    }
}

#[test]
fn scales_are_numbers_a_person_can_divide_by() {
    for (value, round) in [
        (0.2, 1.0),
        (1.01, 1.5),
        (62.5, 80.0),
        (78.2, 80.0),
        (93.0, 100.0),
        (100.0, 100.0),
        (101.0, 150.0),
    ] {
        assert_eq!(round_up(value), round, "{value}");
    }
}

#[test]
fn seconds_and_rates_print_as_people_write_them() {
    assert_eq!(Seconds(-0.04).to_string(), "0.0 s");
    assert_eq!(format!("{:>8}", Seconds(12.34)), "  12.3 s");
    assert_eq!(bits(Rate(625_000_000)), "5 Gb/s");
    assert_eq!(bits(Rate(46_875_000)), "375 Mb/s");
}
