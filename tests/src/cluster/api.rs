//! Plain calls to the API server, one connection each. Blocking: not for use in a runtime.
//!
//! Deliberately absent: types, watches, retries. Tests look at JSON and wait on conditions.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

/// The API server as its administrator reaches it.
#[derive(Debug)]
pub struct Api {
    runtime: Runtime,
    tls: Arc<rustls::ClientConfig>,
    host: String,
    token: String,
}

impl Api {
    /// `runtime` is in a network that reaches `host` (`10.99.0.1:6443`).
    pub(super) fn new(
        runtime: Runtime,
        host: String,
        authority: &Path,
        token: &str,
    ) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority)?)?;
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = Arc::new(config);
        let token = token.to_owned();
        Ok(Self {
            runtime,
            tls,
            host,
            token,
        })
    }

    /// An object or a list; nothing if there is none.
    ///
    /// # Errors
    /// If the server cannot be reached or answers anything else.
    pub fn find(&self, path: &str) -> Result<Option<Value>> {
        let (status, body) = self.call("GET", path, "application/json", Bytes::new())?;
        match status {
            200 => Ok(Some(serde_json::from_slice(&body)?)),
            404 => Ok(None),
            _ => bail!("GET {path}: {status}: {}", String::from_utf8_lossy(&body)),
        }
    }

    /// What is there as text: `/readyz`, a pod's log.
    ///
    /// # Errors
    /// If it is not there.
    pub fn text(&self, path: &str) -> Result<String> {
        let (status, body) = self.call("GET", path, "application/json", Bytes::new())?;
        let text = String::from_utf8_lossy(&body).into_owned();
        ensure!(status == 200, "GET {path}: {status}: {text}");
        Ok(text)
    }

    /// Makes an object in the collection at `path`.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let body = serde_json::to_vec(object)?;
        self.done("POST", path, "application/json", body.into())
    }

    /// Makes an object that is written as YAML.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn create_yaml(&self, path: &str, object: String) -> Result<Value> {
        self.done("POST", path, "application/yaml", object.into())
    }

    /// Makes an object what `object` says, by server-side apply; `path` names it and the manager.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn apply(&self, path: &str, object: &Value) -> Result<Value> {
        let body = serde_json::to_vec(object)?;
        self.done("PATCH", path, "application/apply-patch+yaml", body.into())
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<Value> {
        let body = serde_json::to_vec(patch)?;
        self.done("PATCH", path, "application/merge-patch+json", body.into())
    }

    /// Changes an object by a JSON patch, which can change one entry of a list.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn patch_json(&self, path: &str, patch: &Value) -> Result<Value> {
        let body = serde_json::to_vec(patch)?;
        self.done("PATCH", path, "application/json-patch+json", body.into())
    }

    /// Removes an object, without the time it would have to end.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn delete(&self, path: &str) -> Result<Value> {
        let path = format!("{path}?gracePeriodSeconds=0");
        self.done("DELETE", &path, "application/json", Bytes::new())
    }

    /// Waits until the object at `path` is as `is` wants it, and returns it.
    ///
    /// # Errors
    /// If it is not so after `wait`, with what it was like last.
    pub fn until(&self, path: &str, wait: Duration, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + wait;
        loop {
            let found = self.find(path);
            match found {
                Ok(Some(object)) if is(&object) => return Ok(object),
                found if Instant::now() > deadline => {
                    let last = match found {
                        Ok(Some(object)) => format!("{:#}", object["status"]),
                        Ok(None) => "nothing is there".to_owned(),
                        Err(error) => format!("{error:#}"),
                    };
                    bail!("{path} is not as expected after {wait:?}: {last}");
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn done(&self, method: &str, path: &str, kind: &str, body: Bytes) -> Result<Value> {
        let (status, body) = self.call(method, path, kind, body)?;
        let said = || String::from_utf8_lossy(&body);
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status}: {}",
            said()
        );
        serde_json::from_slice(&body).with_context(|| format!("{method} {path}: {}", said()))
    }

    /// Tries something with another token than the administrator's: the status, and what was said.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub fn try_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        object: &Value,
    ) -> Result<(u16, String)> {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let body = serde_json::to_vec(object)?;
        let (status, body) = self.call_as(token, method, path, kind, body.into())?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn call(&self, method: &str, path: &str, kind: &str, body: Bytes) -> Result<(u16, Bytes)> {
        self.call_as(&self.token, method, path, kind, body)
    }

    fn call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes)> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", kind)
            .body(Full::new(body))?;
        let (host, tls) = (self.host.clone(), TlsConnector::from(self.tls.clone()));
        let asked = async move {
            let address: std::net::SocketAddr = host.parse()?;
            let stream = tokio::net::TcpStream::connect(address).await?;
            // Else the request waits for the handshake's last word to be acknowledged: 40 ms each.
            stream.set_nodelay(true)?;
            let name = ServerName::from(address.ip());
            let stream = tls.connect(name, stream).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            Ok::<_, anyhow::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let limit = Duration::from_secs(30);
        let asked = self.runtime.spawn(async move {
            let answer = tokio::time::timeout(limit, asked).await;
            answer.map_err(|_| anyhow!("no answer in {limit:?}"))?
        });
        let answer = self.runtime.block_on(asked)?;
        answer.with_context(|| format!("{method} {path}"))
    }
}
