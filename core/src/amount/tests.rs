use proptest::prelude::*;

use super::*;

fn container(role: Role, cpu: i64, memory: i64) -> Container {
    Container {
        requests: Resources::new().with(CPU, cpu).with(MEMORY, memory),
        role,
    }
}

fn nothing() -> Resources {
    Resources::new()
}

#[test]
fn amounts_are_read_as_the_api_writes_them_and_rounded_up() {
    for (resource, text, amount) in [
        (CPU, "2", 2000),
        (CPU, "0.5", 500),
        (CPU, "500m", 500),
        (CPU, "1m", 1),
        (CPU, "0.1m", 1),
        (CPU, "100u", 1),
        (CPU, "1n", 1),
        (CPU, "1e3", 1_000_000),
        (CPU, ".5", 500),
        (CPU, "2.", 2000),
        (CPU, "+3", 3000),
        (MEMORY, "64Mi", 64 << 20),
        (MEMORY, "1.5Gi", 3 << 29),
        (MEMORY, "1G", 1_000_000_000),
        (MEMORY, "1k", 1000),
        (MEMORY, "128974848", 128_974_848),
        (MEMORY, "129e6", 129_000_000),
        (MEMORY, "129E6", 129_000_000),
        (MEMORY, "1E", 1_000_000_000_000_000_000),
        (MEMORY, "7Ei", 7 << 60),
        (MEMORY, "123456m", 124),
        (NVIDIA_GPU, "8", 8),
        (NVIDIA_GPU, "0", 0),
        (NVIDIA_GPU, "000", 0),
        (NVIDIA_GPU, "1e-2", 1),
        (MEMORY, "9223372036854775807", i64::MAX),
    ] {
        assert_eq!(parse(resource, text), Ok(amount), "{resource} {text}");
    }
}

#[test]
fn what_is_no_amount_is_refused_with_what_was_found_and_a_form_that_is_right() {
    for (text, problem) in [
        ("", "is not a number"),
        (".", "is not a number"),
        ("Gi", "is not a number"),
        ("1.2.3", "is not a number"),
        ("1-2", "is not a number"),
        ("++1", "is not a number"),
        ("NaN", "is not a number"),
        ("inf", "is not a number"),
        ("-1", "is below zero"),
        ("-0.5Gi", "is below zero"),
        ("1K", "has a suffix that is not known"),
        ("1GB", "has a suffix that is not known"),
        ("1 Gi", "has a suffix that is not known"),
        ("1e", "has a suffix that is not known"),
        ("1e999", "has a suffix that is not known"),
        ("8Ei", "is too large"),
        ("10E", "is too large"),
        ("9223372036854775808", "is too large"),
        ("99999999999999999999999999999999", "is too large"),
    ] {
        let error = parse(MEMORY, text).unwrap_err();
        assert_eq!(error.problem, problem, "{text}");
        let message = error.to_string();
        assert!(message.contains(&format!("{text:?}")), "{message}");
        assert!(message.contains("512Mi"), "{message}");
    }
    assert!(parse(CPU, "9223372036854775807").is_err());
}

// Behaviour 24: init containers and sidecars count as the kubelet counts them.
#[test]
fn init_containers_raise_the_request_only_where_they_need_more_than_what_runs_later() {
    use Role::{Init, Main};
    let containers = [
        container(Init, 3000, 10),
        container(Init, 100, 500),
        container(Main, 1000, 100),
        container(Main, 500, 100),
    ];
    let requests = pod_requests(&containers, &nothing(), &nothing());
    assert_eq!((requests.of(CPU), requests.of(MEMORY)), (3000, 500));
}

#[test]
fn a_sidecar_counts_beside_the_main_containers_and_beside_later_init_containers_only() {
    use Role::{Init, Main, Sidecar};
    let before = [
        container(Sidecar, 500, 0),
        container(Init, 1000, 0),
        container(Main, 600, 0),
    ];
    assert_eq!(pod_requests(&before, &nothing(), &nothing()).of(CPU), 1500);
    let after = [
        container(Init, 1000, 0),
        container(Sidecar, 500, 0),
        container(Main, 600, 0),
    ];
    assert_eq!(pod_requests(&after, &nothing(), &nothing()).of(CPU), 1100);
}

// Behaviour 25.
#[test]
fn requests_of_the_pod_override_the_sum_of_its_containers_for_what_they_name() {
    let containers = [
        container(Role::Main, 1000, 100),
        container(Role::Main, 1000, 100),
    ];
    let level = Resources::new().with(CPU, 1500);
    let requests = pod_requests(&containers, &level, &nothing());
    assert_eq!((requests.of(CPU), requests.of(MEMORY)), (1500, 200));
}

// Behaviour 26.
#[test]
fn overhead_is_added_after_everything_else() {
    let containers = [
        container(Role::Init, 900, 0),
        container(Role::Main, 100, 10),
    ];
    let overhead = Resources::new().with(CPU, 250).with(MEMORY, 20);
    let requests = pod_requests(&containers, &nothing(), &overhead);
    assert_eq!((requests.of(CPU), requests.of(MEMORY)), (1150, 30));
    let level = Resources::new().with(CPU, 500);
    assert_eq!(pod_requests(&containers, &level, &overhead).of(CPU), 750);
}

// Behaviour 27.
#[test]
fn an_amount_of_zero_fits_where_nobody_has_the_resource() {
    let asked = Resources::new().with(CPU, 100).with(NVIDIA_GPU, 0);
    assert!(asked.fits(&Resources::new().with(CPU, 100)));
    assert!(asked.fits(&Resources::new().with(CPU, 100).with(NVIDIA_GPU, -1)));
    assert!(
        !asked
            .clone()
            .with(NVIDIA_GPU, 1)
            .fits(&Resources::new().with(CPU, 100))
    );
    assert!(!asked.fits(&Resources::new().with(CPU, 99)));
}

#[test]
fn amounts_print_in_the_units_of_their_resource() {
    for (resource, amount, text) in [
        (CPU, 2000, "2"),
        (CPU, 1500, "1500m"),
        (MEMORY, 3 << 29, "1.5Gi"),
        (MEMORY, 64 << 20, "64Mi"),
        (NVIDIA_GPU, 8, "8"),
    ] {
        assert_eq!(display(resource, amount).to_string(), text);
    }
}

fn containers() -> impl Strategy<Value = Vec<Container>> {
    let one = (0_u8..3, 0_i64..1 << 40, 0_i64..1 << 40);
    proptest::collection::vec(one, 0..6).prop_map(|all| {
        let role = |role| [Role::Init, Role::Sidecar, Role::Main][usize::from(role)];
        let mut all: Vec<Container> = all
            .into_iter()
            .map(|(kind, cpu, memory)| container(role(kind), cpu, memory))
            .collect();
        all.sort_by_key(|container| container.role == Role::Main);
        all
    })
}

proptest! {
    #[test]
    fn any_text_is_an_amount_that_is_not_negative_or_an_error(text in "\\PC*") {
        for resource in [CPU, MEMORY, NVIDIA_GPU] {
            if let Ok(amount) = parse(resource, &text) {
                prop_assert!(amount >= 0);
            }
        }
    }

    #[test]
    fn a_longer_number_is_never_a_smaller_amount(number in 0_i64..1 << 40, fraction in 0_u32..1000) {
        let whole = parse(MEMORY, &number.to_string()).unwrap();
        let more = parse(MEMORY, &format!("{number}.{fraction:03}")).unwrap();
        prop_assert!(more == whole + i64::from(fraction > 0));
        prop_assert_eq!(parse(MEMORY, &format!("{number}Ki")).unwrap(), whole * 1024);
    }

    // Behaviour 24, in any order: what a pod asks for covers every moment of its life.
    #[test]
    fn a_pods_request_covers_every_moment_of_its_life_and_no_more(all in containers()) {
        let request = pod_requests(&all, &nothing(), &nothing()).of(CPU);
        let (mut beside, mut peak, mut running) = (0, 0, 0);
        for one in &all {
            let cpu = one.requests.of(CPU);
            match one.role {
                Role::Init => peak = peak.max(beside + cpu),
                Role::Sidecar => { beside += cpu; peak = peak.max(beside); }
                Role::Main => running += cpu,
            }
        }
        prop_assert_eq!(request, peak.max(running + beside));
    }

    #[test]
    fn adding_a_container_never_lowers_a_request(all in containers(), cpu in 0_i64..1 << 40) {
        let before = pod_requests(&all, &nothing(), &nothing());
        let mut more = all;
        more.push(container(Role::Main, cpu, 0));
        let after = pod_requests(&more, &nothing(), &nothing());
        prop_assert!(before.fits(&after));
    }
}
