//! The recipient envelope: how the key service hands a plaintext to one enclave.
//!
//! It is CMS `EnvelopedData` (RFC 5652, section 6) with one recipient, in the very BER that AWS
//! KMS writes: a fresh AES-256 content key, wrapped by RSAES-OAEP (SHA-256, MGF1 with SHA-256) for
//! the RSA key in the attestation document; the content under AES-256-CBC with PKCS#7 padding.
//!
//! **The envelope is not authenticated.** Whoever knows the public key can make one. What comes
//! out of it is worth only as much as the TLS session in which it came; and so nothing in here
//! must ever tell an outsider which of the steps of decryption failed.

mod ber;
mod envelope;

use aws_lc_rs::cipher::{
    AES_256, AES_256_KEY_LEN, DecryptingKey, DecryptionContext, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::{digest, rand};
use subtle::{Choice, ConstantTimeEq, ConstantTimeGreater};
use zeroize::Zeroizing;

pub use envelope::{Envelope, EnvelopeError, MAX_ENVELOPE_BYTES};

/// The longest plaintext that an envelope holds, in bytes: the longest that AWS KMS answers with.
pub const MAX_PLAINTEXT_BYTES: usize = 4096;

const BLOCK: usize = 16;

/// Seals `plaintext` for the holder of the RSA key whose `SubjectPublicKeyInfo` is `spki_der`.
///
/// The subject key identifier is the SHA-256 of `spki_der`. (What AWS KMS puts into those 32 bytes
/// is not published, and no client looks at it.)
///
/// # Errors
/// [`SealError`].
pub fn seal(spki_der: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    SealingKey::read(spki_der)?.seal(plaintext)
}

/// A recipient's public key, read and checked once for any number of envelopes.
pub struct SealingKey {
    key: OaepPublicEncryptingKey,
    identifier: [u8; 32],
}

impl SealingKey {
    /// Reads the DER of a `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`SealError::PublicKey`] or [`SealError::KeySize`].
    pub fn read(spki_der: &[u8]) -> Result<Self, SealError> {
        Ok(Self {
            key: rsa_public_key(spki_der)?,
            identifier: sha256(spki_der),
        })
    }

    /// As [`seal`].
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        seal_to(self, plaintext)
    }
}

fn seal_to(recipient: &SealingKey, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
    if !(1..=MAX_PLAINTEXT_BYTES).contains(&plaintext.len()) {
        return Err(SealError::PlaintextLength {
            length: plaintext.len(),
        });
    }
    let public_key = &recipient.key;
    let mut content_key = Zeroizing::new([0; AES_256_KEY_LEN]);
    rand::fill(&mut *content_key)?;
    let cipher =
        PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, &*content_key)?)?;
    // With room for the padding, so that growing leaves no copy of the plaintext behind.
    let mut content = Vec::with_capacity(plaintext.len() + BLOCK);
    content.extend_from_slice(plaintext);
    let DecryptionContext::Iv128(iv) = cipher.encrypt(&mut content)? else {
        return Err(SealError::Cryptography);
    };

    let mut encrypted_key = vec![0; public_key.ciphertext_size()];
    public_key.encrypt(
        &OAEP_SHA256_MGF1SHA256,
        &*content_key,
        &mut encrypted_key,
        None,
    )?;
    let envelope = Envelope {
        subject_key_identifier: recipient.identifier,
        encrypted_key,
        iv: *iv.as_ref(),
        encrypted_content: content,
    };
    Ok(envelope.encode())
}

/// Checks that `spki_der` is an RSA key that [`seal`] accepts, without sealing anything.
///
/// # Errors
/// [`SealError::PublicKey`] or [`SealError::KeySize`].
pub fn check_public_key(spki_der: &[u8]) -> Result<(), SealError> {
    rsa_public_key(spki_der).map(|_| ())
}

fn rsa_public_key(spki_der: &[u8]) -> Result<OaepPublicEncryptingKey, SealError> {
    let key = PublicEncryptingKey::from_der(spki_der).map_err(|_| SealError::PublicKey)?;
    let bits = key.key_size_bits();
    if !(2048..=8192).contains(&bits) {
        return Err(SealError::KeySize { bits });
    }
    // One key has one encoding, so that its hash identifies it.
    let canonical: PublicKeyX509Der<'static> = key.as_der()?;
    if canonical.as_ref() != spki_der {
        return Err(SealError::PublicKey);
    }
    Ok(OaepPublicEncryptingKey::new(key)?)
}

/// An RSA-2048 key pair for receiving envelopes. It lives in memory only; AWS-LC wipes it on drop.
pub struct RecipientKey {
    private: OaepPrivateDecryptingKey,
    public_key_der: Vec<u8>,
}

impl RecipientKey {
    /// Makes a key pair. It takes from tens of milliseconds up to a second.
    ///
    /// # Errors
    /// [`GenerateError`] where there is no randomness.
    pub fn generate() -> Result<Self, GenerateError> {
        let private =
            PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| GenerateError)?;
        let public: PublicKeyX509Der<'static> =
            private.public_key().as_der().map_err(|_| GenerateError)?;
        let public_key_der = public.as_ref().to_vec();
        let private = OaepPrivateDecryptingKey::new(private).map_err(|_| GenerateError)?;
        Ok(Self {
            private,
            public_key_der,
        })
    }

    /// The public half, as DER of a `SubjectPublicKeyInfo`: what goes into an attestation document.
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key_der
    }

    /// Opens an envelope.
    ///
    /// # Errors
    /// [`OpenError::Envelope`] where it is not what AWS KMS writes; that needs no key to see.
    /// [`OpenError::Decryption`] for all that goes wrong with the key, in about the same time,
    /// whatever it was.
    pub fn open(&self, cms: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let envelope = Envelope::parse(cms)?;
        let mut unwrapped = Zeroizing::new(vec![0; self.private.min_output_size()]);
        let unwrapped = self.private.decrypt(
            &OAEP_SHA256_MGF1SHA256,
            &envelope.encrypted_key,
            &mut unwrapped,
            None,
        );

        // Where there is no content key, go on with a random one and fail at the end.
        let mut content_key = Zeroizing::new([0; AES_256_KEY_LEN]);
        rand::fill(&mut *content_key).map_err(|_| OpenError::Decryption)?;
        let is_unwrapped = match unwrapped {
            Ok(key) if key.len() == AES_256_KEY_LEN => {
                content_key.copy_from_slice(key);
                Choice::from(1)
            }
            _ => Choice::from(0),
        };
        decrypt_content(
            &content_key,
            envelope.iv,
            &envelope.encrypted_content,
            is_unwrapped,
        )
    }
}

/// AES-256-CBC with PKCS#7 padding, the padding checked without a branch on its bytes.
fn decrypt_content(
    content_key: &[u8; AES_256_KEY_LEN],
    iv: [u8; BLOCK],
    encrypted_content: &[u8],
    is_unwrapped: Choice,
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let failed = |_| OpenError::Decryption;
    let cipher = DecryptingKey::cbc(UnboundCipherKey::new(&AES_256, content_key).map_err(failed)?)
        .map_err(failed)?;
    let mut content = Zeroizing::new(encrypted_content.to_vec());
    cipher
        .decrypt(
            &mut content,
            DecryptionContext::Iv128(FixedLength::from(iv)),
        )
        .map_err(failed)?;

    let Some((last, _)) = content.split_last() else {
        return Err(OpenError::Decryption);
    };
    let padding = *last;
    let mut is_good = is_unwrapped & padding.ct_gt(&0) & !padding.ct_gt(&(BLOCK as u8));
    for (place, byte) in (1..=BLOCK as u8).zip(content.iter().rev()) {
        let is_padding = !place.ct_gt(&padding);
        is_good &= !is_padding | byte.ct_eq(&padding);
    }
    if !bool::from(is_good) {
        return Err(OpenError::Decryption);
    }
    let length = content.len() - usize::from(padding);
    content.truncate(length);
    Ok(content)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// Why nothing could be sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not an RSA key.
    #[error(
        "the recipient's public key is not an RSA key as DER of SubjectPublicKeyInfo; attest with such a key in public_key"
    )]
    PublicKey,
    /// Too short or too long.
    #[error("the recipient's RSA key has {bits} bits; it must have 2048 to 8192")]
    KeySize {
        /// Its size.
        bits: usize,
    },
    /// Nothing to seal, or too much.
    #[error("the plaintext has {length} bytes; an envelope holds 1 to {MAX_PLAINTEXT_BYTES}")]
    PlaintextLength {
        /// Its length in bytes.
        length: usize,
    },
    /// The cryptographic library failed, for instance for want of randomness.
    #[error("the cryptographic library failed")]
    Cryptography,
}

impl From<aws_lc_rs::error::Unspecified> for SealError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Cryptography
    }
}

/// The cryptographic library could not make an RSA key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no RSA key could be made; is there a source of randomness?")]
pub struct GenerateError;

/// Why an envelope could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It does not have the form.
    #[error("the answer of the key service is no recipient envelope: {0}")]
    Envelope(#[from] EnvelopeError),
    /// It is for another key, or was changed on its way.
    #[error(
        "the recipient envelope cannot be decrypted with this key; it is for another one, or was changed on its way"
    )]
    Decryption,
}

#[cfg(test)]
mod tests;
