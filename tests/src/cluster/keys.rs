//! Who is who in the cluster: its authority, certificates, tokens and kubeconfigs. Made anew for
//! each cluster; good for nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde_json::json;

/// The token of the administrator.
pub(super) const ADMIN: &str = "admin-token";

/// The directory with all of it, and what it takes to make more.
#[derive(Debug)]
pub(super) struct Keys {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Keys {
    /// Makes an authority, the API server's certificates and the key of service accounts.
    pub(super) fn make(directory: PathBuf, server_names: &[&str]) -> Result<Self> {
        fs::create_dir_all(&directory)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = name("headstart-testbed", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let authority = params.self_signed(&key)?;
        write(&directory, "ca", &authority, &key)?;
        let issuer = Issuer::new(params, key);
        let keys = Self { directory, issuer };
        keys.certificate("server", server_names, "kube-apiserver", None)?;
        let masters = Some("system:masters");
        keys.certificate("kubelet-client", &[], "kube-apiserver", masters)?;
        let accounts = KeyPair::generate()?;
        fs::write(keys.path("accounts.key"), accounts.serialize_pem())?;
        fs::write(keys.path("accounts.pub"), accounts.public_key_pem())?;
        Ok(keys)
    }

    /// A certificate `NAME.crt` with `NAME.key`.
    pub(super) fn certificate(
        &self,
        file: &str,
        names: &[&str],
        subject: &str,
        group: Option<&str>,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = name(subject, group);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(&self.directory, file, &certificate, &key)
    }

    /// The tokens of the control plane and of the nodes called `nodes`.
    pub(super) fn tokens(&self, nodes: &[String]) -> Result<()> {
        let mut lines = vec![
            format!("{ADMIN},admin,admin,\"system:masters\""),
            "controllers,system:kube-controller-manager,controllers".to_owned(),
            "scheduler,system:kube-scheduler,scheduler".to_owned(),
            "proxy,system:kube-proxy,proxy".to_owned(),
        ];
        for node in nodes {
            lines.push(format!(
                "node-{node},system:node:{node},{node},\"system:nodes\""
            ));
        }
        let text = lines.join("\n") + "\n";
        fs::write(self.path("tokens.csv"), text).context("write the tokens")
    }

    /// A kubeconfig `NAME.kubeconfig` for the holder of a token.
    pub(super) fn kubeconfig(&self, file: &str, server: &str, token: &str) -> Result<PathBuf> {
        let path = self.path(&format!("{file}.kubeconfig"));
        let authority = fs::read(self.path("ca.crt"))?;
        let authority =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, authority);
        let cluster = json!({"server": server, "certificate-authority-data": authority});
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "headstart", "cluster": cluster}],
            "users": [{"name": file, "user": {"token": token}}],
            "contexts": [{"name": "headstart", "context": {"cluster": "headstart", "user": file}}],
            "current-context": "headstart",
        });
        fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
        Ok(path)
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }
}

fn name(subject: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, subject);
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name
}

fn write(directory: &Path, file: &str, certificate: &Certificate, key: &KeyPair) -> Result<()> {
    fs::write(directory.join(format!("{file}.crt")), certificate.pem())?;
    fs::write(directory.join(format!("{file}.key")), key.serialize_pem())?;
    Ok(())
}
