//! Processes known by pid and start time, so that no stranger is ever ended.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How long a process may take to show up below its parent.
const FORK_WAIT: Duration = Duration::from_secs(10);

/// A process of this machine. Its number may be given to another one after its end; its start
/// time then differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it is for.
    pub name: String,
    /// Its number, as this machine's first process would see it.
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub started: u64,
}

impl Process {
    /// The process that has the number now.
    ///
    /// # Errors
    /// If there is none.
    pub fn now(name: &str, pid: u32) -> Result<Self> {
        let (started, _) = stat(pid).with_context(|| format!("{name} (pid {pid}) is gone"))?;
        let name = name.to_owned();
        Ok(Self { name, pid, started })
    }

    /// Whether it still runs. One that has ended and waits for its parent does not.
    pub fn is_alive(&self) -> bool {
        matches!(stat(self.pid), Some((started, state)) if started == self.started && state != 'Z')
    }

    /// Ends it, if it still runs.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Asks it to end, if it still runs.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If it runs on.
    pub fn until_gone(&self, wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        while self.is_alive() {
            ensure!(
                Instant::now() < deadline,
                "{} (pid {}) does not end",
                self.name,
                self.pid
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        let number = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = number.filter(|_| self.is_alive()) {
            // It may end by itself at this moment.
            let _ = kill_process(pid, signal);
        }
    }
}

/// The one process that `parent` has forked.
pub(super) fn only_child(name: &str, parent: &mut Child, log: &Path) -> Result<Process> {
    let pid = parent.id();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let deadline = Instant::now() + FORK_WAIT;
    loop {
        let listed = fs::read_to_string(&children).unwrap_or_default();
        if let Some(child) = listed.split_whitespace().next() {
            return Process::now(name, child.parse()?);
        }
        let ended = parent.try_wait()?;
        ensure!(
            ended.is_none() && Instant::now() < deadline,
            "{name} did not start: {}",
            tail(log)
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The last lines of a log, for a person who asks why.
pub(super) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(20)..].join("\n");
    format!("{}:\n{last}", log.display())
}

/// Start time and state. The name between them may hold anything, brackets too.
fn stat(pid: u32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let state = rest.chars().next()?;
    // `man 5 proc`: the state is field 3, the start time field 22.
    Some((rest.split(' ').nth(19)?.parse().ok()?, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_the_number_of_an_earlier_one_is_left_alone() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let real = Process::now("cat", child.id()).unwrap();
        let earlier = Process {
            started: real.started - 1,
            ..real.clone()
        };
        assert!(!earlier.is_alive());
        earlier.kill();
        assert!(real.is_alive());
        real.kill();
        real.until_gone(Duration::from_secs(10)).unwrap();
        assert!(child.wait().unwrap().code().is_none());
    }
}
