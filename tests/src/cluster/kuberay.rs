//! KubeRay's operator in the control plane's machine, and an image that stands in for Ray's.
//!
//! The operator is the real one, with its own definitions. What it starts is not Ray: pods with the
//! programs it calls, `ray` and `bash`. The first answers the operator's probes, and workers wait for
//! their head by its name; more the operator cannot tell.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::images::{append, image, shell_layer};
use super::{Cluster, Process, process};
use crate::image::{Image, Layer};

/// Definitions of its objects.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// How long a definition may take to be served.
const WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// What the operator calls instead of Ray: `start` answers its probes, `health-check` asks the head.
/// The static busybox looks no name up by itself.
const RAY: &[u8] = br#"#!/bin/busybox sh
case "$1" in
start)
  /bin/busybox mkdir -p /tmp/www/api /tmp/www/-
  for page in api/healthz api/local_raylet_healthz api/gcs_healthz -/healthz; do
    echo success >"/tmp/www/$page"
  done
  for port in 6379 8000 8265 52365; do /bin/busybox httpd -p "$port" -h /tmp/www; done
  exec /bin/busybox sleep 2000000000
  ;;
health-check)
  address=$(/bin/busybox nslookup -type=a "${3%:*}" | /bin/busybox sed -n 's/^Address: //p')
  exec /bin/busybox wget -q -O- "http://$address:${3##*:}/api/gcs_healthz"
  ;;
esac
"#;

/// As the probes of older Rays call it.
const WGET: &[u8] = br#"#!/bin/busybox sh
for argument; do
  shift
  set -- "$@" "$(echo "$argument" | /bin/busybox sed s/localhost/127.0.0.1/)"
done
exec /bin/busybox wget "$@"
"#;

const BASH: &[u8] = b"#!/bin/busybox sh\nexec /bin/busybox sh \"$@\"\n";

impl Cluster {
    /// Installs the operator of the directory `kuberay` (`cargo xtask` provisions it) and an image
    /// `10.99.0.1:5000/headstart/ray:1` for its pods.
    ///
    /// # Errors
    /// If it does not start.
    pub fn add_kuberay(&self, kuberay: &Path) -> Result<Process> {
        let files = kuberay.join("files");
        let listed = fs::read_dir(&files).with_context(|| format!("read {}", files.display()))?;
        for file in listed {
            let path = file?.path();
            let text = fs::read_to_string(&path)?;
            let made = self.api().create_yaml(DEFINITIONS, text);
            let made = made.with_context(|| format!("definition {}", path.display()))?;
            let name = made["metadata"]["name"].as_str().unwrap_or_default();
            self.api()
                .until(&format!("{DEFINITIONS}/{name}"), WAIT, is_established)?;
        }
        self.push(ray()?, "headstart/ray", "1")?;
        let operator = kuberay.join("ray-operator");
        ensure!(operator.exists(), "there is no {}", operator.display());
        let operator = operator.canonicalize()?;
        let config = self.kubeconfig_inside("kuberay")?;
        let arguments = [
            format!("KUBECONFIG={}", config.display()),
            operator.display().to_string(),
            "--metrics-addr=127.0.0.1:8090".to_owned(),
            "--health-probe-bind-address=127.0.0.1:8091".to_owned(),
            "--enable-leader-election=false".to_owned(),
        ];
        let env = Path::new("/usr/bin/env");
        let process = self.control().start("kuberay", env, &arguments)?;
        self.write(|record| record.processes.push(process.clone()))?;
        let ready = "wget -q -O- http://127.0.0.1:8091/readyz >/dev/null 2>&1";
        let deadline = std::time::Instant::now() + WAIT;
        while self
            .control()
            .run(&format!("/bin/busybox {ready}"))
            .is_err()
        {
            let waiting = process.is_alive() && std::time::Instant::now() < deadline;
            let log = || process::tail(&self.control().log("kuberay"));
            ensure!(waiting, "KubeRay's operator is not ready: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(process)
    }
}

fn ray() -> Result<Image> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "bin/bash", BASH)?;
    append(&mut tar, "usr/bin/ray", RAY)?;
    append(&mut tar, "usr/local/bin/wget", WGET)?;
    let own = Layer::Tar(tar.into_inner()?.into());
    image(vec![shell_layer()?, own])
}

fn is_established(definition: &serde_json::Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        let mut conditions = conditions.iter();
        conditions.any(|one| one["type"] == "Established" && one["status"] == "True")
    })
}
