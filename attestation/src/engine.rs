//! The two implementations of ECDSA on P-384 behind one interface. Never decides which key or
//! message is the right one.

use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};

/// Bytes of an uncompressed point on P-384: 4, x, y.
pub(crate) const POINT_BYTES: usize = 97;

/// Who computes signatures' verdicts. Both give the same verdict on every input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// The crate `p384`: pure Rust, builds everywhere.
    P384,
    /// The crate `aws-lc-rs`: C and assembly, for servers.
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs,
}

impl Default for Engine {
    /// The fastest that was built in.
    fn default() -> Engine {
        #[cfg(feature = "aws-lc-rs")]
        return Engine::AwsLcRs;
        #[cfg(not(feature = "aws-lc-rs"))]
        return Engine::P384;
    }
}

impl Engine {
    /// ECDSA with SHA-384 on P-384 over certificates (signatures in DER).
    pub(crate) fn for_certificates(self) -> &'static dyn SignatureVerificationAlgorithm {
        match self {
            Engine::P384 => &Ecdsa(Engine::P384),
            #[cfg(feature = "aws-lc-rs")]
            Engine::AwsLcRs => &Ecdsa(Engine::AwsLcRs),
        }
    }

    /// Whether `signature` (r ‖ s, as COSE has it) over `message` is by the key `point`.
    pub(crate) fn verifies(self, point: &[u8], message: &[u8], signature: &[u8; 96]) -> bool {
        is_uncompressed(point)
            && match self {
                Engine::P384 => pure::verifies(
                    point,
                    message,
                    p384::ecdsa::Signature::from_slice(signature).ok(),
                ),
                #[cfg(feature = "aws-lc-rs")]
                Engine::AwsLcRs => {
                    use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
                    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                        .verify(message, signature)
                        .is_ok()
                }
            }
    }
}

/// RFC 5480 lets CAs compress points; AWS does not, and one encoding keeps the engines alike.
fn is_uncompressed(point: &[u8]) -> bool {
    point.len() == POINT_BYTES && point[0] == 4
}

/// An engine in the shape that path validation asks for.
#[derive(Debug)]
struct Ecdsa(Engine);

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(
        &self,
        point: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let good = is_uncompressed(point)
            && match self.0 {
                Engine::P384 => pure::verifies(
                    point,
                    message,
                    p384::ecdsa::Signature::from_der(signature).ok(),
                ),
                #[cfg(feature = "aws-lc-rs")]
                Engine::AwsLcRs => {
                    use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
                    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, point)
                        .verify(message, signature)
                        .is_ok()
                }
            };
        if good { Ok(()) } else { Err(InvalidSignature) }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P384
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA384
    }
}

/// The part of the crate `p384` that both encodings of a signature share.
mod pure {
    use p384::ecdsa::signature::Verifier as _;
    use p384::ecdsa::{Signature, VerifyingKey};

    pub(super) fn verifies(point: &[u8], message: &[u8], signature: Option<Signature>) -> bool {
        match (VerifyingKey::from_sec1_bytes(point), signature) {
            (Ok(key), Some(signature)) => key.verify(message, &signature).is_ok(),
            _ => false,
        }
    }
}
