//! The plugin as the kubelet speaks to it: real sockets and the testbed's Hub; mounts are noted
//! down instead of made, and weights arrive when a test says so.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use headstart_api::names::{CSI_DRIVER, CSI_MODEL, CSI_ON_REFUSAL};
use headstart_core::digest::Expected;
use headstart_core::model::ModelRef;
use headstart_hub::layout::Tree;
use headstart_hub::plan::{ModelPlan, PlanId};
use headstart_testbed::hub::{Access as Who, Hub as Server, Options, RepoFile};
use headstart_testbed::serve::{Fault, When};
use headstart_transfer::net::{HostPolicy, HostPort};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::mounts::Access;
use super::wire::csi::identity_client::IdentityClient;
use super::wire::csi::node_client::NodeClient;
use super::wire::registration::registration_client::RegistrationClient;
use super::wire::{csi, registration};
use super::*;
use crate::store::{Quota, RootRule};

const WAIT: Duration = Duration::from_secs(20);
const OPEN: &str = "hf://org/open";
const GATED: &str = "hf://org/gated";

mod volumes;

/// Mounts as they would be.
#[derive(Default)]
struct Noted(Mutex<BTreeMap<PathBuf, (PathBuf, Access)>>);

impl Mounts for Noted {
    fn bind(&self, from: &Path, at: &Path, access: Access) -> io::Result<()> {
        assert!(from.is_dir(), "{}", from.display());
        // A place within a mount is a place within what is mounted.
        let mut noted = self.0.lock().unwrap();
        let within = noted.iter().find_map(|(outer, (from, _))| {
            let below = at.strip_prefix(outer).ok()?;
            Some(from.join(below))
        });
        let place = within.unwrap_or_else(|| at.to_owned());
        assert!(place.is_dir(), "{}", place.display());
        noted.insert(at.to_owned(), (from.to_owned(), access));
        Ok(())
    }

    fn detach(&self, at: &Path) -> io::Result<()> {
        let mut noted = self.0.lock().unwrap();
        noted.retain(|place, _| !place.starts_with(at));
        Ok(())
    }

    fn below(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let noted = self.0.lock().unwrap();
        let below = noted.keys().filter(|place| place.starts_with(directory));
        Ok(below.cloned().collect())
    }
}

/// Weights that arrive when they are told to.
struct Scripted {
    store: Arc<Store>,
    contents: HashMap<Expected, Vec<u8>>,
    coming: Mutex<HashMap<PlanId, (Asked, watch::Sender<Arrival>)>>,
    begun: Mutex<Vec<Asked>>,
    known: Mutex<Vec<(ModelRef, Known)>>,
}

impl Scripted {
    fn new(store: Arc<Store>, files: &[RepoFile]) -> Self {
        let content = |file: &RepoFile| {
            let expected = match file.large {
                Some(large) => Expected::Sha256(large.sha256),
                None => Expected::GitSha1(file.blob_id),
            };
            let bytes = file.content.to_bytes().unwrap();
            (expected, bytes.to_vec())
        };
        Self {
            store,
            contents: files.iter().map(content).collect(),
            coming: Mutex::default(),
            begun: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// What has been asked for, by whose token.
    fn begun(&self) -> Vec<(String, bool)> {
        let begun = self.begun.lock().unwrap();
        let one = |asked: &Asked| (asked.model.repo.to_string(), asked.token.is_some());
        begun.iter().map(one).collect()
    }

    /// Some bytes of everything under way have come.
    fn come(&self, done: u64) {
        for (_, tell) in self.coming.lock().unwrap().values() {
            tell.send_modify(|arrival| arrival.done = done);
        }
    }

    /// Everything under way ends.
    fn end(&self, stage: impl Fn(&Asked) -> Stage) {
        for (_, (asked, tell)) in self.coming.lock().unwrap().drain() {
            let stage = stage(&asked);
            tell.send_modify(|arrival| arrival.stage = stage);
        }
    }

    /// Everything under way is there.
    fn arrive(&self) {
        self.end(|asked| {
            self.publish(&asked.plan, usize::MAX);
            self.ready(&asked.plan)
        });
    }

    fn ready(&self, plan: &ModelPlan) -> Stage {
        let id = plan.id();
        let root = self.store.model(&id.to_string()).into();
        Stage::Ready { id, root }
    }

    fn publish(&self, plan: &ModelPlan, files: usize) {
        for file in plan.files.iter().take(files) {
            self.store.make_object_dir(&file.expected).unwrap();
            let object = self.store.object(&file.expected);
            if !object.exists() {
                fs::write(object, &self.contents[&file.expected]).unwrap();
                self.store.seal(&file.expected).unwrap();
            }
        }
        let tree = Tree::at(self.store.model(&plan.id().to_string()));
        let object = |expected: &Expected| self.store.object(expected);
        if files >= plan.files.len() {
            let _ = tree.publish(plan, &object).unwrap();
        }
    }

    fn remember(&self, model: &str, public_since: Option<Duration>) {
        let begun = self.begun.lock().unwrap();
        let plan = begun.last().unwrap().plan.clone();
        let known = Known { plan, public_since };
        let entry = (model.parse().unwrap(), known);
        self.known.lock().unwrap().push(entry);
    }
}

impl Weights for Scripted {
    fn known(&self, model: ModelRef) -> BoxFuture<'static, Option<Known>> {
        let known = self.known.lock().unwrap();
        let found = known.iter().find(|(asked, _)| *asked == model);
        let found = found.map(|(_, known)| known.clone());
        Box::pin(async move { found })
    }

    fn begin(&self, asked: Asked) -> watch::Receiver<Arrival> {
        let id = asked.plan.id();
        let mut coming = self.coming.lock().unwrap();
        if let Some((_, tell)) = coming.get(&id) {
            return tell.subscribe();
        }
        let there = self.store.model(&id.to_string());
        let stage = match there.join("hub").exists() {
            true => self.ready(&asked.plan),
            false => Stage::Underway,
        };
        let is_coming = stage == Stage::Underway;
        let (tell, arrival) = watch::channel(Arrival {
            done: 0,
            total: asked.plan.bytes(),
            why: String::new(),
            stage,
        });
        self.begun.lock().unwrap().push(asked.clone());
        if is_coming {
            coming.insert(id, (asked, tell));
        }
        arrival
    }
}

struct World {
    server: Server,
    directory: tempfile::TempDir,
    store: Arc<Store>,
    weights: Arc<Scripted>,
    mounts: Arc<Noted>,
    metrics: Arc<Metrics>,
    problem: watch::Sender<String>,
    _lock: crate::store::Lock,
}

/// A plugin that runs.
struct Plugin {
    node: NodeClient<Channel>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), CsiError>>,
}

impl World {
    async fn new() -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        let file = |path: &str, bytes: &[u8]| RepoFile::new(path, bytes.to_vec()).unwrap();
        let mut all = Vec::new();
        for (repo, seed) in [("org/open", 1), ("org/gated", 2)] {
            let files = vec![
                file("config.json", format!("{{\"of\": \"{repo}\"}}").as_bytes()),
                file("model.safetensors", &vec![seed; 300_000]),
            ];
            server.commit(repo, "main", files.clone());
            all.extend(files);
        }
        server.set_access("org/gated", Who::Gated).unwrap();
        server.add_token("hf_right", "a");
        server.add_token("hf_other", "b");
        server.grant("hf_right", "org/gated").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let quota = Quota {
            max_bytes: None,
            keep_free_percent: 0,
        };
        let root = directory.path().join("store");
        let (store, lock) = Store::open_or_make(&root, &RootRule::Directory, quota).unwrap();
        let store = Arc::new(store);
        Self {
            server,
            weights: Arc::new(Scripted::new(store.clone(), &all)),
            directory,
            store,
            mounts: Arc::default(),
            metrics: Arc::default(),
            problem: watch::Sender::new(String::new()),
            _lock: lock,
        }
    }

    fn kubelet(&self) -> PathBuf {
        self.directory.path().join("kubelet")
    }

    async fn serve(&self, rules: Rules) -> Plugin {
        let mut policy = HostPolicy::default();
        policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
        let stop = CancellationToken::new();
        let config = Config {
            node: "n1".to_owned(),
            kubelet: self.kubelet(),
            socket: self
                .kubelet()
                .join(format!("plugins/{CSI_DRIVER}/csi.sock")),
            hub: Hub::new(self.server.endpoint().parse().unwrap(), None),
            http: Http::new(policy).unwrap(),
            store: self.store.clone(),
            rules,
            metrics: self.metrics.clone(),
            problem: self.problem.clone(),
        };
        let weights: Arc<dyn Weights> = self.weights.clone();
        let served = serve_with(config, weights, self.mounts.clone(), stop.clone());
        let served = tokio::spawn(served);
        let socket = format!("plugins/{CSI_DRIVER}/csi.sock");
        let channel = connect(&self.kubelet().join(socket)).await;
        Plugin {
            node: NodeClient::new(channel),
            stop,
            served,
        }
    }

    fn target(&self, pod: &str) -> PathBuf {
        let below = format!("pods/{pod}/volumes/kubernetes.io~csi/m/mount");
        self.kubelet().join(below)
    }

    fn request(&self, pod: &str, models: &str) -> csi::NodePublishVolumeRequest {
        let target = self.target(pod);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        let context = [
            (CSI_MODEL, models),
            ("csi.storage.k8s.io/pod.name", pod),
            ("csi.storage.k8s.io/pod.namespace", "tenant"),
            ("csi.storage.k8s.io/ephemeral", "true"),
        ];
        let context = context.map(|(key, value)| (key.to_owned(), value.to_owned()));
        csi::NodePublishVolumeRequest {
            volume_id: format!("csi-{pod}"),
            target_path: target.display().to_string(),
            volume_context: context.into(),
            ..csi::NodePublishVolumeRequest::default()
        }
    }

    /// What is mounted for a pod: place within its volume, what is there, who may write.
    fn mounted(&self, pod: &str) -> Vec<(String, PathBuf, Access)> {
        let target = self.target(pod);
        let noted = self.mounts.0.lock().unwrap();
        let within = noted.iter().filter_map(|(at, (from, access))| {
            let below = at.strip_prefix(&target).ok()?;
            Some((below.display().to_string(), from.clone(), *access))
        });
        within.collect()
    }

    /// The pod's own cache.
    fn view(&self, pod: &str) -> PathBuf {
        let mounted = self.mounted(pod);
        mounted.first().unwrap().1.clone()
    }

    /// A file of a pod's cache, read over its links as the pod would: within a nested mount they
    /// lead on in what is mounted there.
    fn read(&self, pod: &str, path: &str) -> io::Result<Vec<u8>> {
        let view = self.view(pod);
        let link = fs::read_link(view.join(path))?;
        let blob = view.join(path).parent().unwrap().join(link);
        let place = blob.parent().unwrap().join(fs::read_link(&blob)?);
        let place = normal(&place);
        let mounted = self.mounted(pod);
        let inside = mounted.iter().skip(1).find_map(|(at, from, _)| {
            let below = place.strip_prefix(view.join(at)).ok()?;
            Some(from.join(below))
        });
        fs::read(inside.ok_or(io::ErrorKind::NotFound)?)
    }

    fn is_empty(&self, directory: &Path) -> bool {
        fs::read_dir(directory).unwrap().next().is_none()
    }

    fn goes_away(&self) {
        self.server
            .faults()
            .add(When::path("/"), Fault::Status(503));
    }
}

impl Plugin {
    async fn publish(&mut self, request: csi::NodePublishVolumeRequest) -> Result<(), Status> {
        self.node.node_publish_volume(request).await.map(|_| ())
    }

    async fn unpublish(&mut self, request: &csi::NodePublishVolumeRequest) {
        let request = csi::NodeUnpublishVolumeRequest {
            volume_id: request.volume_id.clone(),
            target_path: request.target_path.clone(),
        };
        self.node.node_unpublish_volume(request).await.unwrap();
    }

    async fn end(self) {
        self.stop.cancel();
        self.served.await.unwrap().unwrap();
    }
}

/// With `..` taken away, which no link of a view leads through another link.
fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

async fn connect(socket: &Path) -> Channel {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    until(async || endpoint.connect().await.ok()).await
}

/// Waits until there is one.
async fn until<T>(find: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            match find().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(WAIT, found).await.unwrap()
}

/// Calls are held for moments.
fn quick() -> Rules {
    Rules {
        hold: HoldRules {
            most: Duration::from_millis(600),
            first: Duration::from_millis(300),
            deadline: WAIT,
        },
        ..Rules::default()
    }
}

fn with_token(
    mut request: csi::NodePublishVolumeRequest,
    token: &str,
) -> csi::NodePublishVolumeRequest {
    request.secrets.insert("token".to_owned(), token.to_owned());
    request
}

#[tokio::test]
async fn the_kubelet_finds_the_plugin_also_when_its_socket_was_removed() {
    let world = World::new().await;
    let mut plugin = world.serve(quick()).await;
    let registry = world.kubelet().join("plugins_registry");
    let socket = registry.join(format!("{CSI_DRIVER}-reg.sock"));
    for _ in 0..2 {
        let mut kubelet = RegistrationClient::new(connect(&socket).await);
        let info = kubelet
            .get_info(registration::InfoRequest {})
            .await
            .unwrap();
        let info = info.into_inner();
        assert_eq!((&*info.r#type, &*info.name), ("CSIPlugin", CSI_DRIVER));
        let mut who = IdentityClient::new(connect(Path::new(&info.endpoint)).await);
        let name = who.get_plugin_info(csi::GetPluginInfoRequest {}).await;
        assert_eq!(name.unwrap().into_inner().name, CSI_DRIVER);
        let ready = who.probe(csi::ProbeRequest {}).await.unwrap();
        assert_eq!(ready.into_inner().ready, Some(true));
        let answer = registration::RegistrationStatus {
            plugin_registered: true,
            error: String::new(),
        };
        kubelet.notify_registration_status(answer).await.unwrap();
        fs::remove_file(&socket).unwrap();
    }
    let node = plugin.node.node_get_info(csi::NodeGetInfoRequest {}).await;
    assert_eq!(node.unwrap().into_inner().node_id, "n1");
    plugin.end().await;
    assert!(world.is_empty(&registry));
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_with_its_field_and_leaves_nothing() {
    let world = World::new().await;
    let mut plugin = world.serve(quick()).await;
    let mut elsewhere = world.request("p", OPEN);
    elsewhere.target_path = "/etc/mount/x".to_owned();
    for (request, said) in [
        (world.request("p", "s3://bucket/x"), "s3"),
        (world.request("p", ""), CSI_MODEL),
        (elsewhere, "target_path"),
    ] {
        let refused = plugin.publish(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(said), "{refused}");
    }
    assert!(world.is_empty(&world.store.root().join("views")));
}
