//! Tests that mostly wait, for machines to boot and pods to start, side by side.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::cargo;

/// How many at once: each has a Kubernetes of its own, which two cores carry three of.
const AT_ONCE: usize = 3;

/// Runs all of them, whatever fails. One alone is shown as it runs; of several a line each is, and
/// what one that failed has printed. One that failed beside others is run once more by itself, and that
/// counts: what it waits for may only have been late because of us.
pub(super) fn run(mut tests: Vec<(&str, Command)>) -> Result<()> {
    if let [(_, test)] = &mut *tests {
        return cargo::run(test);
    }
    // As they were given, from the front.
    tests.reverse();
    let (waiting, failed) = (Mutex::new(tests), Mutex::new(Vec::new()));
    let next = || lock(&waiting).pop();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, mut test)) = next() {
                    let began = Instant::now();
                    let ended = test.output();
                    let seconds = began.elapsed().as_secs();
                    let said = match ended {
                        Ok(output) if output.status.success() => {
                            println!("passed   {name:<10} {seconds:>4} s");
                            continue;
                        }
                        Ok(output) => [output.stdout, output.stderr]
                            .map(|said| String::from_utf8_lossy(&said).into_owned())
                            .concat(),
                        Err(error) => error.to_string(),
                    };
                    println!("failed   {name:<10} {seconds:>4} s\n{said}");
                    lock(&failed).push((name, test));
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut again = Vec::new();
    for (name, mut test) in failed {
        println!("once more, by itself: {name}");
        if cargo::run(&mut test).is_err() {
            again.push(name);
        }
    }
    if !again.is_empty() {
        bail!("failed: {}", again.join(", "));
    }
    Ok(())
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
