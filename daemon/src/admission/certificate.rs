//! The webhook's certificate: what is served now, and when it is made anew.
//!
//! Either files that somebody else renews (cert-manager), or certificates of our own, kept in a Secret
//! that the replicas share. Any replica renews; the Secret's version decides between two.
//!
//! - A renewed authority signs only once callers have had time to learn of it: until then the bundle
//!   has both and the old one's certificate is served.
//! - What is served is replaced while connections go on; none is closed for it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

pub(crate) mod files;
pub(crate) mod secret;
#[cfg(test)]
mod tests;

/// How long an authority is good for, and a certificate of it.
const AUTHORITY_LIFE: Duration = days(3650);
const SERVING_LIFE: Duration = days(90);

/// How long callers have to learn of a new authority before it is relied on.
const LEARNING: Duration = Duration::from_secs(600);

/// By how much clocks may differ.
const SKEW: Duration = Duration::from_secs(3600);

const fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

/// What went wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// It could not be made.
    #[error(
        "a certificate for {names:?} could not be made; give names that DNS knows, or addresses"
    )]
    Make {
        /// Names it was to have.
        names: Vec<String>,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// What is there is none.
    #[error("{place} holds no usable certificate and key; give tls.crt and tls.key in PEM")]
    Unusable {
        /// Where it stands.
        place: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The clock says a time before 1970.
    #[error("the clock of this machine is before 1970; set it")]
    Clock,
}

/// All that a Secret keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Authorities that callers are to trust, the newest last.
    pub(crate) authorities: Vec<Authority>,
    /// What is served.
    pub(crate) serving: Leaf,
}

/// Who signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Authority {
    certificate: String,
    key: String,
    made: u64,
    ends: u64,
}

/// A certificate to serve, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leaf {
    certificate: String,
    key: String,
    names: Vec<String>,
    /// `made` of the authority that signed it.
    signed_by: u64,
    made: u64,
    ends: u64,
}

/// What is to be done about certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// A certificate of the newest authority.
    Serving,
    /// A new authority, beside the old one.
    Authority,
    /// All of it: nothing that is kept is of use.
    Everything,
}

/// Seconds since 1970.
///
/// # Errors
/// When the clock is before it.
pub(crate) fn seconds(now: SystemTime) -> Result<u64, CertificateError> {
    let since = now.duration_since(UNIX_EPOCH);
    since
        .map(|since| since.as_secs())
        .map_err(|_| CertificateError::Clock)
}

/// What is to be done at `now` so that `names` can be served. Renewal is due when a third of the life
/// is left.
pub(crate) fn due(kept: Option<&Kept>, names: &[String], now: u64) -> Due {
    let Some(kept) = kept else {
        return Due::Everything;
    };
    let Some(newest) = kept.authorities.last() else {
        return Due::Everything;
    };
    let third = |made: u64, ends: u64| ends.saturating_sub(ends.saturating_sub(made) / 3);
    if now >= newest.ends {
        return Due::Everything;
    }
    if now >= third(newest.made, newest.ends) {
        return Due::Authority;
    }
    let serving = &kept.serving;
    let mut usable = kept.authorities.iter().filter(|one| one.ends > now);
    let is_signed = usable.any(|one| one.made == serving.signed_by);
    let moves_on = serving.signed_by != newest.made && newest.is_learnt(now);
    let is_due = now >= third(serving.made, serving.ends) || serving.names != names;
    match moves_on || is_due || !is_signed {
        true => Due::Serving,
        false => Due::Nothing,
    }
}

impl Kept {
    /// What is kept after `due` was done.
    ///
    /// # Errors
    /// When something cannot be made.
    pub(crate) fn after(
        kept: Option<&Self>,
        due: Due,
        names: &[String],
        now: u64,
    ) -> Result<Option<Self>, CertificateError> {
        match (due, kept) {
            (Due::Nothing, _) => Ok(None),
            (Due::Authority, Some(kept)) => {
                let mut kept = kept.clone();
                kept.authorities.retain(|authority| authority.ends > now);
                kept.authorities.push(Authority::make(now)?);
                Ok(Some(kept))
            }
            (Due::Serving, Some(kept)) if !kept.authorities.is_empty() => {
                let mut kept = kept.clone();
                let mut newest_first = kept.authorities.iter().rev();
                // Until the newest is known, one that is signs, if there is one.
                let learnt = newest_first.find(|one| one.ends > now && one.is_learnt(now));
                if let Some(signer) = learnt.or(kept.authorities.last()) {
                    kept.serving = Leaf::make(signer, names, now)?;
                }
                Ok(Some(kept))
            }
            _ => {
                let authority = Authority::make(now)?;
                let serving = Leaf::make(&authority, names, now)?;
                Ok(Some(Self {
                    authorities: vec![authority],
                    serving,
                }))
            }
        }
    }

    /// Certificates that callers are to trust, in PEM.
    pub(crate) fn bundle(&self) -> String {
        self.authorities
            .iter()
            .map(|one| one.certificate.as_str())
            .collect()
    }

    /// What to serve.
    ///
    /// # Errors
    /// When it is no certificate.
    pub(crate) fn certified(&self, place: &str) -> Result<CertifiedKey, CertificateError> {
        certified(
            place,
            self.serving.certificate.as_bytes(),
            self.serving.key.as_bytes(),
        )
    }
}

impl Authority {
    /// Whether callers know of it.
    fn is_learnt(&self, now: u64) -> bool {
        now >= self.made.saturating_add(LEARNING.as_secs())
    }

    fn make(now: u64) -> Result<Self, CertificateError> {
        let failed = |source| CertificateError::Make {
            names: Vec::new(),
            source,
        };
        let key = KeyPair::generate().map_err(failed)?;
        let ends = now.saturating_add(AUTHORITY_LIFE.as_secs());
        let certificate = authority(now, ends).self_signed(&key).map_err(failed)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            made: now,
            ends,
        })
    }
}

/// What an authority says of itself; the same whenever it is said.
fn authority(made: u64, ends: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let name = format!("headstart-webhook-{made}");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = at(made.saturating_sub(SKEW.as_secs())).into();
    params.not_after = at(ends).into();
    params
}

fn at(seconds: u64) -> SystemTime {
    // The year 9999, which is the last that certificates can name.
    UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799))
}

impl Leaf {
    fn make(authority: &Authority, names: &[String], now: u64) -> Result<Self, CertificateError> {
        let failed = |source| CertificateError::Make {
            names: names.to_vec(),
            source,
        };
        let signer = KeyPair::from_pem(&authority.key).map_err(failed)?;
        let issuer = Issuer::new(self::authority(authority.made, authority.ends), signer);
        let key = KeyPair::generate().map_err(failed)?;
        let ends = now
            .saturating_add(SERVING_LIFE.as_secs())
            .min(authority.ends);
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "headstart-webhook");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = at(now.saturating_sub(SKEW.as_secs())).into();
        params.not_after = at(ends).into();
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            names: names.to_vec(),
            signed_by: authority.made,
            made: now,
            ends,
        })
    }
}

/// A certificate and its key, ready to be served.
fn certified(
    place: &str,
    certificate: &[u8],
    key: &[u8],
) -> Result<CertifiedKey, CertificateError> {
    type Source = Box<dyn std::error::Error + Send + Sync>;
    let unusable = |source: Source| CertificateError::Unusable {
        place: place.to_owned(),
        source,
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|error| unusable(error.into()))?;
    if chain.is_empty() {
        return Err(unusable("there is no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable(error.into()))?;
    let ring = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &ring).map_err(|error| unusable(error.into()))
}

/// What is served now; none before the first is there.
#[derive(Debug, Default)]
pub(crate) struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl Serving {
    /// Serves this from the next connection on.
    pub(crate) fn set(&self, certified: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
    }

    /// How a server speaks TLS with it.
    pub(crate) fn config(self: &Arc<Self>) -> Arc<rustls::ServerConfig> {
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions");
        let mut config = builder
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
