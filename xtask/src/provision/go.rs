//! Programs of other people's Go modules, built once.
//!
//! `tests/NAME/go.mod` says which version, and pins all it is built from. Without an installed Go,
//! Debian's is unpacked beside what it builds; nothing of the machine changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{directory, lock, output, put_stamp, run, stamped};

/// As the testbed fetches packages of other Debian suites; one file, since neither crate needs the
/// other.
#[allow(unreachable_pub, reason = "it is a module of a library elsewhere")]
#[path = "../../../tests/src/debian.rs"]
mod debian;

/// The Go line Kubernetes is built with. A later one builds programs that publish a broken
/// OpenAPI, so that `kubectl apply` fails.
const LINE: (&str, &str) = ("go1.26.", "go1.26.4");

/// Debian sid's packages of that line.
const PACKAGES: [&str; 2] = ["golang-1.26-go", "golang-1.26-src"];

/// Packages built at a time: each takes most of a gigabyte.
const PARALLEL: &str = "2";

/// A compiler.
#[derive(Clone, Debug)]
pub(super) struct Go {
    program: PathBuf,
    /// What `GOTOOLCHAIN` must be: `local` if it is of the right line, else one it fetches.
    toolchain: String,
}

impl Go {
    /// The installed one, or Debian's.
    ///
    /// # Errors
    /// If none can be had.
    pub(super) fn find() -> Result<Self> {
        let (line, fetched) = LINE;
        let mut ask = Command::new("go");
        ask.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local");
        if let Ok(installed) = output(&mut ask) {
            let right = installed.starts_with(line);
            return Ok(Self {
                program: "go".into(),
                toolchain: if right { "local" } else { fetched }.to_owned(),
            });
        }
        let place = debian::place("golang", "sid");
        let program = place.join("usr/lib/go-1.26/bin/go");
        if !program.exists() {
            eprintln!("provision: Go, from Debian sid");
            // What holds the program comes last.
            for package in PACKAGES.iter().rev() {
                debian::unpack("sid", package, &place)
                    .context("there is no Go on this machine: install Go 1.26")?;
            }
        }
        let program = program.canonicalize().context("Debian's Go has no `go`")?;
        Ok(Self {
            program,
            toolchain: "local".to_owned(),
        })
    }

    /// Builds `package` of the module in the directory `module`, as gently as it goes.
    ///
    /// # Errors
    /// If it does not build.
    pub(super) fn build(&self, module: &Path, package: &str, flags: &str, to: &Path) -> Result<()> {
        let mut build = Command::new("nice");
        build.args(["-n", "10"]).arg(&self.program);
        build.args(["build", "-p", PARALLEL, "-trimpath", "-mod=readonly"]);
        build.args(["-buildvcs=false", "-ldflags", flags, "-o"]);
        build.arg(to).arg(package).current_dir(module);
        build.env("CGO_ENABLED", "0");
        run(build.env("GOTOOLCHAIN", &self.toolchain))
    }

    /// Where the sources of a required module are.
    fn sources(&self, module: &Path, required: &str) -> Result<PathBuf> {
        let mut fetch = Command::new(&self.program);
        fetch
            .args(["mod", "download", required])
            .current_dir(module);
        run(fetch.env("GOTOOLCHAIN", &self.toolchain))?;
        let mut list = Command::new(&self.program);
        list.args(["list", "-mod=readonly", "-m", "-f", "{{.Dir}}", required]);
        list.current_dir(module);
        let found = output(list.env("GOTOOLCHAIN", &self.toolchain))?;
        Ok(found.trim().into())
    }
}

/// A program of a module, and files of the module that go with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// Names a directory that has it already, and says where tests find it.
    pub(crate) variable: &'static str,
    /// The directory below `tests` with its `go.mod`, and the one it gets.
    name: &'static str,
    /// The module that is required.
    module: &'static str,
    /// What is built, below the module.
    package: &'static str,
    /// What the program is called; nothing where only files are wanted.
    program: &'static str,
    /// Linker flags beside `-s -w`.
    flags: &'static str,
    /// Directories of the module, separated by spaces, whose files are copied to `files`.
    files: Option<&'static str>,
}

/// Helm. Its idea of Kubernetes' version, where no cluster is asked, is stamped as upstream does.
const HELM: Program = Program {
    variable: "HEADSTART_HELM",
    name: "helm",
    module: "helm.sh/helm/v3",
    package: "/cmd/helm",
    program: "helm",
    flags: "-X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 \
        -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=37 \
        -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
        -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37",
    files: None,
};

/// KubeRay's operator and the definitions of its objects.
const KUBERAY: Program = Program {
    variable: "HEADSTART_KUBERAY",
    name: "kuberay",
    module: "github.com/ray-project/kuberay/ray-operator",
    package: "",
    program: "ray-operator",
    flags: "",
    files: Some("config/crd/bases"),
};

/// The definitions of Karpenter's objects.
const KARPENTER: Program = Program {
    variable: "HEADSTART_KARPENTER",
    name: "karpenter",
    module: "sigs.k8s.io/karpenter",
    package: "",
    program: "",
    flags: "",
    files: Some("pkg/apis/crds"),
};

/// KWOK's controller, and what its own installation has nodes and pods do.
const KWOK: Program = Program {
    variable: "HEADSTART_KWOK",
    name: "kwok",
    module: "sigs.k8s.io/kwok",
    package: "/cmd/kwok",
    program: "kwok",
    flags: "",
    files: Some(
        "kustomize/stage/node/fast kustomize/stage/node/heartbeat-with-lease \
         kustomize/stage/pod/fast",
    ),
};

/// All of them.
pub(crate) const PROGRAMS: [Program; 4] = [HELM, KUBERAY, KARPENTER, KWOK];

/// The directory with the program, which is built unless it is there already.
///
/// # Errors
/// When it cannot be built.
pub(crate) fn program(workspace: &Path, target: &Path, wanted: &Program) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(wanted.variable) {
        let named = PathBuf::from(named);
        let path = named.join(wanted.program);
        ensure!(
            path.exists(),
            "{}: there is no {}",
            wanted.variable,
            path.display()
        );
        return Ok(named);
    }
    let module = workspace.join("tests").join(wanted.name);
    let version = version(&module, wanted.module)?;
    let sums = module.join("go.sum");
    let sums = fs::read_to_string(&sums).with_context(|| format!("read {}", sums.display()))?;
    let _lock = lock(target)?;
    let home = directory(target).join(wanted.name).join(&version);
    let stamp = format!("{wanted:?}\n{sums}");
    if stamped(&home, &stamp) {
        return Ok(home);
    }
    eprintln!(
        "provision: {} {version} (a minute or two, once)",
        wanted.name
    );
    let files = home.join("files");
    fs::create_dir_all(&files).with_context(|| format!("make {}", files.display()))?;
    let go = Go::find()?;
    if !wanted.program.is_empty() {
        let package = format!("{}{}", wanted.module, wanted.package);
        let flags = format!("-s -w {}", wanted.flags);
        go.build(&module, &package, &flags, &home.join(wanted.program))?;
    }
    if let Some(taken) = wanted.files {
        let sources = go.sources(&module, wanted.module)?;
        for from in taken.split(' ').map(|directory| sources.join(directory)) {
            let listed = fs::read_dir(&from).with_context(|| format!("read {}", from.display()))?;
            for entry in listed {
                let entry = entry?;
                // Files of a module may not be written to; their copies may.
                if entry.file_type()?.is_file() {
                    fs::write(files.join(entry.file_name()), fs::read(entry.path())?)?;
                }
            }
        }
    }
    put_stamp(&home, &stamp)?;
    Ok(home)
}

/// The version of `required` that the module in that directory asks for.
///
/// # Errors
/// If it asks for none.
pub(super) fn version(module: &Path, required: &str) -> Result<String> {
    let path = module.join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let found = text.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        line.strip_prefix(required)?.strip_prefix(' ')
    });
    let found = found.with_context(|| format!("{} requires no {required}", path.display()))?;
    let version = found.split_whitespace().next().unwrap_or_default();
    Ok(version.to_owned())
}
