//! The ciphertexts that Encrypt and GenerateDataKey hand out: a format of this service's own, as
//! AWS's is not published.
//!
//! ```text
//! "AHK"  1  key id (16)  material id (32)  salt (16)  nonce (12)  ciphertext  tag (16)
//! "AHK"  2  key id (16)  material id (32)             nonce (12)  ciphertext  tag (16)
//! ```
//! The second is that of keys in a token, which encrypts by AES-GCM under the material itself. All before the
//! salt or nonce, and the encryption context, are authenticated with the content. A ciphertext therefore names
//! its key and can be opened under no other, nor with another context.

use crate::material::{InToken, TokenTrouble};
use crate::sealing::{NoRandomness, OVERHEAD, Secret};
use crate::token::IV_LEN;
use anchorhold_kms_wire::shapes::EncryptionContext;
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;
use zeroize::Zeroizing;

const MAGIC: [u8; 4] = [b'A', b'H', b'K', 1];
const MAGIC_OF_TOKENS: [u8; 4] = [b'A', b'H', b'K', 2];
const HEADER_LEN: usize = MAGIC.len() + 16 + 32;
const TAG_LEN: usize = 16;
const PURPOSE: &str = "anchorhold-kms ciphertext v1";

/// Names one generation of a key's material. Written as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct MaterialId(#[serde(with = "hex::serde")] pub(crate) [u8; 32]);

impl fmt::Display for MaterialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A ciphertext taken apart. Nothing in it is authentic before [`Ciphertext::open`].
#[derive(Clone, Copy)]
pub(crate) struct Ciphertext<'a> {
    pub(crate) key: Uuid,
    pub(crate) material: MaterialId,
    /// Whether a token made it.
    is_of_token: bool,
    header: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Ciphertext<'a> {
    /// `None` for whatever is not a ciphertext of this service.
    pub(crate) fn parse(blob: &'a [u8]) -> Option<Self> {
        let (header, sealed) = blob.split_at_checked(HEADER_LEN)?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (is_of_token, overhead) = match magic {
            _ if magic == MAGIC => (false, OVERHEAD),
            _ if magic == MAGIC_OF_TOKENS => (true, IV_LEN + TAG_LEN),
            _ => return None,
        };
        let (key, material) = rest.split_at(16);
        if sealed.len() < overhead {
            return None;
        }
        Some(Self {
            key: Uuid::from_slice(key).ok()?,
            material: MaterialId(material.try_into().ok()?),
            is_of_token,
            header,
            sealed,
        })
    }

    /// `None` if the material, the context or any bit differs.
    pub(crate) fn open(
        &self,
        material: &Secret,
        context: &EncryptionContext,
    ) -> Option<Zeroizing<Vec<u8>>> {
        if self.is_of_token {
            return None;
        }
        material.open(PURPOSE, &aad(self.header, context), self.sealed)
    }

    /// The same by a token.
    pub(crate) fn open_in_token(
        &self,
        material: &InToken,
        context: &EncryptionContext,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, TokenTrouble> {
        let Some((iv, sealed)) = self.sealed.split_first_chunk::<IV_LEN>() else {
            return Ok(None);
        };
        if !self.is_of_token {
            return Ok(None);
        }
        material.decrypt(iv, &aad(self.header, context), sealed)
    }
}

/// Encrypts under a key's material.
pub(crate) fn seal(
    key: Uuid,
    material_id: &MaterialId,
    material: &Secret,
    context: &EncryptionContext,
    plaintext: &[u8],
) -> Result<Vec<u8>, NoRandomness> {
    let mut blob = header(MAGIC, key, material_id, OVERHEAD + plaintext.len());
    let sealed = material.seal(PURPOSE, &aad(&blob, context), plaintext)?;
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

/// The same by a token.
pub(crate) fn seal_in_token(
    key: Uuid,
    material_id: &MaterialId,
    material: &InToken,
    context: &EncryptionContext,
    plaintext: &[u8],
) -> Result<Vec<u8>, TokenTrouble> {
    let length = IV_LEN + TAG_LEN + plaintext.len();
    let mut blob = header(MAGIC_OF_TOKENS, key, material_id, length);
    let (iv, sealed) = material.encrypt(&aad(&blob, context), plaintext)?;
    blob.extend_from_slice(&iv);
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

fn header(magic: [u8; 4], key: Uuid, material_id: &MaterialId, more: usize) -> Vec<u8> {
    let mut blob = Vec::with_capacity(HEADER_LEN + more);
    blob.extend_from_slice(&magic);
    blob.extend_from_slice(key.as_bytes());
    blob.extend_from_slice(&material_id.0);
    blob
}

/// The header, then the context in one form only: the number of pairs, and the pairs in the
/// byte order of their keys, each text after its length (32 bits, big-endian).
fn aad(header: &[u8], context: &EncryptionContext) -> Vec<u8> {
    let count = u32::try_from(context.len()).expect("a request has at most 1 MiB");
    let mut aad = header.to_vec();
    aad.extend_from_slice(&count.to_be_bytes());
    for text in context.iter().flat_map(|(key, value)| [key, value]) {
        let length = u32::try_from(text.len()).expect("a request has at most 1 MiB");
        aad.extend_from_slice(&length.to_be_bytes());
        aad.extend_from_slice(text.as_bytes());
    }
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn a_ciphertext_opens_only_with_its_context_and_unchanged() {
        let material = Secret::random().unwrap();
        let own = context(&[("a", "b"), ("c", "d")]);
        let key = Uuid::new_v4();
        let blob = seal(key, &MaterialId([7; 32]), &material, &own, b"data").unwrap();
        let parsed = Ciphertext::parse(&blob).unwrap();
        assert_eq!((parsed.key, parsed.material), (key, MaterialId([7; 32])));
        assert_eq!(parsed.open(&material, &own).unwrap().as_slice(), b"data");
        for other in [
            context(&[]),
            context(&[("a", "b")]),
            context(&[("a", "bc"), ("c", "d")]),
            context(&[("ab", ""), ("c", "d")]),
            context(&[("a", "b"), ("c", "d"), ("e", "")]),
        ] {
            assert!(parsed.open(&material, &other).is_none(), "{other:?}");
        }
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] ^= 0x80;
            let opened = Ciphertext::parse(&changed).and_then(|c| c.open(&material, &own));
            assert!(opened.is_none(), "byte {at}");
            let cut = Ciphertext::parse(&blob[..at]).and_then(|c| c.open(&material, &own));
            assert!(cut.is_none(), "{at} bytes");
        }
    }
}
