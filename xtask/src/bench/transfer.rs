//! The transfer engine beside its peers: the same files from the same local server, to durable
//! bytes on the same disk, all of them in every round, so that what disturbs one disturbs all.
//!
//! nginx serves from memory on CPU 0, and so does the proxy that shapes a link; every client runs on
//! CPU 1. Wall time includes a sync of the
//! files; of those that verify nothing, only curl is followed by `sha256sum`, and the table says
//! so. CPU is user and system time of the client, as the kernel counts it for waited-for children.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use self::goals::Goals;

mod goals;

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The `fetch` example of `headstart-transfer`, built for release.
    pub(crate) fetch: PathBuf,
    /// The `link` example of the testbed, likewise.
    pub(crate) link: PathBuf,
    /// Where Python environments are kept and files are downloaded to: on the disk to measure.
    pub(crate) target: PathBuf,
    /// Rounds; the median is reported.
    pub(crate) rounds: usize,
    /// Size of the large file in bytes; the four small ones have an eighth of it each.
    pub(crate) large: u64,
}

/// Bytes per second of one connection of the capped server, as nginx counts them.
const CAP: u64 = 50 << 20;

const CONNECTIONS: u64 = 16;

/// Bytes per second of the shaped link, over all connections: 2 Gbit/s.
const SHAPED: u64 = 250_000_000;

/// Measures and prints the tables.
pub(crate) fn run(options: &Options) -> Result<()> {
    let work = Work::new(options)?;
    let floor = work.floor()?;
    let peers = Peers::install(&options.target)?;
    for case in Case::all(options.large) {
        let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
        let competitors = peers.for_case(&case, options);
        for round in 0..options.rounds {
            for offset in 0..competitors.len() {
                // Another one begins each round.
                let index = (round + offset) % competitors.len();
                let sample = work.measure(&competitors[index], &case)?;
                samples.entry(index).or_default().push(sample);
            }
        }
        report(&case, &competitors, &samples);
        let goals = Goals {
            case: &case,
            competitors: &competitors,
            samples: &samples,
            floor,
        };
        print!("{}", goals.lines());
    }
    Ok(())
}

/// Files from one of the servers.
struct Case {
    title: &'static str,
    files: Vec<(&'static str, u64)>,
    shape: Shape,
}

/// How the server's link is limited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Free,
    /// By a cap for each connection.
    EachConnection,
    /// By a rate for all of them together.
    Total,
}

impl Case {
    /// Smaller files where the clients that use one connection for each are slow.
    fn all(large: u64) -> [Self; 5] {
        let four = |size| ["a", "b", "c", "d"].map(|name| (name, size)).to_vec();
        let less = |size| ["e", "f", "g", "h"].map(|name| (name, size)).to_vec();
        let one = || vec![("large", large)];
        let case = |title, files, shape| Self {
            title,
            files,
            shape,
        };
        [
            case("four files, unshaped", four(large / 8), Shape::Free),
            case("one file, unshaped", one(), Shape::Free),
            case(
                "four files, link of 2 Gbit/s",
                less(large / 16),
                Shape::Total,
            ),
            case(
                "four files, 50 MiB/s per connection",
                less(large / 16),
                Shape::EachConnection,
            ),
            case(
                "one file, 50 MiB/s per connection",
                one(),
                Shape::EachConnection,
            ),
        ]
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, size)| size).sum()
    }
}

/// What fetches files into a directory.
type Start = Box<dyn Fn(&[Remote], &Path) -> Command>;

/// One way to get the files of a case.
struct Competitor {
    name: &'static str,
    verifies: bool,
    /// Arguments of the process for URLs, sizes and digests of files and a directory.
    command: Start,
}

struct Remote {
    name: &'static str,
    url: String,
    size: u64,
    sha256: String,
}

/// Core-seconds per GB of what no client that verifies can do without.
#[derive(Clone, Copy)]
struct Floor {
    hashing: f64,
    receiving: f64,
}

#[derive(Clone, Copy)]
struct Sample {
    wall: f64,
    cpu: f64,
    peak: u64,
}

/// What the clients need: Python environments for those that are libraries.
struct Peers {
    environments: Vec<(&'static str, PathBuf)>,
}

impl Peers {
    /// Makes what is missing under `target/bench-venvs`.
    fn install(target: &Path) -> Result<Self> {
        let mut environments = Vec::new();
        for (name, requirement) in [
            ("hf_transfer", "hf_transfer==0.1.9"),
            ("huggingface_hub 0.36.2", "huggingface_hub==0.36.2"),
            ("huggingface_hub 2.4.0", "huggingface_hub==2.4.0"),
        ] {
            let dir = target.join("bench-venvs").join(requirement);
            let python = dir.join("bin/python");
            let ready = dir.join("ready");
            if !ready.exists() {
                let mut venv = Command::new("python3");
                succeed(venv.args(["-m", "venv", "--clear"]).arg(&dir))?;
                let mut install = Command::new(&python);
                succeed(install.args(["-m", "pip", "install", "--quiet", requirement]))?;
                fs::write(&ready, "").with_context(|| format!("write {}", ready.display()))?;
            }
            environments.push((name, python));
        }
        Ok(Self { environments })
    }

    fn for_case(&self, case: &Case, options: &Options) -> Vec<Competitor> {
        // One connection per file: under a cap it is as slow as the cap, whatever the client.
        let is_slow = case.shape == Shape::EachConnection && case.files.len() == 1;
        let mut competitors = vec![headstart(options.fetch.clone())];
        competitors.extend((!is_slow).then(curl));
        competitors.push(aria2());
        for (name, python) in &self.environments {
            if !(is_slow && name.starts_with("huggingface_hub")) {
                competitors.push(library(name, python.clone()));
            }
        }
        competitors
    }
}

fn headstart(fetch: PathBuf) -> Competitor {
    Competitor {
        name: "headstart",
        verifies: true,
        command: Box::new(move |files, dir| {
            let mut command = on_cpu_1(&fetch);
            command.arg(dir).arg(CONNECTIONS.to_string());
            for file in files {
                command.args([&file.url, &file.size.to_string(), &file.sha256]);
            }
            command
        }),
    }
}

fn curl() -> Competitor {
    Competitor {
        name: "curl per file, sha256sum",
        verifies: true,
        command: Box::new(|files, dir| {
            let get = |file: &Remote| format!("curl -sSf -o {} {} &\n", file.name, file.url);
            let script: String = files.iter().map(get).collect();
            let sums = files
                .iter()
                .map(|file| format!("{}  {}\n", file.sha256, file.name));
            let sums: String = sums.collect();
            let script = format!("set -e\n{script}wait\nsha256sum --quiet -c <<END\n{sums}END\n");
            let mut command = on_cpu_1("sh");
            command.args(["-c", &script]).current_dir(dir);
            command
        }),
    }
}

fn aria2() -> Competitor {
    Competitor {
        name: "aria2c -x16 -s16",
        verifies: false,
        command: Box::new(|files, dir| {
            let each = CONNECTIONS / files.len() as u64;
            let mut command = on_cpu_1("aria2c");
            command
                .args(["-q", "-Z", "-k1M", "--file-allocation=falloc", "-j16"])
                .args([format!("-x{each}"), format!("-s{each}")])
                .arg("-d")
                .arg(dir)
                .args(files.iter().map(|file| &file.url));
            command
        }),
    }
}

/// Fetches with a Python library, a thread per file.
fn library(name: &'static str, python: PathBuf) -> Competitor {
    const SCRIPT: &str = r#"
import os, sys
from concurrent.futures import ThreadPoolExecutor
which, files = sys.argv[1], [a.split("|") for a in sys.argv[2:]]
if which == "hf_transfer":
    import hf_transfer
    def get(url, name, size):
        hf_transfer.download(url, name, 16 // len(files), 10 << 20)
else:
    from huggingface_hub import file_download
    def get(url, name, size):
        with open(name, "wb") as out:
            file_download.http_get(url, out, expected_size=int(size))
with ThreadPoolExecutor(len(files)) as pool:
    list(pool.map(lambda file: get(*file), files))
"#;
    Competitor {
        name,
        verifies: false,
        command: Box::new(move |files, dir| {
            let mut command = on_cpu_1(&python);
            command
                .args(["-c", SCRIPT, name])
                .args(
                    files
                        .iter()
                        .map(|f| format!("{}|{}|{}", f.url, f.name, f.size)),
                )
                .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
                .current_dir(dir);
            command
        }),
    }
}

fn on_cpu_1(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(program);
    command
}

/// The server, its files in memory, and the directory that is downloaded into.
struct Work {
    served: PathBuf,
    downloads: PathBuf,
    digests: BTreeMap<&'static str, String>,
    nginx: Child,
    link: Child,
    /// Where each [`Shape`] is served.
    ports: [u16; 3],
}

impl Work {
    fn new(options: &Options) -> Result<Self> {
        let served = Path::new("/dev/shm").join(format!("headstart-bench-{}", std::process::id()));
        let downloads = options.target.join("bench-downloads");
        fs::create_dir_all(&served).with_context(|| format!("create {}", served.display()))?;
        let served_at = [free_port()?, free_port()?];
        let config = served.join("nginx.conf");
        fs::write(&config, nginx_config(&served, served_at))
            .context("write the server's config")?;
        let mut digests = BTreeMap::new();
        for (seed, (name, size)) in Case::all(options.large)
            .iter()
            .flat_map(|case| case.files.clone())
            .collect::<BTreeMap<_, _>>()
            .into_iter()
            .enumerate()
        {
            digests.insert(name, make_file(&served.join(name), size, seed)?);
        }
        let nginx = Command::new("taskset")
            .args(["-c", "0", "nginx", "-c"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .context("start nginx: install nginx-light")?;
        let [free, capped] = served_at;
        let (link, shaped) = shaped_link(&options.link, free)?;
        let work = Self {
            served,
            downloads,
            digests,
            nginx,
            link,
            ports: [free, capped, shaped],
        };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", capped)).is_err() {
            ensure!(
                start.elapsed() < Duration::from_secs(10),
                "nginx does not answer"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(work)
    }

    /// What hashing and receiving cost by themselves on this machine.
    fn floor(&self) -> Result<Floor> {
        let path = self.served.join("large");
        let gigabytes = fs::metadata(&path).context("measure a file")?.len() as f64 / 1e9;
        let cost = |command: &mut Command| {
            let before = children_cpu()?;
            succeed(command.stdout(Stdio::null()))?;
            anyhow::Ok((children_cpu()? - before) / gigabytes)
        };
        let mut hash = on_cpu_1("openssl");
        let mut receive = on_cpu_1("curl");
        let url = format!("http://127.0.0.1:{}/large", self.ports[0]);
        Ok(Floor {
            hashing: cost(hash.args(["dgst", "-sha256"]).arg(&path))?,
            receiving: cost(receive.args(["-sSf", "-o", "/dev/null", &url]))?,
        })
    }

    fn measure(&self, competitor: &Competitor, case: &Case) -> Result<Sample> {
        let _ = fs::remove_dir_all(&self.downloads);
        fs::create_dir_all(&self.downloads).context("create the download directory")?;
        let port = self.ports[case.shape as usize];
        let files: Vec<Remote> = case
            .files
            .iter()
            .map(|(name, size)| Remote {
                name,
                url: format!("http://127.0.0.1:{port}/{name}"),
                size: *size,
                sha256: self.digests[name].clone(),
            })
            .collect();
        let mut command = (competitor.command)(&files, &self.downloads);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let cpu = children_cpu()?;
        let start = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", competitor.name))?;
        let mut peak = 0;
        let status = loop {
            peak = peak.max(peak_memory(child.id()));
            match child.try_wait().context("wait for a client")? {
                Some(status) => break status,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        ensure!(
            status.success(),
            "{} failed on {}: {status}",
            competitor.name,
            case.title
        );
        let cpu = children_cpu()? - cpu;
        for file in &files {
            let path = self.downloads.join(file.name);
            let opened = fs::File::open(&path).with_context(|| format!("{}", path.display()))?;
            opened.sync_all().context("sync a download")?;
            ensure!(
                opened.metadata()?.len() == file.size,
                "{} is short",
                path.display()
            );
        }
        Ok(Sample {
            wall: start.elapsed().as_secs_f64(),
            cpu,
            peak,
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        for server in [&mut self.nginx, &mut self.link] {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = fs::remove_dir_all(&self.served);
        let _ = fs::remove_dir_all(&self.downloads);
    }
}

/// A proxy that shapes what the server at `port` sends, and where it answers.
fn shaped_link(program: &Path, port: u16) -> Result<(Child, u16)> {
    let mut link = Command::new("taskset");
    link.args(["-c", "0"]).arg(program);
    link.args([
        format!("127.0.0.1:{port}"),
        format!("{}MB/s", SHAPED / 1_000_000),
    ]);
    let mut link = link
        .stdout(Stdio::piped())
        .spawn()
        .context("start the link")?;
    let mut said = String::new();
    let mut lines = BufReader::new(link.stdout.take().context("its output is a pipe")?);
    lines.read_line(&mut said).context("ask the link")?;
    let port = said.trim().rsplit(':').next().and_then(|p| p.parse().ok());
    Ok((link, port.context("the link does not say where it is")?))
}

fn nginx_config(dir: &Path, ports: [u16; 2]) -> String {
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir};"))
        .concat();
    let [free, capped] = ports;
    format!(
        "daemon off; master_process off; pid {dir}/pid; error_log /dev/null;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; {temporary}\n\
         server {{ listen 127.0.0.1:{free}; root {dir}; }}\n\
         server {{ listen 127.0.0.1:{capped}; root {dir}; limit_rate {CAP}; }} }}\n"
    )
}

/// Writes a file that does not compress and returns its sha256.
fn make_file(path: &Path, size: u64, seed: usize) -> Result<String> {
    let shown = path.display();
    let script = format!(
        "openssl enc -aes-128-ctr -nosalt -K {seed:032x} -iv 0 -in /dev/zero 2>/dev/null | \
         head -c {size} > {shown} && openssl dgst -sha256 -r {shown}"
    );
    let made = Command::new("sh")
        .args(["-c", &script])
        .output()
        .context("run openssl")?;
    let text = String::from_utf8_lossy(&made.stdout);
    match text.split_whitespace().next() {
        Some(digest) if digest.len() == 64 => Ok(digest.to_owned()),
        _ => bail!(
            "cannot make {shown}: {}",
            String::from_utf8_lossy(&made.stderr)
        ),
    }
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr().context("read a port")?.port())
}

/// Seconds of CPU of all children waited for: `cutime` and `cstime` of proc(5), in clock ticks of
/// a hundredth of a second on every Linux that Rust runs on.
fn children_cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    let fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let ticks: Vec<f64> = fields
        .skip(13)
        .take(2)
        .filter_map(|f| f.parse().ok())
        .collect();
    ensure!(ticks.len() == 2, "/proc/self/stat is not as proc(5) says");
    Ok((ticks[0] + ticks[1]) / 100.0)
}

/// `VmHWM` in bytes; zero when the process is gone.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn report(case: &Case, competitors: &[Competitor], samples: &BTreeMap<usize, Vec<Sample>>) {
    let gigabytes = case.bytes() as f64 / 1e9;
    let median = |index: usize, of: fn(&Sample) -> f64| median(samples[&index].iter().map(of));
    let ours = median(0, |s| s.wall);
    let rounds = samples[&0].len();
    println!(
        "\n{}, {gigabytes:.2} GB, median of {rounds} interleaved rounds",
        case.title
    );
    println!(
        "{:<28}{:>9}{:>9}{:>11}{:>10}{:>9}  verified",
        "", "seconds", "MB/s", "CPU-s/GB", "peak MiB", "ours/it"
    );
    for (index, competitor) in competitors.iter().enumerate() {
        let wall = median(index, |s| s.wall);
        println!(
            "{:<28}{:>9.2}{:>9.0}{:>11.2}{:>10.0}{:>9.2}  {}",
            competitor.name,
            wall,
            gigabytes * 1000.0 / wall,
            median(index, |s| s.cpu) / gigabytes,
            median(index, |s| s.peak as f64) / f64::from(1 << 20),
            ours / wall,
            if competitor.verifies { "yes" } else { "no" },
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
