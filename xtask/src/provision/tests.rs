//! What can be told without installing anything.

use super::*;

#[test]
fn every_environment_is_pinned_down_to_its_last_dependency_and_named_after_its_hub() {
    for env in &CLIENTS {
        let mut names = Vec::new();
        for line in env.requirements.lines() {
            let (name, version) = line.split_once("==").expect(line);
            assert!(!version.contains(['*', '<', '>', ';', ' ']), "{line}");
            names.push(name);
        }
        assert!(names.is_sorted_by(|a, b| a < b), "{}", env.name);
        let version = env.name.strip_prefix("hub-").unwrap();
        let own = format!("huggingface-hub=={version}");
        assert!(env.requirements.lines().any(|line| line == own), "{own}");
    }
}

#[test]
fn a_package_counts_as_installed_only_when_dpkg_says_exactly_that() {
    let listed = "busybox-static installed\nrunc config-files\nskopeo-extra installed\n";
    let asked = ["busybox-static", "runc", "skopeo", "umoci"];
    assert_eq!(not_installed(&asked, listed), ["runc", "skopeo", "umoci"]);
}

#[test]
fn only_the_exact_stamp_counts() {
    let home = std::env::temp_dir().join(format!("headstart-stamp-{}", std::process::id()));
    fs::create_dir_all(&home).unwrap();
    assert!(!stamped(&home, "a==1\n"));
    put_stamp(&home, "a==1\n").unwrap();
    assert!(stamped(&home, "a==1\n"));
    assert!(!stamped(&home, "a==1\nb==2\n"));
    fs::remove_dir_all(&home).unwrap();
}

#[test]
fn a_command_that_fails_is_shown_with_its_arguments_and_its_complaint() {
    let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("sh -c echo no") && text.contains("exit status: 3"),
        "{text}"
    );
    assert!(text.ends_with("no\n"), "{text}");
}
