//! Sealed messages: anything may come in, and only what was sealed comes out.
//!
//! The first byte chooses the size of the pieces. Then arbitrary bytes are taken for a message; and, as hardly
//! any of those get past the header's authentication, a good message is changed at the places they choose. What
//! opens must be the message itself.

#![no_main]

use anchorhold_envelope::{
    DataKey, EncryptedDataKey, EncryptionContext, Error, Header, Limits, Opener, Parse,
    SealOptions, Sealer, open,
};
use libfuzzer_sys::fuzz_target;

const PLAINTEXT: &[u8] = b"forty bytes of plaintext in small frames";

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else {
        return;
    };
    let chunk = usize::from(*first).max(1);

    assert!(
        opened(bytes, chunk).is_err(),
        "nobody can make a message without the key"
    );

    let good = message();
    let mut changed = good.clone();
    for edit in bytes.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]])) % (changed.len() + 1);
        match edit[2] % 4 {
            0 => changed.insert(at, edit[3]),
            1 => changed.truncate(at),
            2 if at < changed.len() => changed[at] = edit[3],
            3 => changed.rotate_left(at % usize::from(edit[3]).max(1)),
            _ => {}
        }
    }
    match opened(&changed, chunk) {
        Ok(plaintext) => {
            assert!(changed == good, "a changed message opened");
            assert_eq!(plaintext, PLAINTEXT);
        }
        Err(_) => assert!(changed != good, "the good message did not open"),
    }

    // The reader finds what the piecewise opener finds.
    let mut out = Vec::new();
    let streamed = open(changed.as_slice(), &mut out, &Limits::default(), |_| {
        Ok::<_, Error>(key())
    });
    assert_eq!(streamed.is_ok(), changed == good);
});

fn opened(message: &[u8], chunk: usize) -> Result<Vec<u8>, Error> {
    let Parse::Complete { header, consumed } = Header::parse(message, &Limits::default())? else {
        return Err(Error::Truncated {
            missing: "header's end",
        });
    };
    let mut opener = Opener::new(*header, key())?;
    let mut out = Vec::new();
    for piece in message[consumed..].chunks(chunk) {
        opener.update(piece, &mut out)?;
        assert!(
            PLAINTEXT.starts_with(&out),
            "unproven plaintext was released"
        );
    }
    opener.finish()?;
    Ok(out)
}

fn message() -> Vec<u8> {
    let data_key = EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: "key".to_owned(),
        ciphertext: vec![1, 2, 3],
    };
    let context = EncryptionContext::from([("a".to_owned(), "b".to_owned())]);
    let options = SealOptions {
        frame_length: 16,
        ..SealOptions::new(context, vec![data_key])
    };
    let (mut sealer, mut message) =
        Sealer::new(options, key(), [7; 32]).expect("these options fit the format");
    sealer
        .update(PLAINTEXT, &mut message)
        .expect("these are few frames");
    sealer.finish(&mut message).expect("these are few frames");
    message
}

fn key() -> DataKey {
    DataKey::from_bytes([9; 32].into())
}
