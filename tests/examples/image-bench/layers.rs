//! Seven layers as an image with PyTorch has them: what a system is, its Python, CUDA's libraries,
//! a compiler, PyTorch, many small files.
//!
//! The bytes are the real ones, from the package index by its own client; where that cannot be
//! reached, the machine's own files stand in, and the output says so. A smaller image than the
//! packages make is a sample of them: every n-th small file, every n-th piece of a large one.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use flate2::write::GzEncoder;
use headstart_core::digest::Sha256;
use headstart_testbed::content::Content;
use headstart_testbed::image::{Blob, Format, Image, this_architecture};
use sha2::Digest as _;

/// What tools that build images use when nobody says.
const GZIP_LEVEL: u32 = 6;

/// Files up to this size are taken whole or not at all.
const PIECE: u64 = 1 << 20;

/// Compressed bytes for each byte, measured over all of these packages.
const COMPRESSED: f64 = 0.51;

const PACKAGES: [&str; 4] = [
    "nvidia-cublas-cu12==12.1.3.1",
    "nvidia-cudnn-cu12==9.1.0.70",
    "triton==3.0.0",
    "torch==2.4.1",
];

/// What was made.
pub(crate) struct Made {
    pub(crate) image: Image,
    /// Bytes of the tar archives.
    pub(crate) tar_bytes: u64,
    /// Compressed bytes of each layer.
    layers: Vec<u64>,
    content: &'static str,
}

impl Made {
    /// The digest of the config, by which a runtime knows the image.
    pub(crate) fn image_id(&self) -> String {
        self.image.blobs[0].digest.prefixed()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.image.bytes()
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gb = |bytes: u64| bytes as f64 / 1e9;
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|b| format!("{:.2}", gb(*b)))
            .collect();
        write!(
            f,
            "image: {:.2} GB gzip -{GZIP_LEVEL}, {:.2} GB of tar, layers of {} GB; {}",
            gb(self.bytes()),
            gb(self.tar_bytes),
            layers.join(" "),
            self.content
        )
    }
}

/// Makes the image of about `gb`, or finds it in the cache.
pub(crate) fn make(cache: &Path, gb: f64) -> Result<Made> {
    let (sources, content) = sources(cache)?;
    let files: Vec<Vec<Found>> = sources.iter().map(|s| s.files()).collect::<Result<_>>()?;
    let all: u64 = files.iter().flatten().map(|file| file.size).sum();
    let share = (gb * 1e9 / COMPRESSED / all as f64).min(1.0);
    let directory = cache.join(format!("layers-{}-{:.4}", sources.len(), share));
    fs::create_dir_all(&directory)?;
    let mut made = Vec::new();
    for (pair, files) in files.chunks(2).enumerate() {
        // Two at a time: no more than a small machine has cores.
        let layers = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (number, files) in files.iter().enumerate() {
                let path = directory.join((2 * pair + number).to_string());
                running.push(scope.spawn(move || layer(&path, files, share)));
            }
            let ended = running.into_iter().map(|layer| layer.join());
            ended
                .map(|layer| layer.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect::<Result<Vec<_>>>()
        });
        made.extend(layers?);
    }
    let tar_bytes = made.iter().map(|layer| layer.tar_bytes).sum();
    let layers = made.iter().map(|layer| layer.blob.content.len()).collect();
    let diff_ids = made.iter().map(|layer| layer.diff_id).collect();
    let blobs = made.into_iter().map(|layer| layer.blob).collect();
    Ok(Made {
        image: Image::of_layers(blobs, diff_ids, Format::Oci, this_architecture()),
        tar_bytes,
        layers,
        content,
    })
}

/// Where a layer's files come from.
struct Source {
    roots: Vec<PathBuf>,
    most: u64,
}

struct Found {
    path: PathBuf,
    size: u64,
    mode: u32,
}

fn sources(cache: &Path) -> Result<(Vec<Source>, &'static str)> {
    let system = |roots: &[&str], most| Source {
        roots: roots.iter().map(PathBuf::from).collect(),
        most,
    };
    let base = system(
        &["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"],
        400 << 20,
    );
    let python = system(&["/usr/lib/python3", "/usr/lib/python3.11"], 200 << 20);
    let small = system(&["/usr/include", "/usr/share/doc"], 120 << 20);
    let packages: Result<Vec<Source>> = PACKAGES.iter().map(|name| package(cache, name)).collect();
    let (packages, content) = match packages {
        Ok(packages) => (
            packages,
            "torch 2.4.1 with CUDA libraries, and files of Debian",
        ),
        Err(error) => {
            eprintln!("no packages: {error:#}");
            let roots = [
                &["/usr/bin"][..],
                &["/usr/share"],
                &["/usr/lib"],
                &["/usr/sbin"],
            ];
            let machine = roots.iter().map(|roots| system(roots, 1 << 30)).collect();
            (
                machine,
                "files of this machine only: the package index was out of reach",
            )
        }
    };
    Ok((
        [base, python]
            .into_iter()
            .chain(packages)
            .chain([small])
            .collect(),
        content,
    ))
}

/// The files of a package, as installed.
fn package(cache: &Path, name: &str) -> Result<Source> {
    let unpacked = cache.join("packages").join(name);
    if !unpacked.is_dir() {
        let wheels = cache.join("wheels").join(name);
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
        ]);
        pip.args(["--python-version", "3.11", "--dest"])
            .arg(&wheels)
            .arg(name);
        succeed(&mut pip)?;
        let wheel = fs::read_dir(&wheels)?
            .next()
            .context("pip fetched nothing")??;
        let partial = unpacked.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        let mut unzip = Command::new("python3");
        unzip
            .args(["-m", "zipfile", "-e"])
            .arg(wheel.path())
            .arg(&partial);
        succeed(&mut unzip)?;
        fs::rename(&partial, &unpacked)?;
        fs::remove_dir_all(&wheels)?;
    }
    Ok(Source {
        roots: vec![unpacked],
        most: u64::MAX,
    })
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(())
}

impl Source {
    /// Regular files, in the order of their names.
    fn files(&self) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let mut left = self.most;
        let mut directories: Vec<PathBuf> = self.roots.iter().rev().cloned().collect();
        while let Some(directory) = directories.pop() {
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            let mut entries: Vec<PathBuf> =
                entries.map(|e| Ok(e?.path())).collect::<io::Result<_>>()?;
            entries.sort();
            for path in entries {
                let meta = fs::symlink_metadata(&path)?;
                if meta.is_dir() {
                    directories.push(path);
                } else if meta.is_file() && meta.size() <= left {
                    left -= meta.size();
                    let (size, mode) = (meta.size(), meta.mode() & 0o777);
                    found.push(Found { path, size, mode });
                }
            }
        }
        Ok(found)
    }
}

struct Layer {
    blob: Blob,
    diff_id: Sha256,
    tar_bytes: u64,
}

/// Writes a layer, unless it lies there complete: the digest of its tar is written last.
fn layer(path: &Path, files: &[Found], share: f64) -> Result<Layer> {
    let (gz, note) = (path.with_extension("gz"), path.with_extension("json"));
    if !note.is_file() {
        let mut out = Hashed::new(BufWriter::new(File::create(&gz)?));
        let level = flate2::Compression::new(GZIP_LEVEL);
        let mut tar = Hashed::new(GzEncoder::new(&mut out, level));
        write_tar(&mut tar, files, share)?;
        let (gzip, diff_id, tar_bytes) = tar.finish();
        gzip.finish()?;
        let (mut file, digest, _) = out.finish();
        file.flush()?;
        let text = serde_json::to_vec(&(digest.to_string(), diff_id.to_string(), tar_bytes))?;
        fs::write(&note, text)?;
    }
    let (digest, diff_id, tar_bytes): (String, String, u64) =
        serde_json::from_slice(&fs::read(&note)?)?;
    Ok(Layer {
        blob: Blob {
            digest: digest.parse()?,
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            content: Content::open(&gz)?,
        },
        diff_id: diff_id.parse()?,
        tar_bytes,
    })
}

fn write_tar(to: &mut impl Write, files: &[Found], share: f64) -> Result<()> {
    let mut archive = tar::Builder::new(to);
    let mut due = 0.0;
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode);
        header.set_mtime(1_767_225_600);
        // Below the root, and not below a directory that holds packages here only.
        let name = file.path.strip_prefix("/").unwrap_or(&file.path);
        let name = match name.iter().position(|part| part == "packages") {
            Some(at) => Path::new("opt/venv").join(name.iter().skip(at + 2).collect::<PathBuf>()),
            None => name.to_owned(),
        };
        let open = File::open(&file.path)?;
        if file.size <= PIECE {
            due += share;
            if due >= 1.0 {
                due -= 1.0;
                header.set_size(file.size);
                archive.append_data(&mut header, name, open.take(file.size))?;
            }
            continue;
        }
        let pieces = ((file.size as f64 * share) as u64).div_ceil(PIECE).max(1);
        let size = (pieces * PIECE).min(file.size);
        header.set_size(size);
        let spread = Spread {
            file: open,
            stride: file.size / pieces,
            at: 0,
            size,
        };
        archive.append_data(&mut header, name, spread)?;
    }
    archive.finish()?;
    Ok(())
}

/// Pieces spread evenly over a file.
struct Spread {
    file: File,
    stride: u64,
    at: u64,
    size: u64,
}

impl Read for Spread {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (piece, within) = (self.at / PIECE, self.at % PIECE);
        let most = (PIECE - within).min(self.size - self.at);
        let most = buffer
            .len()
            .min(usize::try_from(most).unwrap_or(usize::MAX));
        let from = if self.stride > PIECE {
            piece * self.stride + within
        } else {
            self.at
        };
        let read = self.file.read_at(&mut buffer[..most], from)?;
        self.at += read as u64;
        Ok(read)
    }
}

struct Hashed<W> {
    inner: W,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<W: Write> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: sha2::Sha256::new(),
            bytes: 0,
        }
    }

    fn finish(self) -> (W, Sha256, u64) {
        (
            self.inner,
            Sha256(self.hasher.finalize().into()),
            self.bytes,
        )
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
