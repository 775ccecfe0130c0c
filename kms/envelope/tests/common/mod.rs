//! What the tests of this crate share: a fixed key, and messages under it.

#![allow(dead_code, reason = "each test program uses its part")]

use anchorhold_envelope::{
    DataKey, EncryptedDataKey, EncryptionContext, Error, Header, Limits, Opener, Parse,
    SealOptions, Sealer, SigningKey, Suite,
};
use zeroize::Zeroizing;

/// 00 01 02 … 1f
pub(crate) fn key() -> DataKey {
    DataKey::from_bytes(Zeroizing::new(std::array::from_fn(|index| index as u8)))
}

pub(crate) fn context(pairs: &[(&str, &str)]) -> EncryptionContext {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(crate) fn data_key() -> EncryptedDataKey {
    EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
            .to_owned(),
        ciphertext: b"wrapped data key".to_vec(),
    }
}

pub(crate) fn options(suite: Suite, frame_length: u32, context: EncryptionContext) -> SealOptions {
    SealOptions {
        suite,
        frame_length,
        context,
        data_keys: vec![data_key()],
    }
}

/// Seals in pieces of `chunk` bytes.
pub(crate) fn seal_in(
    mut options: SealOptions,
    message_id: [u8; 32],
    plaintext: &[u8],
    chunk: usize,
) -> Vec<u8> {
    let (mut sealer, mut message) = if options.suite.is_signed() {
        let signing_key = SigningKey::generate().unwrap();
        options
            .context
            .extend([signing_key.context_entry().unwrap()]);
        Sealer::signed(options, signing_key, key(), message_id).unwrap()
    } else {
        Sealer::new(options, key(), message_id).unwrap()
    };
    for piece in plaintext.chunks(chunk.max(1)) {
        sealer.update(piece, &mut message).unwrap();
    }
    sealer.finish(&mut message).unwrap();
    message
}

pub(crate) fn sealed(suite: Suite, frame_length: u32, plaintext: &[u8]) -> Vec<u8> {
    seal_in(
        options(suite, frame_length, context(&[("a", "b")])),
        [7; 32],
        plaintext,
        1 << 20,
    )
}

/// Opens in pieces of `chunk` bytes. On failure, what had been released by then comes along.
pub(crate) fn open_in(message: &[u8], chunk: usize) -> Result<(Header, Vec<u8>), (Error, Vec<u8>)> {
    let mut out = Vec::new();
    let outcome = (|| {
        let Parse::Complete { header, consumed } = Header::parse(message, &Limits::default())?
        else {
            return Err(Error::Truncated {
                missing: "header's end",
            });
        };
        let mut opener = Opener::new((*header).clone(), key())?;
        for piece in message[consumed..].chunks(chunk.max(1)) {
            opener.update(piece, &mut out)?;
        }
        opener.finish()?;
        Ok(*header)
    })();
    match outcome {
        Ok(header) => Ok((header, out)),
        Err(error) => Err((error, out)),
    }
}

/// Opens through the reader and writer, in reads of `chunk` bytes.
pub(crate) fn open_stream(message: &[u8], chunk: usize) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    match anchorhold_envelope::open(Slow(message, chunk), &mut out, &Limits::default(), |_| {
        Ok::<_, Error>(key())
    }) {
        Ok(opened) => {
            assert_eq!(opened.plaintext_bytes, out.len() as u64);
            Ok(out)
        }
        Err(anchorhold_envelope::OpenError::Message(error)) => Err(error),
        Err(other) => panic!("no I/O can fail here: {other}"),
    }
}

/// A reader that gives at most so many bytes at once.
pub(crate) struct Slow<'a>(pub(crate) &'a [u8], pub(crate) usize);

impl std::io::Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.1.max(1));
        self.0.read(&mut buffer[..length])
    }
}

/// How long the header of a message is, its tag included.
pub(crate) fn header_length(message: &[u8]) -> usize {
    match Header::parse(message, &Limits::default()) {
        Ok(Parse::Complete { consumed, .. }) => consumed,
        other => panic!("no header: {other:?}"),
    }
}
