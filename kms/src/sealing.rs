//! Authenticated encryption under keys that live long: AES-256-GCM, with a key of its own
//! for each message.
//!
//! A random 96-bit nonce under one key is safe for 2^32 messages only. Here HKDF-SHA-256
//! derives a message key from the long-lived key and a random 128-bit salt, so that two
//! messages share a message key about once in 2^64, and even then differ in their nonces.
//! No function returns a byte that was not authenticated.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::{hmac, rand};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

const SALT_LEN: usize = 16;
const TAG_LEN: usize = 16;

/// What a sealed text has beyond its content: salt, nonce and tag.
pub(crate) const OVERHEAD: usize = SALT_LEN + NONCE_LEN + TAG_LEN;

/// Key material, 256 bits.
pub(crate) struct Secret(Zeroizing<[u8; 32]>);

/// The random number generator failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the random number generator failed")]
pub struct NoRandomness;

impl Secret {
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        let mut bytes = Zeroizing::new([0; 32]);
        fill_random(bytes.as_mut())?;
        Ok(Self(bytes))
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut own = Zeroizing::new([0; 32]);
        (bytes.len() == own.len()).then(|| {
            own.copy_from_slice(bytes);
            Self(own)
        })
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key for one purpose, which tells nothing about this one or those for other purposes.
    pub(crate) fn derive(&self, purpose: &str) -> Self {
        Self(expand(self, &[], purpose.as_bytes()))
    }

    /// HMAC-SHA-256 over the parts, each with its length.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_ref());
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// HMAC-SHA-256 over what comes in pieces.
    pub(crate) fn begin_mac(&self) -> Mac {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_ref());
        Mac(hmac::Context::with_key(&key))
    }

    /// Encrypts; `purpose` and `aad` must be the same for [`Secret::open`].
    pub(crate) fn seal(
        &self,
        purpose: &str,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, NoRandomness> {
        let mut sealed = vec![0; SALT_LEN + NONCE_LEN];
        fill_random(&mut sealed)?;
        let (salt, nonce) = sealed.split_at(SALT_LEN);
        let key = message_key(self, salt, purpose);
        let nonce =
            Nonce::try_assume_unique_for_key(nonce).expect("the slice has a nonce's length");
        let mut text = Zeroizing::new(plaintext.to_vec());
        let tag = key
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text.as_mut_slice())
            .expect("AES-GCM takes 64 GiB, and no plaintext here is near it");
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Decrypts what [`Secret::seal`] made; `None` if anything at all differs.
    pub(crate) fn open(
        &self,
        purpose: &str,
        aad: &[u8],
        sealed: &[u8],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let (salt, rest) = sealed.split_at_checked(SALT_LEN)?;
        let (nonce, text) = rest.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let key = message_key(self, salt, purpose);
        let mut buffer = Zeroizing::new(text.to_vec());
        let length = key
            .open_in_place(nonce, Aad::from(aad), buffer.as_mut_slice())
            .ok()?
            .len();
        buffer.truncate(length);
        Some(buffer)
    }
}

/// A MAC in the making.
pub(crate) struct Mac(hmac::Context);

impl Mac {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        let mut tag = [0; 32];
        tag.copy_from_slice(self.0.sign().as_ref());
        tag
    }

    /// In constant time.
    pub(crate) fn verify(self, tag: &[u8]) -> bool {
        self.finish().as_slice().ct_eq(tag).into()
    }
}

fn message_key(secret: &Secret, salt: &[u8], purpose: &str) -> LessSafeKey {
    let key = expand(secret, salt, purpose.as_bytes());
    let key = UnboundKey::new(&AES_256_GCM, key.as_ref()).expect("32 bytes are an AES-256 key");
    LessSafeKey::new(key)
}

struct Length32;

impl KeyType for Length32 {
    fn len(&self) -> usize {
        32
    }
}

fn expand(secret: &Secret, salt: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt)
        .extract(secret.0.as_ref())
        .expand(&[info], Length32)
        .and_then(|okm| okm.fill(out.as_mut()))
        .expect("HKDF-SHA-256 gives up to 8,160 bytes, and this asks for 32");
    out
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    rand::fill(bytes).map_err(|_| NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_and_nothing_else_does() {
        let secret = Secret::random().unwrap();
        let sealed = secret.seal("test", b"aad", b"plaintext").unwrap();
        assert_eq!(sealed.len(), b"plaintext".len() + OVERHEAD);
        let opened = secret.open("test", b"aad", &sealed).unwrap();
        assert_eq!(opened.as_slice(), b"plaintext");
        assert!(secret.open("toast", b"aad", &sealed).is_none());
        assert!(secret.open("test", b"add", &sealed).is_none());
        assert!(
            Secret::random()
                .unwrap()
                .open("test", b"aad", &sealed)
                .is_none()
        );
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(secret.open("test", b"aad", &changed).is_none(), "byte {at}");
            assert!(
                secret.open("test", b"aad", &sealed[..at]).is_none(),
                "{at} bytes"
            );
        }
    }

    #[test]
    fn no_two_messages_share_salt_or_nonce() {
        let secret = Secret::random().unwrap();
        let one = secret.seal("test", b"", b"x").unwrap();
        let two = secret.seal("test", b"", b"x").unwrap();
        assert_ne!(one[..SALT_LEN], two[..SALT_LEN]);
        assert_ne!(
            one[SALT_LEN..SALT_LEN + NONCE_LEN],
            two[SALT_LEN..SALT_LEN + NONCE_LEN]
        );
    }

    #[test]
    fn parts_of_a_mac_cannot_be_shifted() {
        let secret = Secret::random().unwrap();
        assert_ne!(secret.mac(&[b"ab", b"c"]), secret.mac(&[b"a", b"bc"]));
    }
}
