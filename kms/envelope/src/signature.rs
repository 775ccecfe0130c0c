//! The signature of suite `0x0578`: ECDSA P-384 with SHA-384 over all bytes of header and body.
//!
//! It says that whoever had the signing key wrote the whole message; who that is, only the key service's
//! policy on the encryption context can say, as the public key travels in the message itself.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyCompressedBin};
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{EncryptionContext, Error};

/// The encryption context's key under which a signed message carries its signer's public key.
pub const PUBLIC_KEY_ENTRY: &str = "aws-crypto-public-key";
/// Encryption context keys with this prefix belong to the message format.
pub const RESERVED_PREFIX: &str = "aws-crypto-";
/// Two integers of at most 49 bytes, each with two bytes before it, in a sequence with two bytes before it.
pub(crate) const MAX_SIGNATURE: u16 = 104;
const COMPRESSED_POINT: usize = 49;

/// A key pair for one signed message.
pub struct SigningKey(EcdsaKeyPair);

impl SigningKey {
    /// Draws a key pair.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING)
            .map(Self)
            .map_err(|_| Error::Crypto("making a P-384 key"))
    }

    /// The pair that must be in the encryption context when the data key is made: the key service binds the
    /// data key to the whole context, this pair included.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the point cannot be written.
    pub fn context_entry(&self) -> Result<(String, String), Error> {
        let point: EcPublicKeyCompressedBin<'_> = self
            .0
            .public_key()
            .as_be_bytes()
            .map_err(|_| Error::Crypto("writing a P-384 point"))?;
        Ok((PUBLIC_KEY_ENTRY.to_owned(), STANDARD.encode(point.as_ref())))
    }

    pub(crate) fn sign(&self, digest: &digest::Digest) -> Result<Vec<u8>, Error> {
        self.0
            .sign_digest(digest)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| Error::Crypto("signing"))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// The running digest of a message, and the public key that its signature must be good under.
pub(crate) struct Verifier {
    pub(crate) digest: digest::Context,
    key: ParsedPublicKey,
}

impl Verifier {
    pub(crate) fn new(context: &EncryptionContext) -> Result<Self, Error> {
        let encoded = context
            .get(PUBLIC_KEY_ENTRY)
            .ok_or(Error::PublicKeyMissing)?;
        let point = STANDARD
            .decode(encoded)
            .map_err(|_| Error::PublicKeyMalformed)?;
        // The parser below would take uncompressed points and whole SubjectPublicKeyInfos as well.
        if point.len() != COMPRESSED_POINT || !matches!(point.first(), Some(2 | 3)) {
            return Err(Error::PublicKeyMalformed);
        }
        let key = ParsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, point)
            .map_err(|_| Error::PublicKeyMalformed)?;
        Ok(Self {
            digest: digest::Context::new(&digest::SHA384),
            key,
        })
    }

    pub(crate) fn verify(self, signature: &[u8]) -> Result<(), Error> {
        self.key
            .verify_digest_sig(&self.digest.finish(), signature)
            .map_err(|_| Error::Signature)
    }
}
