//! Data keys, and what is derived from them. Must never give a key away: no Debug, no Clone, wiped on drop.

use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf;
use zeroize::Zeroizing;

use crate::{Error, Suite};

const KEY_LEN: usize = 32;

/// A plaintext data key: 32 bytes, wiped on drop.
///
/// It has neither Debug nor Clone, and its bytes cannot be read back: it goes into one message.
pub struct DataKey(Box<Zeroizing<[u8; KEY_LEN]>>);

impl DataKey {
    /// Takes over the 32 bytes of a data key.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "taken over, so that it is wiped here"
    )]
    pub fn from_bytes(bytes: Zeroizing<[u8; KEY_LEN]>) -> Self {
        // Boxed, so that moving a data key leaves no copies behind; `bytes` wipes itself.
        let mut boxed = Box::new(Zeroizing::new([0; KEY_LEN]));
        boxed.copy_from_slice(bytes.as_slice());
        Self(boxed)
    }

    /// Takes over a data key as the key service gives it.
    ///
    /// # Errors
    /// [`Error::DataKeyLength`] unless it has 32 bytes.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "taken over, so that it is wiped here"
    )]
    pub fn from_vec(bytes: Zeroizing<Vec<u8>>) -> Result<Self, Error> {
        if bytes.len() != KEY_LEN {
            return Err(Error::DataKeyLength(bytes.len()));
        }
        let mut boxed = Box::new(Zeroizing::new([0; KEY_LEN]));
        boxed.copy_from_slice(&bytes);
        Ok(Self(boxed))
    }

    /// The message's key and the commitment to it: HKDF-SHA512 (RFC 5869) with the message id as salt.
    pub(crate) fn derive(
        &self,
        suite: Suite,
        message_id: &[u8; 32],
    ) -> Result<(LessSafeKey, [u8; 32]), Error> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA512, message_id).extract(self.0.as_slice());
        let mut key = Zeroizing::new([0; KEY_LEN]);
        expand(
            &prk,
            &[&suite.id().to_be_bytes(), b"DERIVEKEY"],
            key.as_mut_slice(),
        )?;
        let mut commitment = [0; 32];
        expand(&prk, &[b"COMMITKEY"], &mut commitment)?;
        let key = UnboundKey::new(&AES_256_GCM, key.as_slice())
            .map_err(|_| Error::Crypto("setting up AES-256-GCM"))?;
        Ok((LessSafeKey::new(key), commitment))
    }
}

/// A random message id, as each message needs its own: it is the salt that makes its key unlike every other
/// message's, even under the same data key.
///
/// # Errors
/// [`Error::Crypto`] if the system gives no randomness.
pub fn new_message_id() -> Result<[u8; 32], Error> {
    let mut id = [0; 32];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| Error::Crypto("drawing a message id"))?;
    Ok(id)
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(prk: &hkdf::Prk, info: &[&[u8]], out: &mut [u8]) -> Result<(), Error> {
    prk.expand(info, Length(out.len()))
        .and_then(|okm| okm.fill(out))
        .map_err(|_| Error::Crypto("deriving the message's key"))
}
