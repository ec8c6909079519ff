//! A certificate authority made on the spot, and one certificate for loopback under it.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::StartError;

/// What a server needs to speak TLS. Clones are the same authority and certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    authority_pem: String,
    pub(super) config: Arc<rustls::ServerConfig>,
}

impl Tls {
    /// A new authority, and a certificate for `localhost`, `127.0.0.1`, `::1` and `names`. Speaks
    /// HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When a name is none.
    pub fn new(names: &[&str]) -> Result<Self, StartError> {
        let certificate = |source| StartError::Certificate { source };
        let authority_key = KeyPair::generate().map_err(certificate)?;
        let mut authority = CertificateParams::new(Vec::new()).map_err(certificate)?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_pem = authority
            .self_signed(&authority_key)
            .map_err(certificate)?
            .pem();
        let issuer = Issuer::new(authority, authority_key);

        let subjects = ["localhost", "127.0.0.1", "::1"].iter().chain(names);
        let subjects: Vec<String> = subjects.map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().map_err(certificate)?;
        let leaf = CertificateParams::new(subjects).map_err(certificate)?;
        let leaf = leaf.signed_by(&key, &issuer).map_err(certificate)?;

        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![CertificateDer::from(leaf.der().to_vec())];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = |source| StartError::Tls { source };
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        Ok(Self {
            authority_pem,
            config,
        })
    }

    /// The authority's certificate, which a client must trust.
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }
}
