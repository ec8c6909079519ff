use clap::{CommandFactory, Parser};

use super::*;
use crate::cli::Cli;

#[derive(Debug, Parser)]
struct Only {
    #[command(flatten)]
    demo: DemoArgs,
}

fn parse(arguments: &[&str]) -> Result<DemoArgs, String> {
    let parsed = Only::try_parse_from([&["demo"], arguments].concat());
    parsed
        .map(|only| only.demo)
        .map_err(|error| error.to_string())
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn a_bad_value_is_refused_with_its_flag_and_what_was_expected() {
    for (flag, value, says) in [
        ("--cloud", "ovh", "eks"),
        ("--link", "fast", "number"),
        ("--link", "5 parsecs", "Gbit/s"),
        ("--connection-cap", "0", "range"),
        ("--image-gb", "big", "10.8"),
        ("--model-gb", "nan", "gigabytes"),
        ("--time-scale", "0.5", "from 1"),
        ("--byte-scale", "inf", "from 1"),
        ("--boot", "17,26", "17,26,90"),
        ("--boot", "17,26,1e9", "17,26,90"),
        ("--seed", "x", "digit"),
    ] {
        let error = parse(&[flag, value]).expect_err(flag);
        assert!(
            error.contains(flag) && error.contains(says),
            "{flag} {value}: {error}"
        );
    }
}

#[test]
fn flags_that_exclude_each_other_are_refused() {
    assert!(parse(&["--cloud", "gke", "--boot", "1,2,3"]).is_err());
    assert!(parse(&["--html", "x.html", "--no-html"]).is_err());
}

#[test]
fn the_default_is_a_large_image_and_an_8b_model_on_a_new_eks_node() {
    let scenario = parse(&[]).unwrap().scenario().unwrap();
    assert_eq!(scenario, report::sample::scenario());
}

#[test]
fn a_boot_of_ones_own_takes_the_place_of_a_clouds() {
    let scenario = parse(&["--boot", "5, 6,7.5"]).unwrap().scenario().unwrap();
    assert_eq!(scenario.boot.gpu_allocatable, scenario::Seconds(7.5));
    assert!(parse(&["--boot", "9,6,7"]).unwrap().scenario().is_err());
}
