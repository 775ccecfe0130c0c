//! The key that this enclave shows in handshakes: made here, kept in memory, gone with the enclave.
//!
//! The certificate around it is signed by itself and says nothing: what vouches for the key is the attestation document.

use std::sync::Arc;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData as _,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use zeroize::Zeroize as _;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key or its certificate could not be made.
    #[error("no key for attested TLS could be made: {0}")]
    Made(#[from] rcgen::Error),
    /// It cannot be served with.
    #[error("the key for attested TLS cannot be used: {0}")]
    Served(#[from] rustls::Error),
}

/// A P-256 key and the certificate around it.
pub struct Identity {
    config: Arc<ServerConfig>,
    public_key: Vec<u8>,
}

impl Identity {
    /// Makes a key.
    ///
    /// # Errors
    /// No randomness, most likely.
    pub fn generate() -> Result<Identity, IdentityError> {
        let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let public_key = key.subject_public_key_info();
        let mut params = CertificateParams::new(vec!["enclave.invalid".to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(
            DnType::CommonName,
            "enclave: ask /.well-known/attestation who",
        );
        let certificate = params.self_signed(&key)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        key.zeroize();

        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], private)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Each channel is a handshake of its own, with the certificate in it; nothing is resumed, and nothing is said
        // before the client has proved that it is there.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Identity {
            config: Arc::new(config),
            public_key,
        })
    }

    /// What handshakes are answered with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// `SubjectPublicKeyInfo` in DER.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}
