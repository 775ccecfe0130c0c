//! The two implementations of ECDSA on P-384 behind one interface. Never decides which key or
//! message is the right one.

/// Bytes of an uncompressed point on P-384: 4, x, y.
const POINT_BYTES: usize = 97;

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

/// A key that was found to be on P-384 and is ready for use. Only [`Engine::key`] makes one.
#[derive(Debug, Clone)]
pub(crate) enum LeafKey {
    P384(p384::ecdsa::VerifyingKey),
    #[cfg(feature = "aws-lc-rs")]
    AwsLcRs(aws_lc_rs::signature::ParsedPublicKey),
}

impl Engine {
    /// Reads an uncompressed point. `None` where it is another encoding, or not on the curve.
    pub(crate) fn key(self, point: &[u8]) -> Option<LeafKey> {
        if !is_uncompressed(point) {
            return None;
        }
        match self {
            Engine::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
                .ok()
                .map(LeafKey::P384),
            #[cfg(feature = "aws-lc-rs")]
            Engine::AwsLcRs => {
                use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};
                ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point)
                    .ok()
                    .map(LeafKey::AwsLcRs)
            }
        }
    }

    /// Whether a certificate's signature (in DER, as X.509 has it) over `message` is by the key
    /// `point`: ECDSA with SHA-384 on P-384.
    pub(crate) fn verifies_certificate(
        self,
        point: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        is_uncompressed(point)
            && match self {
                Engine::P384 => {
                    use p384::ecdsa::signature::Verifier as _;
                    use p384::ecdsa::{Signature, VerifyingKey};
                    match (
                        VerifyingKey::from_sec1_bytes(point),
                        Signature::from_der(signature),
                    ) {
                        (Ok(key), Ok(signature)) => key.verify(message, &signature).is_ok(),
                        _ => false,
                    }
                }
                #[cfg(feature = "aws-lc-rs")]
                Engine::AwsLcRs => {
                    use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};
                    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, point)
                        .verify(message, signature)
                        .is_ok()
                }
            }
    }
}

impl LeafKey {
    /// Whether `signature` (r ‖ s, as COSE has it) over `message` is by this key.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 96]) -> bool {
        match self {
            LeafKey::P384(key) => {
                use p384::ecdsa::signature::Verifier as _;
                p384::ecdsa::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            #[cfg(feature = "aws-lc-rs")]
            LeafKey::AwsLcRs(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// RFC 5480 lets CAs compress points; AWS does not, and one encoding keeps the engines alike.
fn is_uncompressed(point: &[u8]) -> bool {
    point.len() == POINT_BYTES && point[0] == 4
}
