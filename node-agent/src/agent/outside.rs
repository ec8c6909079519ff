//! What happens outside that work waits for: a network that comes up, a socket that appears, a file
//! that is replaced.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::Agent;
use crate::items::blocking;

/// How often routes are looked at while nobody has answered yet: a first request has two seconds
/// from the network's coming up. The kernel tells of `/proc` by no event.
const ROUTES_EVERY: Duration = Duration::from_millis(200);

/// How often afterwards.
const ROUTES_LATER: Duration = Duration::from_secs(5);

/// How often a file is looked at when nothing is heard of it: not every file system tells.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tells the agent of a network that comes up or changes; ends never.
pub(crate) async fn watch_network(agent: Agent) {
    let mut known = None;
    loop {
        let found = blocking(ways_out).await;
        let answered = agent.was_answered();
        if found.is_some() || answered {
            agent.network_is_there();
        }
        if found != known {
            tracing::info!(is_up = found.is_some(), "routes changed");
            // The first look finds what was there before anything was tried.
            if found.is_some() {
                agent.network_changed();
            }
            known = found;
        }
        let pause = if answered { ROUTES_LATER } else { ROUTES_EVERY };
        tokio::time::sleep(pause).await;
    }
}

/// This machine's default routes; none without one.
fn ways_out() -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    defaults(&read("/proc/net/route"), &read("/proc/net/ipv6_route"))
}

/// The default routes in the kernel's tables (proc(5), and `net/ipv6/route.c` for the second).
fn defaults(v4: &str, v6: &str) -> Option<String> {
    let of_v4 = v4.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, target, gateway) = (fields.next()?, fields.next()?, fields.next()?);
        (target == "00000000").then(|| format!("{device} {gateway}"))
    });
    let of_v6 = v6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [target, length, _, _, gateway, .., device] = fields[..] else {
            return None;
        };
        let is_default = target.bytes().all(|byte| byte == b'0') && length == "00";
        (is_default && device != "lo").then(|| format!("{device} {gateway}"))
    });
    let all: Vec<String> = of_v4.chain(of_v6).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Waits until something listens on the socket at `path`.
pub(crate) async fn until_listening(path: &Path) {
    loop {
        let changes = Changes::at(path);
        if UnixStream::connect(path).await.is_ok() {
            return;
        }
        // A socket is there before anybody listens, and no event tells when somebody does.
        match path.exists() {
            true => tokio::time::sleep(ROUTES_EVERY).await,
            false => changes.next().await,
        }
    }
}

/// Changes around a path that may not be there: whatever is renamed, linked or written beside it.
pub(crate) struct Changes {
    heard: Arc<Notify>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    /// Watches the directory of `path`, or the nearest above it that is there.
    pub(crate) fn at(path: &Path) -> Self {
        let heard = Arc::new(Notify::new());
        let tell = heard.clone();
        let watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| {
            tell.notify_one();
        });
        let watched = watcher.and_then(|mut watcher| {
            watcher.watch(&nearest(path), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        let watcher = watched.inspect_err(|error| {
            tracing::warn!(path = %path.display(), reason = %error, "not told of changes, looked at instead");
        });
        Self {
            heard,
            _watcher: watcher.ok(),
        }
    }

    /// Waits for the next change, or long enough that one may have been missed.
    pub(crate) async fn next(&self) {
        let heard = self.heard.notified();
        let _ = tokio::time::timeout(LOOK_EVERY, heard).await;
    }
}

/// The nearest directory above `path` that is there.
fn nearest(path: &Path) -> PathBuf {
    let mut above = path
        .ancestors()
        .skip(1)
        .filter(|above| !above.as_os_str().is_empty());
    let found = above.find(|above| above.is_dir());
    found.unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    const V6: &str = "\
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0
fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[test]
    fn a_way_out_is_a_default_route_of_either_kind_but_not_the_kernels_own_refusal() {
        assert_eq!(defaults(V4, "").as_deref(), Some("eth0 0100000A"));
        let v6 = "eth0 fe800000000000000000000000000001";
        assert_eq!(defaults("", V6).as_deref(), Some(v6));
        let both = defaults(V4, V6).unwrap();
        assert_eq!(both, format!("eth0 0100000A; {v6}"));
        let none = V6.lines().skip(1).collect::<Vec<_>>().join("\n");
        assert_eq!(defaults("Iface\tDestination\tGateway\n", &none), None);
        assert_eq!(defaults("short\n\n", "x"), None);
    }

    #[tokio::test]
    async fn a_socket_is_waited_for_from_before_its_directory_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/containerd/containerd.sock");
        let waiting = tokio::spawn({
            let path = path.clone();
            async move { until_listening(&path).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        waited.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_swapped_link_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intent.json");
        let changes = Changes::at(&path);
        std::os::unix::fs::symlink("first", directory.path().join("..tmp")).unwrap();
        std::fs::rename(
            directory.path().join("..tmp"),
            directory.path().join("..data"),
        )
        .unwrap();
        let heard = changes.heard.notified();
        let heard = tokio::time::timeout(Duration::from_secs(30), heard).await;
        assert!(heard.is_ok());
    }
}
