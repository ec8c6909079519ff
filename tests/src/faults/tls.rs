//! Certificates made on the spot, good and bad ones.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A server certificate and the authority that signed it.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    authority: String,
}

impl Certificate {
    /// For `name`, signed by an authority of its own.
    pub fn for_name(name: &str) -> Self {
        Self::signed(name, |_| {})
    }

    /// For `name`, and expired long ago.
    pub fn expired(name: &str) -> Self {
        Self::signed(name, |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    fn signed(name: &str, change: impl Fn(&mut CertificateParams)) -> Self {
        let key = || KeyPair::generate().expect("a key can be made");
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, key()).expect("fixed parameters");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a host name");
        change(&mut params);
        let key = key();
        let leaf = params
            .signed_by(&key, &authority)
            .expect("fixed parameters");
        Self {
            chain: vec![leaf.der().clone()],
            key: key.serialize_der(),
            authority: authority.pem(),
        }
    }

    /// The authority, as PEM: trusting it makes this certificate valid.
    pub fn authority_pem(&self) -> Vec<u8> {
        self.authority.clone().into_bytes()
    }

    pub(super) fn acceptor(&self, protocols: &[&[u8]]) -> tokio_rustls::TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring speaks the default versions")
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .expect("the key is the certificate's");
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        Arc::new(config).into()
    }
}
