//! Seals fields of lines. The one place that numbers values: the number is the IV, and no number is used twice.

use aws_lc_rs::aead::{Aad, LessSafeKey};
use zeroize::{Zeroize as _, Zeroizing};

use super::find::{Found, find};
use super::names::Fields;
use super::text::{FRAME_LENGTH, IN_ROW, MARK, associated, put};
use super::{FIELD, FieldError, KIND};
use crate::frame::{Frames, nonce};
use crate::header;
use crate::{DataKey, EncryptedDataKey, EncryptionContext, Error, Suite};

/// Seals fields under one data key.
pub struct FieldSealer {
    fields: Fields,
    key: LessSafeKey,
    message_id: [u8; 32],
    /// What every value begins with: mark and header.
    beginning: Vec<u8>,
    /// The number of the next value; 0 once all are used.
    next: u32,
    found: Found,
    associated: Vec<u8>,
    /// Plaintext and then ciphertext of one value.
    work: Zeroizing<Vec<u8>>,
}

impl FieldSealer {
    /// A sealer whose values carry these encrypted data keys. `context` is what the key service was told, which
    /// [`field_context`](super::field_context) makes; `message_id` must be new and random: see [`crate::new_message_id`].
    ///
    /// # Errors
    /// The context is not one of fields, or does not fit the format.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a data key is used here, then gone"
    )]
    pub fn new(
        fields: Fields,
        context: &EncryptionContext,
        data_keys: &[EncryptedDataKey],
        key: DataKey,
        message_id: [u8; 32],
    ) -> Result<Self, Error> {
        if context.get(KIND).is_none_or(|kind| kind != FIELD) {
            return Err(Error::NotOfFields);
        }
        if let Some(name) = context
            .keys()
            .find(|name| name.starts_with(crate::RESERVED_PREFIX))
        {
            return Err(Error::ReservedContextKey(name.clone()));
        }
        let suite = Suite::CommitKey;
        let (key, commitment) = key.derive(suite, &message_id)?;
        let mut bytes = header::encode(
            suite,
            &message_id,
            context,
            data_keys,
            FRAME_LENGTH,
            &commitment,
        )?;
        let frames = Frames::new(key, message_id, FRAME_LENGTH);
        bytes.extend_from_slice(&frames.header_tag(&bytes)?);
        let mut beginning = format!("\"{MARK}").into_bytes();
        put(&bytes, &mut beginning);
        beginning.push(b'.');
        Ok(Self {
            fields,
            key: frames.into_key(),
            message_id,
            beginning,
            next: 1,
            found: Found::default(),
            associated: Vec::new(),
            work: Zeroizing::default(),
        })
    }

    /// Appends a line with its fields sealed to `out`; returns how many values there were. A line is without its newline.
    ///
    /// # Errors
    /// A named field cannot be found for sure; `out` is as it was then.
    pub fn line(&mut self, line: &str, out: &mut Vec<u8>) -> Result<usize, FieldError> {
        find(line, &self.fields, &mut self.found)?;
        let start = out.len();
        let sealed = self.values(line, out);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    fn values(&mut self, line: &str, out: &mut Vec<u8>) -> Result<usize, FieldError> {
        let mut at = 0;
        let flags = u8::from(self.found.row.is_some()) * IN_ROW;
        for value in &self.found.values {
            out.extend_from_slice(&line.as_bytes()[at..value.start]);
            at = value.end;
            let number = self.next;
            if number == 0 {
                return Err(FieldError::TooManyValues);
            }
            // After the last number comes 0, which no value has.
            self.next = number.wrapping_add(1);
            let plaintext = &line.as_bytes()[value.start..value.end];
            let head = super::text::HEAD;
            self.work.clear();
            let room = head + plaintext.len() + header::TAG_LEN;
            if self.work.capacity() < room {
                // A new one rather than a larger one, which would leave a copy behind.
                self.work.zeroize();
                self.work = Zeroizing::new(Vec::with_capacity(room.next_power_of_two()));
            }
            self.work.push(flags);
            self.work.extend_from_slice(&number.to_be_bytes());
            self.work.extend_from_slice(plaintext);
            associated(
                &self.message_id,
                flags,
                &self.fields.names[value.field],
                self.found.row.as_deref(),
                &mut self.associated,
            );
            let tag = self
                .key
                .seal_in_place_separate_tag(
                    nonce(number),
                    Aad::from(self.associated.as_slice()),
                    &mut self.work[head..],
                )
                .map_err(|_| Error::Crypto("encrypting a field"))?;
            self.work.extend_from_slice(tag.as_ref());
            out.extend_from_slice(&self.beginning);
            put(&self.work, out);
            out.push(b'"');
        }
        out.extend_from_slice(&line.as_bytes()[at..]);
        Ok(self.found.values.len())
    }

    #[cfg(test)]
    pub(super) fn skip_to(&mut self, number: u32) {
        self.next = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::field_context;

    #[test]
    fn no_number_is_used_twice() {
        let fields = Fields::new(["a"]).expect("a name");
        let data_key = EncryptedDataKey {
            provider_id: "aws-kms".to_owned(),
            key_info: "key".to_owned(),
            ciphertext: vec![1],
        };
        let context = field_context(EncryptionContext::new());
        let key = DataKey::from_bytes(Zeroizing::new([7; 32]));
        let mut sealer =
            FieldSealer::new(fields, &context, &[data_key], key, [1; 32]).expect("a sealer");
        sealer.skip_to(u32::MAX);
        let mut out = Vec::new();
        assert_eq!(sealer.line("{\"a\":1}", &mut out), Ok(1));
        for _ in 0..2 {
            let length = out.len();
            assert_eq!(
                sealer.line("{\"a\":1}", &mut out),
                Err(FieldError::TooManyValues)
            );
            assert_eq!(out.len(), length);
        }
        assert_eq!(sealer.line("{\"b\":1}", &mut out), Ok(0));
    }
}
