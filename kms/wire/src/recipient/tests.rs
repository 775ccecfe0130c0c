use std::sync::OnceLock;

use super::*;
use proptest::prelude::*;
use rcgen::PublicKeyData;

/// Making keys is slow, so the tests share one.
fn key() -> &'static RecipientKey {
    static KEY: OnceLock<RecipientKey> = OnceLock::new();
    KEY.get_or_init(|| RecipientKey::generate().unwrap())
}

/// An envelope for the key, with its content key and content chosen by the test.
fn sealed_with(content_key: &[u8], iv: [u8; 16], encrypted_content: Vec<u8>) -> Envelope {
    let public = OaepPublicEncryptingKey::new(
        PublicEncryptingKey::from_der(key().public_key_der()).unwrap(),
    )
    .unwrap();
    let mut encrypted_key = vec![0; public.ciphertext_size()];
    public
        .encrypt(
            &OAEP_SHA256_MGF1SHA256,
            content_key,
            &mut encrypted_key,
            None,
        )
        .unwrap();
    Envelope {
        subject_key_identifier: sha256(key().public_key_der()),
        encrypted_key,
        iv,
        encrypted_content,
    }
}

/// One block or more under AES-256-CBC, without any padding of its own.
fn cbc(content_key: &[u8], iv: [u8; 16], padded: &[u8]) -> Vec<u8> {
    use aws_lc_rs::cipher::{EncryptingKey, EncryptionContext};
    let cipher = EncryptingKey::cbc(UnboundCipherKey::new(&AES_256, content_key).unwrap()).unwrap();
    let mut bytes = padded.to_vec();
    cipher
        .less_safe_encrypt(&mut bytes, EncryptionContext::Iv128(FixedLength::from(iv)))
        .unwrap();
    bytes
}

const CONTENT_KEY: &str = "834e35d717af37b075357beb42da2d20679c19857209b0d33130ace8cc85647b";
const IV: &str = "5aab36bcfa098ce7cde7ea47f3f51957";
/// Made by `openssl enc -aes-256-cbc -K … -iv …`.
const CONTENT: &str = "469d82fa4b12cf68a18be23bd1ef737f1e2d15f0c8f171477afb6c4e4000e41b";

fn known_envelope() -> Envelope {
    sealed_with(
        &hex::decode(CONTENT_KEY).unwrap(),
        hex::decode(IV).unwrap().try_into().unwrap(),
        hex::decode(CONTENT).unwrap(),
    )
}

#[test]
fn the_known_content_opens() {
    assert_eq!(
        &**key().open(&known_envelope().encode()).unwrap(),
        b"hello world - goodbye world!"
    );
}

#[test]
fn an_envelope_of_32_bytes_under_rsa_2048_has_the_493_bytes_of_aws_kms() {
    let cms = seal(key().public_key_der(), &[7; 32]).unwrap();
    assert_eq!(cms.len(), 493);
    // Every byte that is not a key identifier, a ciphertext or an IV, written out by hand from RFC
    // 5652 and RFC 4055, so that the writer is not its own witness.
    let layout = concat!(
        "30 80  06 09 2a864886f70d010703  a0 80  30 80  02 01 02",
        "31 82 016b  30 82 0167  02 01 02  80 20 SKI",
        "30 3c  06 09 2a864886f70d010107  30 2f",
        "a0 0f  30 0d  06 09 608648016503040201  05 00",
        "a1 1c  30 1a  06 09 2a864886f70d010108  30 0d  06 09 608648016503040201  05 00",
        "04 82 0100 KEY",
        "30 80  06 09 2a864886f70d010701  30 1d  06 09 60864801650304012a  04 10 IV_",
        "a0 80  04 30 CONTENT  00 00  00 00  00 00  00 00  00 00",
    );
    let layout: String = layout.chars().filter(|c| *c != ' ').collect();
    let envelope = Envelope::parse(&cms).unwrap();
    let expected = layout
        .replace("SKI", &hex::encode(sha256(key().public_key_der())))
        .replace("KEY", &hex::encode(&envelope.encrypted_key))
        .replace("IV_", &hex::encode(envelope.iv))
        .replace("CONTENT", &hex::encode(&envelope.encrypted_content));
    assert_eq!(hex::encode(&cms), expected);
    assert_eq!(envelope.encrypted_content.len(), 48);
    assert_eq!(&**key().open(&cms).unwrap(), &[7; 32]);
}

#[test]
fn content_may_come_in_one_primitive_piece_or_in_several() {
    let written = known_envelope().encode();
    let content = hex::decode(CONTENT).unwrap();
    let start = written.len() - 8 - (2 + 2 + 32 + 2);
    let with = |pieces: &[u8]| [&written[..start], pieces, &[0; 8]].concat();

    let primitive = with(&[&[0x80, 32], &content[..]].concat());
    let several = with(
        &[
            &[0xa0, 0x80, 4, 5],
            &content[..5],
            &[4, 0, 4, 27],
            &content[5..],
            &[0, 0],
        ]
        .concat(),
    );
    for cms in [primitive, several] {
        assert_eq!(
            Envelope::parse(&cms).as_ref(),
            Ok(&known_envelope_like(&cms))
        );
        assert_eq!(
            &**key().open(&cms).unwrap(),
            b"hello world - goodbye world!"
        );
    }
    for (pieces, why) in [
        (vec![0xa0, 0x80, 0, 0], "no content"),
        (vec![0x80, 0], "no content"),
        (
            [&[0x80, 31], &content[1..]].concat(),
            "not a multiple of a block",
        ),
        (
            [&[0xa0, 0x22, 4, 32], &content[..]].concat(),
            "constructed of definite length",
        ),
        (
            [&[0xa0, 0x80, 0x80, 32], &content[..], &[0, 0]].concat(),
            "another piece than an octet string",
        ),
        (
            [&[0xa0, 0x80, 4, 0x81, 32], &content[..], &[0, 0]].concat(),
            "a length longer than need be",
        ),
        (
            [&[0xa0, 0x80, 4, 0x82, 0, 32], &content[..], &[0, 0]].concat(),
            "a length longer than need be",
        ),
        (
            [&[0xa0, 0x80, 4, 0x84, 0, 0, 0, 32], &content[..], &[0, 0]].concat(),
            "a length of four bytes",
        ),
        (
            [
                &[0xa0, 0x80, 0x24, 0x80, 4, 32],
                &content[..],
                &[0, 0, 0, 0],
            ]
            .concat(),
            "nested pieces",
        ),
    ] {
        assert!(
            matches!(
                Envelope::parse(&with(&pieces)),
                Err(EnvelopeError::Expected { .. })
            ),
            "{why}"
        );
    }
}

/// The known envelope as it stands in these bytes (the wrapped key differs from run to run).
fn known_envelope_like(cms: &[u8]) -> Envelope {
    let mut envelope = known_envelope();
    let at = cms
        .windows(4)
        .position(|window| window == [4, 0x82, 1, 0])
        .unwrap()
        + 4;
    envelope.encrypted_key = cms[at..at + 256].to_vec();
    envelope
}

#[test]
fn definite_lengths_other_versions_and_other_algorithms_are_refused() {
    let written = known_envelope().encode();
    for (at, byte, why) in [
        (1, 0x82, "definite ContentInfo"),
        (12, 0x02, "signedData"),
        (14, 0x82, "definite [0]"),
        (16, 0x82, "definite EnvelopedData"),
        (19, 0x00, "version 0"),
        (20, 0x30, "no set"),
        (30, 0x00, "version 0 of the recipient"),
        (
            31,
            0x30,
            "issuer and serial number instead of a subject key identifier",
        ),
        (77, 0x01, "PKCS#1 v1.5"),
        (94, 0x02, "SHA-384"),
    ] {
        let mut changed = written.clone();
        assert_ne!(changed[at], byte, "{why}: the test must change something");
        changed[at] = byte;
        assert!(
            matches!(
                Envelope::parse(&changed),
                Err(EnvelopeError::Expected { .. })
            ),
            "{why}"
        );
    }
}

#[test]
fn every_truncation_and_any_trailing_byte_is_refused() {
    let written = known_envelope().encode();
    for length in 0..written.len() {
        assert!(
            matches!(key().open(&written[..length]), Err(OpenError::Envelope(_))),
            "{length}"
        );
    }
    let longer = [&written[..], &[0]].concat();
    assert_eq!(
        key().open(&longer),
        Err(OpenError::Envelope(EnvelopeError::Expected {
            what: "nothing after the envelope",
            offset: written.len()
        }))
    );
    assert_eq!(
        Envelope::parse(&vec![0x30; MAX_ENVELOPE_BYTES + 1]),
        Err(EnvelopeError::TooLong {
            length: MAX_ENVELOPE_BYTES + 1
        })
    );
}

#[test]
fn all_failures_of_decryption_look_alike() {
    let other = RecipientKey::generate().unwrap();
    let good = known_envelope().encode();
    assert_eq!(
        other.open(&good).unwrap_err(),
        OpenError::Decryption,
        "another key"
    );

    let content_key = [9; 32];
    let iv = [3; 16];
    let padded = |tail: &[u8]| {
        let mut block = vec![b'x'; 32 - tail.len()];
        block.extend_from_slice(tail);
        sealed_with(&content_key, iv, cbc(&content_key, iv, &block)).encode()
    };
    for tail in [
        &[0][..],
        &[17],
        &[255],
        &[1, 2],
        &[2, 3, 3],
        &[15, 16],
        &[9, 4, 4, 4],
    ] {
        assert_eq!(
            key().open(&padded(tail)).unwrap_err(),
            OpenError::Decryption,
            "padding {tail:?}"
        );
    }
    assert_eq!(key().open(&padded(&[1])).unwrap().len(), 31);
    assert_eq!(key().open(&padded(&[16; 16])).unwrap().len(), 16);

    for content_key_length in [0, 16, 31, 33] {
        let envelope = sealed_with(&vec![9; content_key_length], iv, vec![0; 32]).encode();
        assert_eq!(
            key().open(&envelope).unwrap_err(),
            OpenError::Decryption,
            "content key of {content_key_length} bytes"
        );
    }
    let mut envelope = known_envelope();
    envelope.encrypted_key.extend_from_slice(&[0; 128]);
    assert_eq!(
        key().open(&envelope.encode()).unwrap_err(),
        OpenError::Decryption,
        "a key of another size"
    );
}

#[test]
fn only_rsa_keys_of_2048_bits_and_more_receive_envelopes() {
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(
        seal(&ec.subject_public_key_info(), b"x"),
        Err(SealError::PublicKey)
    );
    assert_eq!(seal(b"", b"x"), Err(SealError::PublicKey));
    let spki = key().public_key_der();
    assert_eq!(
        check_public_key(&[spki, &[0]].concat()),
        Err(SealError::PublicKey),
        "a trailing byte"
    );
    assert_eq!(
        check_public_key(&spki[..spki.len() - 1]),
        Err(SealError::PublicKey),
        "truncated"
    );
    assert_eq!(check_public_key(spki), Ok(()));
    // A 1024-bit key, made with openssl.
    let small = "30819f300d06092a864886f70d010101050003818d0030818902818100SMALL0203010001";
    let small = small.replace("SMALL", SMALL_MODULUS);
    let small = hex::decode(small).unwrap();
    assert!(check_public_key(&small).is_err());
}

const SMALL_MODULUS: &str = "a0706ef7a66550aa3a578f2dc657aa09b5c69dc3882fdf03412d0b00e9b69b2e756b4e635a7a33470793e61a474e63c77323e95eb9558cc83e05ae344f78f07476393d5c70c18ccf2b8b3aa8c9216e8c18b2982a3e063a0d007653c7b92f61adcace0986838438d822c882764ef738587264f52eaff27915f63e0e8b89210713";

#[test]
fn larger_rsa_keys_receive_envelopes_too() {
    for (size, encrypted_key) in [(KeySize::Rsa3072, 384), (KeySize::Rsa4096, 512)] {
        let private = PrivateDecryptingKey::generate(size).unwrap();
        let spki: PublicKeyX509Der<'static> = private.public_key().as_der().unwrap();
        let cms = seal(spki.as_ref(), &[1; 32]).unwrap();
        assert_eq!(
            Envelope::parse(&cms).unwrap().encrypted_key.len(),
            encrypted_key
        );
    }
}

#[test]
fn plaintexts_have_1_to_4096_bytes() {
    let spki = key().public_key_der();
    assert_eq!(
        seal(spki, b""),
        Err(SealError::PlaintextLength { length: 0 })
    );
    assert_eq!(
        seal(spki, &[0; 4097]),
        Err(SealError::PlaintextLength { length: 4097 })
    );
    let cms = seal(spki, &[0; 4096]).unwrap();
    assert_eq!(key().open(&cms).unwrap().len(), 4096);
}

#[test]
fn two_envelopes_of_one_plaintext_share_neither_key_nor_iv() {
    let [a, b] =
        [(); 2].map(|()| Envelope::parse(&seal(key().public_key_der(), b"x").unwrap()).unwrap());
    assert_ne!(a.encrypted_key, b.encrypted_key);
    assert_ne!(a.iv, b.iv);
    assert_ne!(a.encrypted_content, b.encrypted_content);
}

proptest! {
    #[test]
    fn what_is_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 1..=4096)) {
        let cms = seal(key().public_key_der(), &plaintext).unwrap();
        prop_assert_eq!(&**key().open(&cms).unwrap(), &plaintext[..]);
    }

    #[test]
    fn what_is_written_is_read_back(
        subject_key_identifier: [u8; 32],
        encrypted_key in prop::collection::vec(any::<u8>(), 256..=1024),
        iv: [u8; 16],
        blocks in prop::collection::vec(any::<[u8; 16]>(), 1..=257),
    ) {
        let envelope = Envelope { subject_key_identifier, encrypted_key, iv, encrypted_content: blocks.concat() };
        prop_assert_eq!(Envelope::parse(&envelope.encode()), Ok(envelope));
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
        let _ = Envelope::parse(&bytes);
    }

    #[test]
    fn a_changed_byte_is_refused_or_stays_within_its_field(at in 0_usize..493, change in 1_u8..) {
        let written = seal(key().public_key_der(), &[5; 32]).unwrap();
        let mut changed = written.clone();
        changed[at] ^= change;
        if let Ok(envelope) = Envelope::parse(&changed) {
            // Then what changed is one of the four fields, and writing shows all of it.
            prop_assert_eq!(envelope.encode(), changed);
        }
    }
}
