//! Certificates, and their exchange while running.

use parking_lot::RwLock;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    File(PathBuf, #[source] std::io::Error),
    /// A file holds no PEM of the kind that is wanted.
    #[error("{0} holds no usable {1} in PEM")]
    Pem(PathBuf, &'static str),
    /// Key and certificate do not go together, or are of a kind that cannot be used.
    #[error("the certificate cannot be used with its key: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The certificate in force, and the files it comes from.
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

/// The contents of both files; the key is wiped when it is dropped.
struct Pem {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
}

// === impl Certificate ===

impl Certificate {
    /// Reads both files.
    ///
    /// # Errors
    /// [`TlsError`], with the file's name.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Arc<Self>, TlsError> {
        let pem = Pem::read(&certificate, &key)?;
        let current = RwLock::new(Arc::new(pem.certified(&certificate, &key)?));
        Ok(Arc::new(Self { certificate, key, current }))
    }

    /// Accepts TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1.
    ///
    /// # Errors
    /// Where the TLS library refuses its own versions.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Looks at the files until `stop`, and takes a new certificate over when it is whole. Contents
    /// are compared and not times, so that links that are switched over count too.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut last = Pem::read(&self.certificate, &self.key).ok();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let this = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || Pem::read(&this.certificate, &this.key));
            let Ok(Ok(pem)) = read.await else { continue };
            if last.as_ref().is_some_and(|last| last.same(&pem)) {
                continue;
            }
            match pem.certified(&self.certificate, &self.key) {
                Ok(certified) => {
                    *self.current.write() = Arc::new(certified);
                    tracing::info!(file = %self.certificate.display(), "took a new certificate over");
                }
                Err(error) => tracing::warn!(%error, "kept the old certificate"),
            }
            last = Some(pem);
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

// === impl Pem ===

impl Pem {
    fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| TlsError::File(path.to_owned(), error))
        };
        Ok(Self { certificate: read(certificate)?, key: zeroize::Zeroizing::new(read(key)?) })
    }

    fn certified(&self, certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::Pem(certificate.to_owned(), "certificate"))?;
        if chain.is_empty() {
            return Err(TlsError::Pem(certificate.to_owned(), "certificate"));
        }
        let key_der = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::Pem(key.to_owned(), "private key"))?;
        Ok(CertifiedKey::from_der(chain, key_der, &ring::default_provider())?)
    }

    fn same(&self, other: &Self) -> bool {
        self.certificate == other.certificate && *self.key == *other.key
    }
}
