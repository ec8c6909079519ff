//! Debian's `docker-registry` in a private directory, with or without a password.
//!
//! What was fetched from it is read from its own access log.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use headstart_core::digest::Sha256;
use sha2::Digest;

/// The only name a registry with a password knows.
pub const USER: &str = "reader";
/// Its password.
pub const PASSWORD: &str = "correct";
/// bcrypt of [`PASSWORD`] with the least work.
const PASSWORD_HASH: &str = "$2b$04$qJLYiIBFDM73dP3KWMiAouzamow8XuccPzuyMMwpwBEDMjgGX0xsO";

const START_WAIT: Duration = Duration::from_secs(30);

/// Who may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Open,
    /// [`USER`] with [`PASSWORD`].
    Password,
}

/// A running registry. Stops when dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    directory: PathBuf,
    child: Child,
    address: SocketAddr,
    access: Access,
}

/// One request as the access log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The status answered.
    pub status: u16,
}

impl DockerRegistry {
    /// Starts a registry that keeps its data in `directory`, which is made.
    ///
    /// # Errors
    /// If the program is missing or does not listen in time.
    pub fn start(directory: PathBuf, access: Access) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let at = directory.display();
        let mut config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    rootdirectory: {at}/data\nhttp:\n  addr: 127.0.0.1:0\n"
        );
        if access == Access::Password {
            fs::write(
                directory.join("htpasswd"),
                format!("{USER}:{PASSWORD_HASH}\n"),
            )?;
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {at}/htpasswd\n");
        }
        fs::write(directory.join("config.yml"), config)?;
        let log = fs::File::create(directory.join("log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(directory.join("config.yml"))
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("docker-registry cannot be started; is the Debian package installed?")?;
        let mut registry = Self {
            directory,
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            access,
        };
        registry.address = registry.until_it_listens()?;
        Ok(registry)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Stores a blob.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> Result<Sha256> {
        let digest = Sha256(sha2::Sha256::digest(bytes).into());
        let begun = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "", &[])?;
        ensure!(begun.status == 202, "upload not accepted: {begun:?}");
        let location = begun.location.context("no upload location")?;
        let path = location
            .split_once("/v2/")
            .context("no path in the location")?
            .1;
        let path = format!("/v2/{path}&digest={}", digest.prefixed());
        let stored = self.ask("PUT", &path, "application/octet-stream", bytes)?;
        ensure!(stored.status == 201, "blob not stored: {}", stored.status);
        Ok(digest)
    }

    /// Stores a manifest under a tag or its digest.
    ///
    /// # Errors
    /// If the registry refuses it.
    pub fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<()> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let stored = self.ask("PUT", &path, media_type, bytes)?;
        ensure!(
            stored.status == 201,
            "manifest not stored: {}",
            stored.status
        );
        Ok(())
    }

    /// Every request answered so far.
    ///
    /// # Errors
    /// If the log cannot be read or lags for too long.
    pub fn requests(&self) -> Result<Vec<Logged>> {
        // A request is logged a moment after it is answered: ours marks the end.
        let marker = format!("/v2/end-of-log-{:?}", Instant::now()).replace([' ', '{', '}'], "");
        self.ask("GET", &marker, "", &[])?;
        let deadline = Instant::now() + START_WAIT;
        loop {
            let log = fs::read_to_string(self.directory.join("log"))?;
            let requests: Vec<_> = log.lines().filter_map(parse).collect();
            if let Some(end) = requests.iter().position(|request| request.path == marker) {
                let before = requests.into_iter().take(end);
                return Ok(before
                    .filter(|r| !r.path.starts_with("/v2/end-of-log"))
                    .collect());
            }
            ensure!(Instant::now() < deadline, "the registry's log lags");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often `digest` was fetched.
    ///
    /// # Errors
    /// See [`Self::requests`].
    pub fn fetches(&self, digest: &Sha256) -> Result<usize> {
        let end = format!("/blobs/{}", digest.prefixed());
        let requests = self.requests()?;
        let fetched = |r: &&Logged| r.method == "GET" && r.status < 300 && r.path.ends_with(&end);
        Ok(requests.iter().filter(fetched).count())
    }

    fn until_it_listens(&mut self) -> Result<SocketAddr> {
        let deadline = Instant::now() + START_WAIT;
        while Instant::now() < deadline {
            let log = fs::read_to_string(self.directory.join("log"))?;
            if let Some((_, rest)) = log.split_once("listening on ") {
                let address = rest.split(['"', ' ']).next().unwrap_or_default();
                return address.parse().context("registry's address");
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("docker-registry ended with {status}: {log}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("docker-registry does not listen")
    }

    /// One HTTP/1.1 request on a connection of its own, with the password where there is one.
    fn ask(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(START_WAIT))?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.address,
            body.len()
        );
        if !media_type.is_empty() {
            head += &format!("content-type: {media_type}\r\n");
        }
        if self.access == Access::Password {
            let credentials =
                base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
            head += &format!("authorization: Basic {credentials}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let mut lines = head.lines();
        let location = lines.find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("location")
                .then(|| value.to_owned())
        });
        Ok(Answer {
            status: status.context("no status line")?,
            location,
        })
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    location: Option<String>,
}

/// Reads a line in the combined log format.
fn parse(line: &str) -> Option<Logged> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut words = request.split(' ');
    Some(Logged {
        method: words.next()?.to_owned(),
        path: words.next()?.split('?').next()?.to_owned(),
        status: rest.split(' ').next()?.parse().ok()?,
    })
}
