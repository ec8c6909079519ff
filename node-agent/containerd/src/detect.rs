//! Which way an image takes on this host, found by doing it once with an empty layer.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, Uid, XattrFlags};

use crate::client::{Runtime, unique};
use crate::error::Error;
use crate::lease::{Collect, Kind};
use crate::mounts;
use crate::proto::introspection::introspection_client::IntrospectionClient;
use crate::proto::introspection::{Plugin, PluginsRequest};
use crate::snapshots::{Made, Snapshots};
use crate::staging::Staging;
use crate::{fields, spec::Labels};

const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";

/// What the runtime is and which way an image takes into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// The runtime's name and version, such as `containerd 1.6.20`.
    pub version: String,
    /// Whether it serves the CRI, so that a kubelet can see its images.
    pub cri: bool,
    /// The snapshotter that the CRI uses.
    pub snapshotter: Option<String>,
    /// The snapshotter's directory, as the runtime sees it.
    pub snapshots_root: Option<PathBuf>,
    /// Whether the runtime drops layer blobs after its own pulls, where it tells.
    pub discard_unpacked_layers: Option<bool>,
    /// The way.
    pub verdict: Verdict,
}

/// The way an image takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Layers are renamed into prepared snapshots.
    Fast {
        /// Where sessions unpack.
        staging: PathBuf,
    },
    /// The runtime pulls.
    Cri {
        /// What stands against the fast way.
        why: String,
    },
}

impl Detected {
    /// Whether the fast way is open.
    pub fn is_fast(&self) -> bool {
        matches!(self.verdict, Verdict::Fast { .. })
    }
}

impl Runtime {
    /// Finds out once, and answers from memory afterwards.
    ///
    /// # Errors
    /// [`Error::Call`] if the runtime cannot even be asked; whatever stands against the fast way
    /// is a [`Verdict::Cri`].
    pub async fn detect(&self) -> Result<&Detected, Error> {
        self.inner
            .detected
            .get_or_try_init(|| self.find_out())
            .await
    }

    async fn find_out(&self) -> Result<Detected, Error> {
        let cri_version = self.cri_version().await?;
        let mut detected = Detected {
            version: String::new(),
            cri: cri_version.is_some(),
            snapshotter: None,
            snapshots_root: None,
            discard_unpacked_layers: None,
            verdict: Verdict::Cri { why: String::new() },
        };
        let Some(version) = self.version().await? else {
            let (name, version) = cri_version.unwrap_or_default();
            let why = format!("{name} {version} is not containerd");
            detected.version = format!("{name} {version}");
            detected.verdict = Verdict::Cri { why };
            return Ok(detected);
        };
        detected.version = format!("containerd {}", version.trim_start_matches('v'));
        let plugins = self.plugins().await?;
        let config = match detected.cri {
            true => self.cri_config().await?,
            false => None,
        };
        let file_systems = match detected.cri {
            true => self.usage().await?,
            false => Vec::new(),
        };
        let roots: Vec<_> = file_systems.iter().map(|fs| fs.path.as_str()).collect();
        let settings = Settings::read(config.as_ref(), &roots);
        detected.discard_unpacked_layers = settings.discard_unpacked_layers;
        detected.snapshotter = Some(settings.snapshotter.clone());
        detected.snapshots_root = root_of(&plugins, &settings.snapshotter);
        let found = self.fast(
            &version,
            &settings.snapshotter,
            detected.snapshots_root.as_deref(),
        );
        detected.verdict = match found.await {
            Ok(staging) => Verdict::Fast { staging },
            Err(why) => Verdict::Cri { why },
        };
        Ok(detected)
    }

    async fn fast(
        &self,
        version: &str,
        snapshotter: &str,
        root: Option<&Path>,
    ) -> Result<PathBuf, String> {
        if !is_at_least_1_6(version) {
            return Err(format!("containerd {version} is older than 1.6"));
        }
        if snapshotter != "overlayfs" {
            return Err(format!("its snapshotter is {snapshotter}, not overlayfs"));
        }
        let root = root.ok_or("it does not tell where its snapshots lie")?;
        if !rustix::process::geteuid().is_root() {
            return Err("this process is not root".into());
        }
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        if !is_initial_namespace(&map) {
            return Err("this process is in a user namespace".into());
        }
        let seen = self.seen_from_here(root);
        let state = seen
            .parent()
            .ok_or("its snapshots have no directory above")?;
        let staging = state.join("headstart-staging");
        if !seen.is_dir() {
            return Err(format!("{} cannot be seen from here", seen.display()));
        }
        let tried = self.try_it(snapshotter, &staging).await;
        tried.map_err(|error| error.to_string())?;
        Ok(staging)
    }

    /// Commits an empty layer and prepares another on it, as for an image, and takes both back.
    async fn try_it(&self, snapshotter: &str, base: &Path) -> Result<(), Error> {
        let session = format!("probe-{}", unique());
        let (at, name) = (base.to_owned(), session.clone());
        let staging = blocking(move || Staging::create(&at, &name)).await?;
        let target = headstart_core::digest::Sha256([0; 32]);
        let lease = self
            .create_lease(
                Kind::Session,
                &session,
                &target,
                std::time::Duration::from_secs(600),
            )
            .await?;
        let snapshots = Snapshots {
            runtime: self,
            snapshotter,
            lease: &lease,
        };
        let tried = self.try_layers(&snapshots, &session, &staging).await;
        for suffix in ["upper", "lower", "done"] {
            snapshots
                .remove(&format!("headstart-{session}-{suffix}"))
                .await?;
        }
        self.delete_lease(&lease, Collect::Later).await?;
        blocking(move || staging.remove()).await?;
        tried
    }

    async fn try_layers(
        &self,
        snapshots: &Snapshots<'_>,
        session: &str,
        staging: &Staging,
    ) -> Result<(), Error> {
        let labels = || Labels::from([(fields::SESSION.to_owned(), session.to_owned())]);
        let [lower, done, upper] =
            ["lower", "done", "upper"].map(|suffix| format!("headstart-{session}-{suffix}"));
        let refused = |what: &str| Error::NotFast {
            why: format!("the snapshotter does not {what} an empty layer"),
        };
        let Made::Done(mounts) = snapshots.prepare(&lower, None, labels()).await? else {
            return Err(refused("prepare"));
        };
        let place = mounts::place(snapshots.snapshotter, &mounts)?;
        let from = staging.layer(0);
        let to = self.seen_from_here(&place.upper);
        staging.make_layer(0)?;
        blocking(move || {
            try_marks(&from)?;
            fs::rename(&from, &to).map_err(|error| Error::disk("rename a layer to", &to, error))
        })
        .await?;
        let Made::Done(()) = snapshots.commit(&lower, &done, labels()).await? else {
            return Err(refused("commit"));
        };
        let Made::Done(mounts) = snapshots.prepare(&upper, Some(&done), labels()).await? else {
            return Err(refused("build on"));
        };
        if mounts::place(snapshots.snapshotter, &mounts)?.userxattr {
            return Err(Error::NotFast {
                why: "it runs in a user namespace".into(),
            });
        }
        Ok(())
    }

    async fn plugins(&self) -> Result<Vec<Plugin>, Error> {
        let message = PluginsRequest::default();
        let answer = self
            .rpc(
                "ask for its",
                "plugins",
                None,
                message,
                |channel, request| async move {
                    IntrospectionClient::new(channel).plugins(request).await
                },
            )
            .await?;
        Ok(answer.plugins)
    }
}

/// Whether this process may write what layers are made of: overlay marks, devices, owners.
fn try_marks(directory: &Path) -> Result<(), Error> {
    rustix::fs::setxattr(
        directory,
        "trusted.overlay.opaque",
        b"y",
        XattrFlags::empty(),
    )
    .and_then(|()| rustix::fs::removexattr(directory, "trusted.overlay.opaque"))
    .map_err(|error| Error::disk("set a trusted attribute on", directory, error.into()))?;
    let whiteout = directory.join("whiteout");
    rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0)
        .map_err(|error| Error::disk("make device", &whiteout, error.into()))?;
    rustix::fs::chown(&whiteout, Some(Uid::from_raw(1)), Some(Gid::from_raw(1)))
        .map_err(|error| Error::disk("change the owner of", &whiteout, error.into()))?;
    fs::remove_file(&whiteout).map_err(|error| Error::disk("remove", &whiteout, error))
}

/// Runs what waits for the disk.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    match done {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

struct Settings {
    snapshotter: String,
    discard_unpacked_layers: Option<bool>,
}

impl Settings {
    /// From the CRI plugin's configuration, where containerd 1.x tells the snapshotter; else from
    /// the snapshotters' directories that the CRI counts.
    fn read(config: Option<&serde_json::Value>, roots: &[&str]) -> Self {
        let section = config.and_then(|config| config.get("containerd"));
        let told = section.and_then(|section| section.get("snapshotter")?.as_str());
        let discard = section.and_then(|section| section.get("discardUnpackedLayers")?.as_bool());
        let names = roots
            .iter()
            .filter_map(|root| root.rsplit_once(SNAPSHOTTER));
        let names: Vec<_> = names
            .map(|(_, name)| name.trim_start_matches('.'))
            .collect();
        let counted = names.join(" and ");
        let known = [told.unwrap_or_default(), &counted, "overlayfs"];
        let snapshotter = known.into_iter().find(|name| !name.is_empty());
        Self {
            snapshotter: snapshotter.unwrap_or_default().into(),
            discard_unpacked_layers: discard,
        }
    }
}

fn root_of(plugins: &[Plugin], snapshotter: &str) -> Option<PathBuf> {
    let plugin = plugins
        .iter()
        .find(|plugin| plugin.r#type == SNAPSHOTTER && plugin.id == snapshotter)?;
    plugin.exports.get("root").map(PathBuf::from)
}

fn is_at_least_1_6(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split(['.', '-', '~', '+']);
    let mut next = || numbers.next().and_then(|part| part.parse::<u32>().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => (major, minor) >= (1, 6),
        _ => false,
    }
}

/// Whether `/proc/self/uid_map` maps everybody to themselves.
fn is_initial_namespace(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        for version in [
            "1.6.20",
            "v1.7.24",
            "1.10.0",
            "2.1.9+ds1-5",
            "2.0.0-beta.1",
            "1.6.20~ds1",
        ] {
            assert!(is_at_least_1_6(version), "{version}");
        }
        for version in ["1.5.18", "v1.4.13", "0.9", "", "unknown"] {
            assert!(!is_at_least_1_6(version), "{version}");
        }
    }

    #[test]
    fn the_snapshotter_is_the_one_that_the_cri_tells_else_counts_else_the_default() {
        let old = serde_json::json!({"containerd": {"snapshotter": "zfs", "discardUnpackedLayers": true}});
        let new = serde_json::json!({"containerd": {"defaultRuntimeName": "runc"}});
        let root = "/var/lib/containerd/io.containerd.snapshotter.v1.";
        let (soci, overlay) = (format!("{root}soci"), format!("{root}overlayfs"));
        for (config, roots, expected) in [
            (Some(&old), vec![overlay.as_str()], "zfs"),
            (Some(&new), vec![soci.as_str()], "soci"),
            (
                Some(&new),
                vec![overlay.as_str(), soci.as_str()],
                "overlayfs and soci",
            ),
            (None, vec![], "overlayfs"),
        ] {
            assert_eq!(Settings::read(config, &roots).snapshotter, expected);
        }
        assert_eq!(
            Settings::read(Some(&old), &[]).discard_unpacked_layers,
            Some(true)
        );
    }

    #[test]
    fn a_mapped_user_namespace_is_not_the_initial_one() {
        assert!(is_initial_namespace("         0          0 4294967295\n"));
        assert!(!is_initial_namespace("         0     100000      65536\n"));
        assert!(!is_initial_namespace(
            "         0       1000          1\n         1     100000      65536\n"
        ));
        assert!(!is_initial_namespace(""));
    }
}
