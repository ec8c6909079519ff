//! Images of both programs, built without a registry and without Docker.
//!
//! Each is two layers: what the program is linked to, with the public certificate authorities, from
//! Debian packages of this machine; and the program. Nothing else is inside, not even a shell. Equal
//! programs and packages give equal digests: names are sorted, times and owners fixed.
//!
//! They are for this machine's architecture. `images/*.Containerfile` are for several, and for
//! releases.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use self::layout::{Entry, Layer, Layout};
use crate::cargo;

mod layout;

/// Where they are built.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Optimised programs, as for a release
    #[arg(long)]
    pub(crate) release: bool,
}

/// A program and the image it gets.
struct Program {
    /// Its package, its file, and the image's name.
    name: &'static str,
    /// Who it runs as.
    user: &'static str,
    /// One line for people.
    description: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program {
        name: "headstart",
        user: "65532:65532",
        description: "Headstart's control plane",
    },
    Program {
        name: "headstart-agent",
        // Its work is mounts and other people's files.
        user: "0:0",
        description: "Headstart's node agent",
    },
];

/// Debian's file of public authorities, and where every program looks for it.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What is taken along for a package's licence.
const COPYRIGHTS: [&str; 3] = ["libc6", "libgcc-s1", "ca-certificates"];

/// Name and group of the numbers that programs run as.
const PASSWD: &str =
    "root:x:0:0:root:/:/sbin/nologin\nheadstart:x:65532:65532:headstart:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nheadstart:x:65532:\n";
const HOSTS: &str = "hosts: files dns\n";

/// Builds the programs and their images, and says where they are.
pub(crate) fn run(args: &Args) -> Result<()> {
    let directory = build(args)?;
    for program in &PROGRAMS {
        let layout = directory.join(program.name);
        let digest = layout::digest(&layout)?;
        println!("{} {digest}", layout.display());
    }
    println!("push one: skopeo copy oci:DIRECTORY docker://REGISTRY/NAME:TAG");
    Ok(())
}

/// Builds both programs and returns the directory they are in.
pub(crate) fn programs(args: &Args) -> Result<PathBuf> {
    let (profile, flags): (_, &[&str]) = match args.release {
        true => ("release", &["--release"]),
        false => ("debug", &[]),
    };
    let mut compile = cargo::cargo(&["build", "--locked"]);
    for program in &PROGRAMS {
        compile.args(["--package", program.name]);
    }
    cargo::run(compile.args(flags))?;
    Ok(cargo::target()?.join(profile))
}

/// Builds the images of both below `target/images` and returns the directory, which has one OCI layout
/// for each.
pub(crate) fn build(args: &Args) -> Result<PathBuf> {
    let programs = programs(args)?;
    let profile = programs.file_name().context("a profile's directory")?;
    let directory = cargo::target()?.join("images").join(profile);
    fs::create_dir_all(&directory)?;
    for program in &PROGRAMS {
        let built = programs.join(program.name);
        let stripped = directory.join(format!("{}.stripped", program.name));
        strip(&built, &stripped)?;
        let made = image(program, &stripped);
        fs::remove_file(&stripped)?;
        made.with_context(|| format!("image of {}", program.name))?
            .write(&directory.join(program.name))?;
    }
    Ok(directory)
}

/// Without what only a debugger reads.
fn strip(program: &Path, to: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(to).arg(program);
    cargo::output(&mut strip).context("strip, of Debian's package binutils")?;
    Ok(())
}

fn image(program: &Program, file: &Path) -> Result<Layout> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let path = format!("usr/bin/{}", program.name);
    let own = BTreeMap::from([(path.clone(), Entry::program(bytes))]);
    let config = json!({
        "Entrypoint": [format!("/{path}")],
        "User": program.user,
        "WorkingDir": "/",
        "Env": ["PATH=/usr/bin", format!("SSL_CERT_FILE={AUTHORITIES}")],
        "Labels": {
            "org.opencontainers.image.title": program.name,
            "org.opencontainers.image.description": program.description,
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    });
    let layers = [base(file)?, own];
    let layers = layers.iter().map(Layer::of).collect::<Result<_>>()?;
    Layout::new(architecture()?, &config, layers)
}

/// What every program needs to run: the libraries it names, and what they read.
fn base(program: &Path) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::from([
        ("etc/passwd".to_owned(), Entry::file(PASSWD)),
        ("etc/group".to_owned(), Entry::file(GROUP)),
        ("etc/nsswitch.conf".to_owned(), Entry::file(HOSTS)),
        ("lib".to_owned(), Entry::link("usr/lib")),
        ("lib64".to_owned(), Entry::link("usr/lib64")),
        ("tmp".to_owned(), Entry::Directory { mode: 0o1777 }),
    ]);
    let authorities = read(Path::new(AUTHORITIES), "ca-certificates")?;
    let inside = AUTHORITIES.trim_start_matches('/').to_owned();
    entries.insert(inside, Entry::file(authorities));
    for package in COPYRIGHTS {
        let path = format!("/usr/share/doc/{package}/copyright");
        let text = read(Path::new(&path), package)?;
        entries.insert(path.trim_start_matches('/').to_owned(), Entry::file(text));
    }
    for library in libraries(program)? {
        let inside = library.trim_start_matches('/');
        // As Debian has merged them; the links above lead there.
        let inside = match inside.strip_prefix("lib") {
            Some(_) => format!("usr/{inside}"),
            None => inside.to_owned(),
        };
        entries.insert(inside, Entry::program(read(Path::new(&library), "libc6")?));
    }
    Ok(entries)
}

/// What the loader would load, the loader itself among it.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let said = cargo::output(Command::new("ldd").arg(program))?;
    let found = loaded(&said)?;
    ensure!(!found.is_empty(), "ldd names no library: {said}");
    Ok(found)
}

/// The paths in what `ldd` prints: `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-… (0x…)`.
fn loaded(said: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in said.lines().map(str::trim) {
        let named = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = named.split_once(" (").map_or(named, |(path, _)| path);
        match path {
            "not found" => bail!("{line}: the program does not run here"),
            path if path.starts_with('/') => paths.push(path.to_owned()),
            // The kernel's own, which is no file.
            _ => {}
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, package: &str) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| {
        let path = path.display();
        format!("read {path}: install Debian's package {package}")
    })
}

/// As images name it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images are for amd64 and arm64, this machine is {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_says_is_read_down_to_the_loader_and_a_missing_library_is_an_error() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x0000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x0000)\n";
        let paths = ["/lib/x/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(loaded(said).unwrap(), paths);
        assert!(loaded("\tlibssl.so.3 => not found\n").is_err());
    }

    #[test]
    fn an_image_made_twice_is_the_same_image_and_another_program_is_another() {
        let directory =
            std::env::temp_dir().join(format!("headstart-image-{}", std::process::id()));
        let made = |bytes: &[u8], name: &str| {
            let own = BTreeMap::from([
                ("usr/bin/b".to_owned(), Entry::program(bytes.to_vec())),
                ("etc/a".to_owned(), Entry::file("a")),
                ("lib".to_owned(), Entry::link("usr/lib")),
            ]);
            let layers = vec![Layer::of(&own).unwrap()];
            let layout = Layout::new("amd64", &json!({"User": "1"}), layers).unwrap();
            let path = directory.join(name);
            layout.write(&path).unwrap();
            layout::digest(&path).unwrap()
        };
        let (first, again) = (made(b"one", "first"), made(b"one", "again"));
        assert_eq!(first, again);
        assert_ne!(first, made(b"two", "other"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
