//! House rules that a compiler does not know, checked on every tracked file.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::cargo;

/// Most lines of a source file before its tests.
const MAX_LINES: usize = 600;

/// Most lines of ARCHITECTURE.md.
const MAX_MAP_LINES: usize = 150;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

/// Words that only one machine would know.
const MACHINE_PATHS: [&str; 3] = ["/ro\u{6f}t/", "/wor\u{6b}/", "/hom\u{65}/"];

pub(crate) fn run() -> Result<()> {
    let root = cargo::root();
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let listed = cargo::output(git.current_dir(&root))?;
    let mut wrong = Vec::new();
    let mut sources = 0;
    for name in listed.lines() {
        // A deleted file is still listed until the deletion is committed; binaries have no lines.
        let Ok(text) = fs::read_to_string(root.join(name)) else {
            continue;
        };
        if name.ends_with(".rs") {
            sources += 1;
            wrong.extend(source_faults(name, &text));
        }
        if !name.ends_with(".lock") {
            wrong.extend(text_faults(name, &text));
        }
    }
    wrong.extend(map_faults(&root)?);
    ensure!(sources > 0, "no source file was seen: the check is broken");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("tidy: {sources} source files in order");
    Ok(())
}

fn source_faults(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    // `tests.rs` belongs to the file it is beside.
    if !text.starts_with("//!") && !name.ends_with("/tests.rs") {
        wrong.push(format!(
            "{name}: begins with no `//!` line that says what it is"
        ));
    }
    let before_tests = text
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count();
    let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
    if before_tests > MAX_LINES && !is_test {
        wrong.push(format!(
            "{name}: {before_tests} lines before its tests, split it by question"
        ));
    }
    let path = Path::new(name);
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if EMPTY_NAMES.contains(&stem.as_ref()) {
        wrong.push(format!("{name}: name it after what is inside"));
    }
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("#[ignore") {
            wrong.push(format!(
                "{name}:{}: a test that is ignored proves nothing",
                number + 1
            ));
        }
    }
    wrong
}

fn text_faults(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if MACHINE_PATHS.iter().any(|path| line.contains(path)) {
            wrong.push(format!("{name}:{}: a path of one machine", number + 1));
        }
        let blank_end = line.ends_with([' ', '\t']) && !name.ends_with(".md");
        if blank_end {
            wrong.push(format!(
                "{name}:{}: blanks at the end of the line",
                number + 1
            ));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        wrong.push(format!("{name}: no newline at the end"));
    }
    wrong
}

/// The map is short, and names no place that is gone.
fn map_faults(root: &Path) -> Result<Vec<String>> {
    let name = "ARCHITECTURE.md";
    let map = fs::read_to_string(root.join(name))?;
    let mut wrong = Vec::new();
    if map.lines().count() > MAX_MAP_LINES {
        wrong.push(format!("{name}: over {MAX_MAP_LINES} lines"));
    }
    for (number, line) in map.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            if is_path(quoted) && !root.join(quoted).exists() {
                wrong.push(format!("{name}:{}: {quoted} is gone", number + 1));
            }
        }
    }
    Ok(wrong)
}

/// Whether a quoted word of the map means a file or directory of this repository.
fn is_path(quoted: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let inside = !quoted.starts_with('/') && !quoted.starts_with('.');
    let named = quoted.ends_with(".rs") || quoted.ends_with(".md") || quoted.ends_with('/');
    inside && named && quoted.contains(['/', '.']) && quoted.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_for_sources_sees_its_fault() {
        assert!(source_faults("core/src/a.rs", "//! A.\n").is_empty());
        assert_eq!(source_faults("core/src/a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(source_faults("core/src/utils.rs", "//! A.\n").len(), 1);
        assert_eq!(
            source_faults("a.rs", "//! A.\n    #[ignore = \"slow\"]\n").len(),
            1
        );
        let long = "//! A.\n".to_owned() + &"\n".repeat(MAX_LINES);
        assert_eq!(source_faults("core/src/a.rs", &long).len(), 1);
        assert!(source_faults("core/src/a/tests.rs", &long).is_empty());
    }

    #[test]
    fn each_rule_for_texts_sees_its_fault() {
        assert!(text_faults("a.toml", "a\n").is_empty());
        assert_eq!(text_faults("a.toml", "a").len(), 1);
        assert_eq!(text_faults("a.toml", "a \n").len(), 1);
        let machine = format!("see {}x\n", MACHINE_PATHS[0]);
        assert_eq!(text_faults("a.toml", &machine).len(), 1);
    }

    #[test]
    fn the_map_means_files_and_directories_not_every_quoted_word() {
        assert!(is_path("core/src/lib.rs"));
        assert!(is_path("node-agent/"));
        for word in [
            "plan(&Snapshot)",
            "/v2/",
            "openat2",
            "hosts.toml",
            "`",
            "store.json",
        ] {
            assert!(!is_path(word), "{word}");
        }
    }
}
