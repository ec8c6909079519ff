//! What the kernel knows about processes: processor time, bytes written, memory.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Of the kernel's clock ticks, one second; the same on every machine.
const TICKS: f64 = 100.0;

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One run of one rival.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Seconds until the runtime has the image.
    pub(crate) wall: f64,
    /// Processor seconds of everything that took part, the registry excepted.
    pub(crate) cpu: f64,
    /// Of these, what the runtime's daemon used.
    pub(crate) daemon: f64,
    /// Of these, what processes that unpack used; of the agent only.
    pub(crate) unpackers: f64,
    /// Processor seconds of the registry.
    pub(crate) registry: f64,
    /// Bytes that went to a disk's file system.
    pub(crate) written: u64,
    /// Bytes of disk that the unpacked layers take.
    pub(crate) needed: u64,
    /// Most memory at one time, all processes together, what they share counted once.
    pub(crate) together: u64,
    /// Most resident bytes of any one process.
    pub(crate) largest: u64,
    /// What the agent said bound it.
    pub(crate) bound: Option<String>,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} s, {:.2} CPU-s, {} MiB",
            self.wall,
            self.cpu,
            self.together >> 20
        )
    }
}

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    pub(crate) cpu: f64,
    /// The part of children that have ended.
    pub(crate) of_children: f64,
    pub(crate) written: u64,
}

impl Used {
    /// By a process and by those of its children that have ended.
    pub(crate) fn by(process: &str) -> Result<Self> {
        let of = |file: &str| format!("/proc/{process}/{file}");
        let stat = fs::read_to_string(of("stat")).context("a process ended too early")?;
        // The name may hold anything, a closing parenthesis too.
        let numbers = stat.rsplit(')').next().unwrap_or_default();
        let ticks = |at: usize| -> f64 {
            let number = numbers.split_whitespace().nth(at);
            number.and_then(|n| n.parse().ok()).unwrap_or(0.0) / TICKS
        };
        let of_children = ticks(13) + ticks(14);
        let io = fs::read_to_string(of("io")).unwrap_or_default();
        let written = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(Self {
            cpu: ticks(11) + ticks(12) + of_children,
            of_children,
            written: written.and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            of_children: self.of_children - before.of_children,
            written: self.written.saturating_sub(before.written),
        }
    }
}

/// The most that was seen of a process and its descendants.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peak {
    pub(crate) together: u64,
    pub(crate) largest: u64,
    /// The last that was seen of what its ended children used.
    pub(crate) of_children: f64,
}

/// Looks at a process and its descendants until told to stop.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Peak>,
}

impl Watch {
    pub(crate) fn start(process: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut peak = Peak::default();
            while !stopped.load(Ordering::Relaxed) {
                let mut together = 0;
                for each in family(process) {
                    let (resident, most) = memory(each);
                    together += resident;
                    peak.largest = peak.largest.max(most);
                }
                peak.together = peak.together.max(together);
                if let Ok(used) = Used::by(&process.to_string()) {
                    peak.of_children = peak.of_children.max(used.of_children);
                }
                std::thread::sleep(LOOK_AGAIN);
            }
            peak
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Peak {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// A process and its descendants.
fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let mut next = 0;
    while next < family.len() {
        let threads = fs::read_dir(format!("/proc/{}/task", family[next]));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            for child in children.split_whitespace().filter_map(|id| id.parse().ok()) {
                // Until it is another program, a new process lives in its parent's memory.
                if command_line(child) != command_line(family[next]) {
                    family.push(child);
                }
            }
        }
        next += 1;
    }
    family
}

fn command_line(process: u32) -> Vec<u8> {
    fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default()
}

/// Memory of a process now, its share of what it has in common with others, and the most that was
/// resident in it so far.
fn memory(process: u32) -> (u64, u64) {
    let kib = |file: &str, name: &str| {
        let text = fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10
    };
    (kib("smaps_rollup", "Pss:"), kib("status", "VmHWM:"))
}
