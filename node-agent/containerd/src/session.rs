//! One image on its way into containerd by the fast path.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headstart_core::digest::Sha256;
use rustix::fs::{Gid, Mode, Uid};

use crate::client::{Durability, Runtime, unique};
use crate::content::BlobWriter;
use crate::detect::{Verdict, blocking};
use crate::error::Error;
use crate::fields;
use crate::lease::{Collect, Keeper, Kind};
use crate::mounts::{self, Place};
use crate::snapshots::{Made, Snapshots};
use crate::spec::{Depth, ImageSpec};
use crate::staging::{self, Staging};

/// How often a snapshot is prepared again that somebody else made and lost.
const ATTEMPTS: usize = 5;

/// An image on its way into the runtime. Dropped, it leaves what the next
/// [`Runtime::begin`] of the same image goes on from, and [`Runtime::sweep`] removes.
pub struct Session {
    runtime: Runtime,
    spec: Arc<ImageSpec>,
    depth: Depth,
    hold: Duration,
    snapshotter: String,
    id: String,
    staging: Option<Staging>,
    keeper: Keeper,
    /// Layers below this one are committed.
    next: usize,
    attempts: u64,
}

/// A layer about to become a snapshot, for what only its place tells.
#[derive(Debug)]
pub struct StagedLayer {
    /// The unpacked layer.
    pub staging: PathBuf,
    /// Where it goes; empty.
    pub upperdir: PathBuf,
    /// The layers below, nearest first.
    pub lowerdirs: Vec<PathBuf>,
}

/// What became of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Its snapshot is made of what was staged.
    New,
    /// Somebody else was first; what was staged is removed.
    AlreadyThere,
}

/// What keeps an image's things after its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The digest of what the image's names point at.
    pub target: Sha256,
    /// The digest of its config, which is its id in the CRI.
    pub image_id: Sha256,
    /// How much of it is there.
    pub depth: Depth,
    /// Until when it is pinned or held (RFC 3339), if it is.
    pub until: Option<String>,
}

impl Runtime {
    /// Starts to make an image present. From here on nothing of it is collected: neither what is
    /// there nor what the session adds. `hold` is how long it stays pinned ([`Depth::Present`];
    /// zero: not at all) or held (the other depths) once it is finished.
    ///
    /// # Errors
    /// [`Error::Spec`] if the description contradicts itself; [`Error::NotFast`] for layers where
    /// the fast way is closed.
    pub async fn begin(
        &self,
        spec: Arc<ImageSpec>,
        depth: Depth,
        hold: Duration,
    ) -> Result<Session, Error> {
        spec.check()?;
        let detected = self.detect().await?;
        let snapshotter = detected.snapshotter.clone().unwrap_or_default();
        let base = match (&detected.verdict, depth) {
            (Verdict::Fast { staging }, _) => Some(staging.clone()),
            (Verdict::Cri { .. }, Depth::Content) => None,
            (Verdict::Cri { why }, _) => return Err(Error::NotFast { why: why.clone() }),
        };
        let id = unique();
        let staging = match base.clone() {
            Some(base) => {
                let id = id.clone();
                Some(blocking(move || Staging::create(&base, &id)).await?)
            }
            None => None,
        };
        let keeper = Keeper::start(self, &id, spec.target.digest).await?;
        let mut session = Session {
            runtime: self.clone(),
            spec,
            depth,
            hold,
            snapshotter,
            id,
            staging,
            keeper,
            next: 0,
            attempts: 0,
        };
        session.claim().await?;
        session.refresh().await?;
        if let Some(base) = base {
            session.inherit(base).await?;
        }
        Ok(session)
    }
}

impl Session {
    /// The image.
    pub fn spec(&self) -> &Arc<ImageSpec> {
        &self.spec
    }

    /// The layers that are not there, lowest first, as far as was known at the last look.
    pub fn missing(&self) -> Vec<usize> {
        (self.next..self.spec.layers.len()).collect()
    }

    /// Looks again which layers are missing: the runtime may be pulling too.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn refresh(&mut self) -> Result<Vec<usize>, Error> {
        if self.depth != Depth::Content {
            let lease = self.keeper.current();
            for layer in (self.next..self.spec.layers.len()).rev() {
                let chain_id = self.spec.layers[layer].chain_id.prefixed();
                if self.snapshots(&lease).exists(&chain_id).await? {
                    self.next = layer + 1;
                    break;
                }
            }
        }
        Ok(self.missing())
    }

    /// An empty directory, of root alone, to unpack a layer into. The same on every call.
    ///
    /// # Errors
    /// [`Error::Disk`]; [`Error::Order`] at [`Depth::Content`], where nothing is unpacked.
    pub fn staging(&self, layer: usize) -> Result<PathBuf, Error> {
        if layer >= self.spec.layers.len() {
            return Err(self.out_of_order(layer, "the image has no such layer"));
        }
        let staging = self.staging.as_ref();
        let staging =
            staging.ok_or_else(|| self.out_of_order(layer, "nothing is unpacked here"))?;
        staging.make_layer(layer)
    }

    /// Makes a snapshot of what was unpacked in [`Self::staging`]; in chain order only. `diff_id`
    /// is the sha256 of the tar that was unpacked. `fixup` runs on a thread for blocking work when
    /// all layers below are known.
    ///
    /// # Errors
    /// [`Error::Content`] if `diff_id` is not what the config promises; [`Error::Order`] if a
    /// layer below is missing. After an error the layer can be committed again; it must be
    /// unpacked again if its staging directory is gone, which is so once it was moved to its place.
    pub async fn commit<F>(
        &mut self,
        layer: usize,
        diff_id: Sha256,
        fixup: F,
    ) -> Result<Committed, Error>
    where
        F: FnOnce(&StagedLayer) -> io::Result<()> + Send + 'static,
    {
        let Some(described) = self.spec.layers.get(layer) else {
            return Err(self.out_of_order(layer, "the image has no such layer"));
        };
        let directory = match &self.staging {
            Some(staging) => staging.layer(layer),
            None => return Err(self.out_of_order(layer, "nothing is unpacked here")),
        };
        if diff_id != described.diff_id {
            let error = Error::Content {
                image: self.spec.name(),
                layer,
                blob: described.descriptor.digest.prefixed(),
            };
            blocking(move || staging::remove_tree(&directory)).await?;
            return Err(error);
        }
        if layer > self.next {
            return Err(self.out_of_order(layer, "a layer below it is not committed yet"));
        }
        if layer < self.next {
            blocking(move || staging::remove_tree(&directory)).await?;
            return Ok(Committed::AlreadyThere);
        }
        if !directory.is_dir() {
            return Err(self.out_of_order(layer, "nothing was unpacked for it"));
        }
        let committed = self.make_snapshot(layer, directory, fixup).await?;
        self.next = layer + 1;
        Ok(committed)
    }

    /// Starts to store a layer's blob, or finds it stored.
    ///
    /// # Errors
    /// [`Error::Busy`] if the runtime is fetching it itself.
    pub async fn blob(&self, layer: usize) -> Result<Option<BlobWriter>, Error> {
        let Some(described) = self.spec.layers.get(layer) else {
            return Err(self.out_of_order(layer, "the image has no such layer"));
        };
        let labels = match self.depth {
            Depth::Present => fields::layer_blob(&self.spec, layer),
            Depth::Layers | Depth::Content => fields::source(&self.spec),
        };
        let reference = format!("layer-{}", described.descriptor.digest.prefixed());
        let lease = self.keeper.current();
        self.runtime
            .start_blob(&lease, &described.descriptor, reference, labels)
            .await
    }

    /// Makes what was committed stay: by the image's records, or by a lease of its own. The
    /// session's lease and staging go, and at [`Depth::Present`] the runtime is seen to list the
    /// image.
    ///
    /// # Errors
    /// [`Error::Order`] if a layer is missing; [`Error::Invisible`] if the runtime does not list
    /// the image.
    pub async fn finish(self) -> Result<Held, Error> {
        let lease = self.keeper.current();
        self.check_complete().await?;
        let until = match self.depth {
            Depth::Present => {
                let until = (!self.hold.is_zero()).then(|| fields::after(self.hold));
                self.write_records(&lease, until.as_deref()).await?;
                until
            }
            Depth::Layers | Depth::Content => Some(self.hold().await?),
        };
        let held = Held {
            target: self.spec.target.digest,
            image_id: self.spec.config.descriptor.digest,
            depth: self.depth,
            until,
        };
        let (runtime, name) = (self.runtime.clone(), self.spec.name());
        self.leave().await?;
        if held.depth == Depth::Present && runtime.detect().await?.cri {
            runtime
                .until_listed(&name, &held.image_id.prefixed())
                .await?;
        }
        Ok(held)
    }

    /// Gives up: removes what the session made and nothing else holds.
    ///
    /// # Errors
    /// The first thing that could not be removed; [`Runtime::sweep`] removes it later.
    pub async fn abandon(self) -> Result<(), Error> {
        self.leave().await
    }

    /// Puts everything that the image consists of under the lease, there or not yet.
    async fn claim(&self) -> Result<(), Error> {
        let lease = self.keeper.current();
        for (kind, object) in self.wanted(self.depth != Depth::Content) {
            self.runtime.add_resource(&lease, &kind, &object).await?;
        }
        Ok(())
    }

    /// What the image's lease holds: snapshots, or blobs, or both where blobs are kept.
    fn wanted(&self, layers: bool) -> Vec<(String, String)> {
        let snapshots = format!("snapshots/{}", self.snapshotter);
        let chain = self.spec.chain().map(|id| (snapshots.clone(), id));
        let blobs = self.spec.layers.iter();
        let blobs = blobs.map(|layer| ("content".to_owned(), layer.descriptor.digest.prefixed()));
        let mut wanted: Vec<_> = chain.filter(|_| layers).collect();
        wanted.extend(blobs.filter(|_| !layers || self.runtime.inner.config.keep_blobs));
        wanted
    }

    /// Takes over from dead sessions of the same image: their leases are no longer needed.
    async fn inherit(&self, base: PathBuf) -> Result<(), Error> {
        // In this order: a session has its staging before its lease, so one that starts meanwhile
        // is either not listed or known to live.
        let leases = self.runtime.our_leases().await?;
        let living = blocking(move || staging::living(&base)).await?;
        for lease in leases {
            let dead = lease
                .session()
                .is_some_and(|session| !living.contains(session));
            if dead && lease.is_for(Kind::Session, &self.spec.target.digest) {
                self.runtime.delete_lease(&lease.id, Collect::Later).await?;
            }
        }
        Ok(())
    }

    async fn make_snapshot<F>(
        &mut self,
        layer: usize,
        directory: PathBuf,
        fixup: F,
    ) -> Result<Committed, Error>
    where
        F: FnOnce(&StagedLayer) -> io::Result<()> + Send + 'static,
    {
        let chain_id = self.spec.layers[layer].chain_id.prefixed();
        let lease = self.keeper.current();
        let Some((key, place)) = self.prepare(&lease, layer, &chain_id).await? else {
            blocking(move || staging::remove_tree(&directory)).await?;
            return Ok(Committed::AlreadyThere);
        };
        let snapshots = self.snapshots(&lease);
        let staged = StagedLayer {
            staging: directory.clone(),
            upperdir: self.runtime.seen_from_here(&place.upper),
            lowerdirs: place
                .lower
                .iter()
                .map(|path| self.runtime.seen_from_here(path))
                .collect(),
        };
        let durability = self.runtime.inner.config.durability;
        let made = match blocking(move || put_in_place(&staged, durability, fixup)).await {
            Ok(()) => commit_or_find(&snapshots, &key, &chain_id).await,
            Err(error) => Err(error),
        };
        if made.is_err() {
            // The files stay where they are: the commit may have been heard although its answer
            // was not, and then they are a snapshot's. Otherwise they go with the prepared one,
            // now or by a sweep.
            let _ = snapshots.remove(&key).await;
        }
        made
    }

    /// Prepares a snapshot for a layer, or finds that there is one. containerd 1.6 does not put a
    /// snapshot that it finds under the lease, so a collection may take one found a moment ago:
    /// it is looked for again.
    async fn prepare(
        &mut self,
        lease: &str,
        layer: usize,
        chain_id: &str,
    ) -> Result<Option<(String, Place)>, Error> {
        let below = layer
            .checked_sub(1)
            .map(|below| self.spec.layers[below].chain_id.prefixed());
        for _ in 0..ATTEMPTS {
            self.attempts += 1;
            let key = fields::key(&self.id, self.attempts, chain_id);
            let labels = fields::prepared(&self.id, chain_id);
            let snapshots = self.snapshots(lease);
            let mounts = match snapshots.prepare(&key, below.as_deref(), labels).await? {
                Made::Done(mounts) => Some(mounts),
                Made::Exists if snapshots.exists(chain_id).await? => return Ok(None),
                Made::Exists => snapshots.mounts(&key).await?,
                Made::Gone => {
                    return Err(self.out_of_order(layer, "the layer below it was removed"));
                }
            };
            let Some(mounts) = mounts else {
                continue;
            };
            return match mounts::place(&self.snapshotter, &mounts) {
                Ok(place) => Ok(Some((key, place))),
                Err(error) => {
                    snapshots.remove(&key).await?;
                    Err(error)
                }
            };
        }
        Err(self.out_of_order(layer, "others keep making and removing its snapshot"))
    }

    async fn check_complete(&self) -> Result<(), Error> {
        let absent = "it is neither committed nor found";
        if self.depth != Depth::Content {
            if let Some(&missing) = self.missing().first() {
                return Err(self.out_of_order(missing, absent));
            }
            let lease = self.keeper.current();
            let top = self.spec.layers.len() - 1;
            let chain_id = self.spec.layers[top].chain_id.prefixed();
            if !self.snapshots(&lease).exists(&chain_id).await? {
                return Err(self.out_of_order(top, "its snapshot was removed meanwhile"));
            }
        }
        if self.depth == Depth::Content || self.runtime.inner.config.keep_blobs {
            for (layer, described) in self.spec.layers.iter().enumerate() {
                if !self
                    .runtime
                    .has_blob(&described.descriptor.digest.prefixed())
                    .await?
                {
                    return Err(self.out_of_order(layer, absent));
                }
            }
        }
        Ok(())
    }

    /// Writes config, manifest, index and records, each with what it keeps, innermost first.
    async fn write_records(&self, lease: &str, pinned_until: Option<&str>) -> Result<(), Error> {
        let (runtime, spec) = (&self.runtime, &*self.spec);
        let stored = runtime.inner.config.keep_blobs;
        runtime
            .put_blob(lease, &spec.config, fields::config(spec, &self.snapshotter))
            .await?;
        runtime
            .put_blob(lease, &spec.manifest, fields::manifest(spec, stored))
            .await?;
        if let Some(index) = &spec.index {
            runtime.put_blob(lease, index, fields::index(spec)).await?;
        }
        for name in fields::record_names(spec) {
            runtime
                .put_record(lease, &name, &spec.target, fields::record(pinned_until))
                .await?;
        }
        Ok(())
    }

    /// Holds the layers without records.
    async fn hold(&self) -> Result<String, Error> {
        let target = &self.spec.target.digest;
        let until = fields::after(self.hold);
        let older = self.runtime.our_leases().await?;
        let lease = self
            .runtime
            .create_lease(Kind::Hold, &self.id, target, self.hold)
            .await?;
        let wanted = self.wanted(self.depth != Depth::Content);
        for (kind, object) in wanted {
            self.runtime.add_resource(&lease, &kind, &object).await?;
        }
        for older in older
            .iter()
            .filter(|older| older.is_for(Kind::Hold, target))
        {
            self.runtime.delete_lease(&older.id, Collect::Later).await?;
        }
        Ok(until)
    }

    /// Removes what only the session needed.
    async fn leave(self) -> Result<(), Error> {
        let lease = self.keeper.current();
        let snapshots = self.snapshots(&lease);
        if self.attempts > 0 {
            for snapshot in snapshots.ours().await? {
                if snapshot.labels.get(fields::SESSION) == Some(&self.id) {
                    snapshots.remove(&snapshot.name).await?;
                }
            }
        }
        if let Some(staging) = self.staging {
            blocking(move || staging.remove()).await?;
        }
        self.keeper.end(&self.runtime, Collect::Now).await
    }

    fn snapshots<'a>(&'a self, lease: &'a str) -> Snapshots<'a> {
        Snapshots {
            runtime: &self.runtime,
            snapshotter: &self.snapshotter,
            lease,
        }
    }

    fn out_of_order(&self, layer: usize, problem: &'static str) -> Error {
        Error::Order {
            image: self.spec.name(),
            layer,
            problem,
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("image", &self.spec.name())
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}

/// Commits a prepared snapshot whose files are in place, unless somebody else committed the same.
async fn commit_or_find(
    snapshots: &Snapshots<'_>,
    key: &str,
    chain_id: &str,
) -> Result<Committed, Error> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match snapshots
            .commit(key, chain_id, fields::committed(chain_id))
            .await?
        {
            Made::Done(()) => return Ok(Committed::New),
            // An earlier try of ours may have been heard although its answer was not.
            made @ (Made::Exists | Made::Gone) => {
                if snapshots.exists(chain_id).await? {
                    snapshots.remove(key).await?;
                    return Ok(Committed::AlreadyThere);
                }
                last = Some(made);
            }
        }
    }
    let status = tonic::Status::aborted(format!("others keep making and removing it: {last:?}"));
    Err(Error::call("commit snapshot", chain_id, &status))
}

/// Finishes a layer's files and moves them where the snapshotter looks for them. Blocks.
fn put_in_place<F>(layer: &StagedLayer, durability: Durability, fixup: F) -> Result<(), Error>
where
    F: FnOnce(&StagedLayer) -> io::Result<()>,
{
    let StagedLayer {
        staging, upperdir, ..
    } = layer;
    fixup(layer).map_err(|error| Error::disk("finish layer", staging, error))?;
    let like = fs::metadata(upperdir).map_err(|error| Error::disk("look at", upperdir, error))?;
    let (owner, group) = (Uid::from_raw(like.uid()), Gid::from_raw(like.gid()));
    rustix::fs::chown(staging, Some(owner), Some(group))
        .and_then(|()| rustix::fs::chmod(staging, Mode::from_raw_mode(like.mode())))
        .map_err(|error| Error::disk("set owner and mode of", staging, error.into()))?;
    fs::rename(staging, upperdir)
        .map_err(|error| Error::disk("move a layer to", upperdir, error))?;
    match durability {
        Durability::Always => sync(upperdir),
        Durability::Never => Ok(()),
    }
}

/// Everything written to the file system of `path`, names included, reaches the disk.
fn sync(path: &Path) -> Result<(), Error> {
    let directory = fs::File::open(path).map_err(|error| Error::disk("open", path, error))?;
    rustix::fs::syncfs(directory)
        .map_err(|error| Error::disk("write to disk what is under", path, error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_can_move_between_threads_while_they_work() {
        fn begin(runtime: &Runtime, spec: Arc<ImageSpec>) -> impl Future + Send {
            runtime.begin(spec, Depth::Present, Duration::ZERO)
        }
        fn commit(session: &mut Session, diff_id: Sha256) -> impl Future + Send {
            session.commit(0, diff_id, |_| Ok(()))
        }
        fn finish(session: Session) -> impl Future + Send {
            session.finish()
        }
        let _ = (begin, commit, finish);
    }
}
