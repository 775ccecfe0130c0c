//! The handshake: TLS 1.3, and a certificate whose key has signed it. Whose key that is, is not judged here; nothing that
//! comes out of here may reach a caller before the document says so.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, PeerMisbehaved, SignatureScheme,
};

/// Takes any certificate and insists on a signature by its key over the handshake.
#[derive(Debug)]
struct Possession(Arc<CryptoProvider>);

impl ServerCertVerifier for Possession {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.supported_verify_schemes().contains(&signature.scheme) {
            return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
        ]
    }
}

/// Handshakes that are never resumed, so that each shows its certificate.
pub(crate) fn config(alpn: Vec<Vec<u8>>) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Possession(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

/// The key of a finished handshake (`SubjectPublicKeyInfo`), and its exporter value.
pub(crate) fn of_handshake(
    connection: &rustls::client::ClientConnection,
) -> Result<(Vec<u8>, [u8; anchorhold_channel::EXPORTER_BYTES]), Error> {
    let certificate = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or(Error::NoCertificatesPresented)?;
    let key = webpki::EndEntityCert::try_from(certificate)
        .map_err(|_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?
        .subject_public_key_info()
        .to_vec();
    let exporter = connection.export_keying_material(
        [0; anchorhold_channel::EXPORTER_BYTES],
        anchorhold_channel::EXPORTER_LABEL,
        Some(&[]),
    )?;
    Ok((key, exporter))
}
