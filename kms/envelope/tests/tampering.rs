//! Whatever is done to a message, it is refused, and for the right reason.

#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod common;

use anchorhold_envelope::{
    DataKey, EncryptedDataKey, Error, Header, Limits, OpenError, Opener, Parse, SealOptions,
    Sealer, SigningKey, Suite, new_message_id, open, open_whole, seal,
};
use common::{
    context, data_key, header_length, key, open_in, open_stream, options, seal_in, sealed,
};
use proptest::prelude::*;
use zeroize::Zeroizing;

const REGULAR_HEAD: usize = 16;
const FINAL_HEAD: usize = 24;
const TAG: usize = 16;
const BOTH: [Suite; 2] = [Suite::CommitKey, Suite::CommitKeySigned];

fn refusal(message: &[u8]) -> Error {
    let (error, _) = open_in(message, message.len()).expect_err("this message must be refused");
    assert_eq!(open_in(message, 1).expect_err("also byte by byte").0, error);
    assert_eq!(
        open_stream(message, 5).expect_err("also from a reader"),
        error
    );
    error
}

/// The parts of a message with frames of 4 bytes: header, regular frames, final frame (and footer).
fn parts(message: &[u8], regular: usize) -> (Vec<u8>, Vec<Vec<u8>>, Vec<u8>) {
    let (header, body) = message.split_at(header_length(message));
    let (frames, end) = body.split_at(regular * (REGULAR_HEAD + 4 + TAG));
    let frames = frames
        .chunks(REGULAR_HEAD + 4 + TAG)
        .map(<[u8]>::to_vec)
        .collect();
    (header.to_vec(), frames, end.to_vec())
}

fn joined(header: &[u8], frames: &[&Vec<u8>], end: &[u8]) -> Vec<u8> {
    let mut message = header.to_vec();
    for frame in frames {
        message.extend_from_slice(frame);
    }
    message.extend_from_slice(end);
    message
}

#[test]
fn every_flipped_bit_is_refused() {
    for suite in BOTH {
        let message = sealed(suite, 4, b"ten bytes.");
        for at in 0..message.len() * 8 {
            let mut changed = message.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(
                open_in(&changed, changed.len()).is_err(),
                "{suite:?}: bit {at} may change"
            );
            if at % 8 == 0 {
                assert!(
                    open_stream(&changed, 64).is_err(),
                    "{suite:?}: bit {at} may change"
                );
            }
        }
    }
}

#[test]
fn every_cut_is_refused_and_nothing_unproven_is_released() {
    for suite in BOTH {
        let plaintext = b"ten bytes.";
        let message = sealed(suite, 4, plaintext);
        for length in 0..message.len() {
            let (error, released) = open_in(&message[..length], 3).unwrap_err();
            assert!(
                matches!(error, Error::Truncated { .. }),
                "{suite:?} at {length}: {error}"
            );
            assert!(plaintext.starts_with(&released));
            assert!(released.len() < plaintext.len() || suite == Suite::CommitKey);
            assert!(matches!(
                open_stream(&message[..length], 9).unwrap_err(),
                Error::Truncated { .. }
            ));
        }
    }
}

#[test]
fn a_message_cut_between_frames_lacks_its_final_frame() {
    let message = sealed(Suite::CommitKey, 4, b"ten bytes.");
    let (header, frames, _) = parts(&message, 2);
    let cut = joined(&header, &[&frames[0], &frames[1]], &[]);
    assert_eq!(
        refusal(&cut),
        Error::Truncated {
            missing: "final frame"
        }
    );
}

#[test]
fn a_signed_message_without_its_footer_is_refused_and_its_last_frame_held_back() {
    let message = sealed(Suite::CommitKeySigned, 4, b"ten bytes.");
    let (header, frames, end) = parts(&message, 2);
    let unsigned = joined(
        &header,
        &[&frames[0], &frames[1]],
        &end[..FINAL_HEAD + 2 + TAG],
    );
    let (error, released) = open_in(&unsigned, 1000).unwrap_err();
    assert_eq!(
        error,
        Error::Truncated {
            missing: "signature"
        }
    );
    assert_eq!(released, b"ten byte");
}

#[test]
fn trailing_bytes_are_refused() {
    for suite in BOTH {
        let message = sealed(suite, 4, b"ten bytes.");
        assert_eq!(
            refusal(&[message.as_slice(), &[0]].concat()),
            Error::TrailingBytes
        );
        assert_eq!(refusal(&message.repeat(2)), Error::TrailingBytes);
    }
}

#[test]
fn swapped_repeated_and_missing_frames_are_refused() {
    let message = sealed(Suite::CommitKey, 4, b"fourteen bytes");
    let (header, frames, end) = parts(&message, 3);
    let [a, b, c] = [&frames[0], &frames[1], &frames[2]];
    let orders: [(&[&Vec<u8>], u32, u32); 4] = [
        (&[b, a, c], 1, 2),
        (&[a, a, b, c], 2, 1),
        (&[a, c], 2, 3),
        (&[a, b], 3, 4),
    ];
    for (order, expected, found) in orders {
        let changed = joined(&header, order, &end);
        assert_eq!(refusal(&changed), Error::Sequence { expected, found });
    }
}

#[test]
fn a_renumbered_frame_is_refused() {
    let message = sealed(Suite::CommitKey, 4, b"ten bytes.");
    let (header, mut frames, end) = parts(&message, 2);
    frames.swap(0, 1);
    for (number, frame) in (1..).zip(&mut frames) {
        frame[3] = number;
    }
    let swapped = joined(&header, &[&frames[0], &frames[1]], &end);
    assert_eq!(refusal(&swapped), Error::FrameIv(1));
    for (number, frame) in (1..).zip(&mut frames) {
        frame[15] = number;
    }
    let swapped = joined(&header, &[&frames[0], &frames[1]], &end);
    assert_eq!(refusal(&swapped), Error::FrameTag(1));
}

#[test]
fn frames_of_another_message_under_the_same_key_are_refused() {
    let own = seal_in(
        options(Suite::CommitKey, 4, context(&[])),
        [1; 32],
        b"ten bytes.",
        10,
    );
    let other = seal_in(
        options(Suite::CommitKey, 4, context(&[])),
        [2; 32],
        b"TEN BYTES.",
        10,
    );
    let (header, frames, end) = parts(&own, 2);
    let (_, strange, strange_end) = parts(&other, 2);
    assert_eq!(
        refusal(&joined(&header, &[&strange[0], &frames[1]], &end)),
        Error::FrameTag(1)
    );
    assert_eq!(
        refusal(&joined(&header, &[&frames[0], &strange[1]], &end)),
        Error::FrameTag(2)
    );
    assert_eq!(
        refusal(&joined(&header, &[&frames[0], &frames[1]], &strange_end)),
        Error::FrameTag(3)
    );
}

#[test]
fn the_header_of_another_message_under_the_same_key_is_refused() {
    // The same id even: then key and frames are the same, and only the context differs.
    let own = seal_in(
        options(Suite::CommitKey, 4, context(&[("to", "a")])),
        [1; 32],
        b"text",
        4,
    );
    let other = seal_in(
        options(Suite::CommitKey, 8, context(&[("to", "b")])),
        [1; 32],
        b"text",
        4,
    );
    let mut mixed = other[..header_length(&other) - TAG].to_vec();
    mixed.extend_from_slice(&own[header_length(&own) - TAG..]);
    assert_eq!(refusal(&mixed), Error::HeaderTag);
}

#[test]
fn a_final_frame_in_the_middle_ends_the_message() {
    let message = sealed(Suite::CommitKey, 4, b"ten bytes.");
    let (header, frames, end) = parts(&message, 2);
    let early = joined(
        &header,
        &[&frames[0]],
        &[end.as_slice(), &frames[1]].concat(),
    );
    assert_eq!(
        refusal(&early),
        Error::Sequence {
            expected: 2,
            found: 3
        }
    );
    let late = joined(
        &header,
        &[&frames[0], &frames[1]],
        &[end.as_slice(), &frames[1]].concat(),
    );
    assert_eq!(refusal(&late), Error::TrailingBytes);
}

#[test]
fn a_regular_frame_cannot_pass_as_the_final_one() {
    let message = sealed(Suite::CommitKey, 4, b"ten bytes.");
    let (header, frames, _) = parts(&message, 2);
    let mut disguised = vec![0xff; 4];
    disguised.extend_from_slice(&frames[1][..REGULAR_HEAD]);
    disguised.extend_from_slice(&4_u32.to_be_bytes());
    disguised.extend_from_slice(&frames[1][REGULAR_HEAD..]);
    assert_eq!(
        refusal(&joined(&header, &[&frames[0]], &disguised)),
        Error::FrameTag(2)
    );
}

#[test]
fn the_final_frame_cannot_pass_as_a_regular_one() {
    let message = sealed(Suite::CommitKey, 2, b"ten.");
    let other = sealed(Suite::CommitKey, 4, b"ten.");
    // Two whole frames and an empty final one; and frames of 4 with one whole frame and an empty one.
    assert_eq!(open_in(&message, 1).unwrap().1, b"ten.");
    let body = header_length(&other) + REGULAR_HEAD + 4 + TAG;
    let mut disguised = other[..body].to_vec();
    disguised.extend_from_slice(&other[body + 4..body + 20]);
    disguised.extend_from_slice(&[0; 4]);
    disguised.extend_from_slice(&other[body + FINAL_HEAD..]);
    assert_eq!(refusal(&disguised), Error::FrameTag(2));
}

#[test]
fn a_final_frame_longer_than_a_frame_is_refused() {
    let message = sealed(Suite::CommitKey, 4, b"abc");
    let mut long = message.clone();
    let at = header_length(&message) + FINAL_HEAD - 1;
    long[at] = 5;
    assert_eq!(
        refusal(&long),
        Error::FinalFrameTooLong { found: 5, limit: 4 }
    );
}

#[test]
fn an_empty_final_frame_may_end_a_message_but_not_be_left_out() {
    let message = sealed(Suite::CommitKey, 4, b"12345678");
    assert_eq!(open_in(&message, 100).unwrap().1, b"12345678");
    let without = &message[..message.len() - FINAL_HEAD - TAG];
    assert_eq!(
        refusal(without),
        Error::Truncated {
            missing: "final frame"
        }
    );
}

#[test]
fn another_data_key_is_refused_by_the_commitment() {
    let message = sealed(Suite::CommitKey, 4, b"text");
    let other = DataKey::from_bytes(Zeroizing::new([9; 32]));
    let Ok(Parse::Complete { header, .. }) = Header::parse(&message, &Limits::default()) else {
        panic!("the header is whole");
    };
    assert!(matches!(
        Opener::new(*header, other),
        Err(Error::Commitment)
    ));
}

#[test]
fn a_message_id_of_another_message_is_refused_by_the_commitment() {
    let mut message = sealed(Suite::CommitKey, 4, b"text");
    message[3] ^= 1;
    assert_eq!(refusal(&message), Error::Commitment);
}

#[test]
fn a_suite_changed_to_the_unsigned_one_is_refused() {
    // The commitment does not cover the suite, the message's key and the header's tag do.
    let mut message = sealed(Suite::CommitKeySigned, 4, b"text");
    message[1] = 0x04;
    assert_eq!(refusal(&message), Error::HeaderTag);
}

#[test]
fn the_signature_of_another_message_is_refused() {
    let own = sealed(Suite::CommitKeySigned, 4, b"text");
    let other = sealed(Suite::CommitKeySigned, 4, b"text");
    let body = header_length(&own) + 2 * TAG + REGULAR_HEAD + 4 + FINAL_HEAD;
    let mixed = [&own[..body], &other[body..]].concat();
    assert_eq!(refusal(&mixed), Error::Signature);
    let (_, released) = open_in(&mixed, 1000).unwrap_err();
    assert_eq!(
        released, b"text",
        "whole frames before the last one are released unsigned"
    );
    let whole = open_whole(&mixed, &Limits::default(), |_| Ok::<_, Error>(key()));
    assert_eq!(whole.unwrap_err(), Error::Signature);
}

#[test]
fn a_signature_longer_than_p384_allows_is_refused_before_it_came() {
    let message = sealed(Suite::CommitKeySigned, 4, b"");
    let body = header_length(&message) + TAG + FINAL_HEAD;
    let long = [&message[..body], &[0, 105]].concat();
    assert_eq!(refusal(&long), Error::SignatureTooLong(105));
}

#[test]
fn an_opener_that_refused_stays_refusing() {
    let mut message = sealed(Suite::CommitKey, 4, b"ten bytes.");
    let start = header_length(&message);
    message[start + REGULAR_HEAD] ^= 1;
    let Ok(Parse::Complete { header, consumed }) = Header::parse(&message, &Limits::default())
    else {
        panic!("the header is whole");
    };
    let mut opener = Opener::new(*header, key()).unwrap();
    let mut out = Vec::new();
    assert_eq!(
        opener.update(&message[consumed..], &mut out),
        Err(Error::FrameTag(1))
    );
    assert_eq!(
        opener.update(&message[consumed..], &mut out),
        Err(Error::AlreadyRefused)
    );
    assert_eq!(opener.finish(), Err(Error::AlreadyRefused));
    assert!(out.is_empty());
}

/// A header whose context is the given bytes; only its form is judged.
fn header_with_context(context: &[u8]) -> Vec<u8> {
    let message = sealed(Suite::CommitKey, 4, b"");
    let old = usize::from(u16::from_be_bytes([message[35], message[36]]));
    let mut header = message[..35].to_vec();
    header.extend_from_slice(&u16::try_from(context.len()).unwrap().to_be_bytes());
    header.extend_from_slice(context);
    header.extend_from_slice(&message[37 + old..header_length(&message)]);
    header
}

fn form(header: &[u8]) -> Result<Parse, Error> {
    Header::parse(header, &Limits::default())
}

#[test]
fn contexts_against_the_format_are_refused() {
    let pairs = |pairs: &[(&[u8], &[u8])]| {
        let mut bytes = u16::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for field in pairs.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend_from_slice(&u16::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    };
    let bad = |context: &[u8]| form(&header_with_context(context)).unwrap_err();
    assert!(form(&header_with_context(&pairs(&[(b"a", b"1"), (b"b", b"2")]))).is_ok());
    assert_eq!(
        bad(&pairs(&[(b"b", b"1"), (b"a", b"2")])),
        Error::UnsortedContext("a".to_owned())
    );
    assert_eq!(
        bad(&pairs(&[(b"a", b"1"), (b"a", b"1")])),
        Error::DuplicateContextKey("a".to_owned())
    );
    assert!(matches!(bad(&[0, 0]), Error::MalformedContext(_)));
    assert!(matches!(bad(&[1]), Error::MalformedContext(_)));
    assert!(matches!(
        bad(&pairs(&[(b"\xff", b"1")])),
        Error::MalformedContext(_)
    ));
    assert!(matches!(
        bad(&pairs(&[(b"a", b"\xff")])),
        Error::MalformedContext(_)
    ));
    assert!(matches!(
        bad(&[pairs(&[(b"a", b"1")]).as_slice(), &[0]].concat()),
        Error::MalformedContext(_)
    ));
    let mut short = pairs(&[(b"a", b"1")]);
    short[1] = 2;
    assert!(matches!(bad(&short), Error::MalformedContext(_)));
}

#[test]
fn what_this_crate_does_not_read_is_refused_by_name() {
    let message = sealed(Suite::CommitKey, 4, b"text");
    let changed = |at: usize, bytes: &[u8]| {
        let mut message = message.clone();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        form(&message).unwrap_err()
    };
    assert_eq!(changed(0, &[1]), Error::VersionWithoutCommitment);
    assert_eq!(changed(0, b"{"), Error::UnknownVersion(b'{'));
    for id in [0x0178_u16, 0x0214, 0x0346, 0x0378] {
        assert_eq!(
            changed(1, &id.to_be_bytes()),
            Error::SuiteWithoutCommitment { id }
        );
    }
    assert_eq!(changed(1, &[0, 1]), Error::UnknownSuite { id: 1 });
    let content_type = header_length(&message) - TAG - 32 - 4 - 1;
    assert_eq!(changed(content_type, &[1]), Error::ContentType(1));
    assert_eq!(changed(content_type + 1, &[0; 4]), Error::ZeroFrameLength);
    let above = Error::FrameLengthAboveLimit {
        found: 1 << 24 | 1,
        limit: 1 << 24,
    };
    assert_eq!(changed(content_type + 1, &[1, 0, 0, 1]), above);
}

#[test]
fn headers_beyond_the_limits_are_refused_before_they_came() {
    let mut options = options(Suite::CommitKey, 4, context(&[]));
    options.data_keys = vec![data_key(); 33];
    let (_, header) = Sealer::new(options, key(), [0; 32]).unwrap();
    assert_eq!(
        form(&header[..40]).unwrap_err(),
        Error::TooManyDataKeys {
            found: 33,
            limit: 32
        }
    );
    let limits = Limits {
        max_header_bytes: 1000,
        max_data_keys: 100,
        ..Limits::default()
    };
    assert_eq!(
        Header::parse(&header[..1001], &limits).unwrap_err(),
        Error::HeaderTooLong { limit: 1000 }
    );
}

#[test]
fn no_data_key_is_no_message() {
    let mut options = options(Suite::CommitKey, 4, context(&[]));
    options.data_keys.clear();
    assert!(matches!(
        Sealer::new(options, key(), [0; 32]),
        Err(Error::DataKeysOutOfRange(_))
    ));
    let message = seal_in(
        common::options(Suite::CommitKey, 4, context(&[])),
        [0; 32],
        b"",
        1,
    );
    let mut none = message[..37].to_vec();
    none.extend_from_slice(&[0, 0]);
    assert!(matches!(form(&none), Err(Error::MalformedDataKeys(_))));
}

#[test]
fn a_data_key_of_another_length_is_refused() {
    let short = DataKey::from_vec(Zeroizing::new(vec![0; 16]));
    assert!(matches!(short, Err(Error::DataKeyLength(16))));
    assert!(DataKey::from_vec(Zeroizing::new(vec![0; 32])).is_ok());
}

#[test]
fn reserved_context_keys_are_refused_on_sealing() {
    let reserved = context(&[("aws-crypto-public-key", "x")]);
    assert!(matches!(
        Sealer::new(
            options(Suite::CommitKey, 4, reserved.clone()),
            key(),
            [0; 32]
        ),
        Err(Error::ReservedContextKey(_))
    ));
    let signing_key = SigningKey::generate().unwrap();
    let signed = Sealer::signed(
        options(Suite::CommitKeySigned, 4, reserved),
        signing_key,
        key(),
        [0; 32],
    );
    assert!(matches!(signed, Err(Error::SigningKeyNotInContext)));
}

#[test]
fn a_signing_key_belongs_to_the_signed_suite_and_into_its_context() {
    let new = |suite| Sealer::new(options(suite, 4, context(&[])), key(), [0; 32]).err();
    assert_eq!(
        new(Suite::CommitKeySigned),
        Some(Error::SigningKey {
            id: 0x0578,
            wanted: true
        })
    );
    let signed = |suite| {
        let signing_key = SigningKey::generate().unwrap();
        Sealer::signed(options(suite, 4, context(&[])), signing_key, key(), [0; 32]).err()
    };
    assert_eq!(
        signed(Suite::CommitKey),
        Some(Error::SigningKey {
            id: 0x0478,
            wanted: false
        })
    );
    assert_eq!(
        signed(Suite::CommitKeySigned),
        Some(Error::SigningKeyNotInContext)
    );
}

#[test]
fn what_does_not_fit_the_format_is_refused_on_sealing() {
    let refused = |options: SealOptions| Sealer::new(options, key(), [0; 32]).err();
    let long = "x".repeat(65_536);
    let wide = context(&[("a", &long[..40_000]), ("b", &long[..40_000])]);
    assert_eq!(
        refused(options(Suite::CommitKey, 4, context(&[("a", &long)]))),
        Some(Error::ContextTooLong)
    );
    assert_eq!(
        refused(options(Suite::CommitKey, 4, wide)),
        Some(Error::ContextTooLong)
    );
    assert_eq!(
        refused(options(Suite::CommitKey, 0, context(&[]))),
        Some(Error::ZeroFrameLength)
    );
    let big = EncryptedDataKey {
        ciphertext: vec![0; 65_536],
        ..data_key()
    };
    let mut with_big = options(Suite::CommitKey, 4, context(&[]));
    with_big.data_keys.push(big);
    assert!(matches!(
        refused(with_big),
        Some(Error::DataKeysOutOfRange(_))
    ));
}

#[test]
fn the_key_is_asked_for_by_the_header_and_its_error_comes_through() {
    let message = sealed(Suite::CommitKey, 4, b"text");
    let outcome = open(
        message.as_slice(),
        std::io::sink(),
        &Limits::default(),
        |header| {
            assert_eq!(header.data_keys(), [data_key()]);
            Err::<DataKey, _>("the key service says no")
        },
    );
    assert!(matches!(
        outcome,
        Err(OpenError::Key("the key service says no"))
    ));
}

#[test]
fn two_messages_never_share_an_id() {
    assert_ne!(new_message_id().unwrap(), new_message_id().unwrap());
}

#[test]
fn errors_show_no_plaintext_and_name_a_remedy() {
    let text = Error::SuiteWithoutCommitment { id: 0x0378 }.to_string();
    assert!(text.contains("0x0378") && text.contains("0x0478"));
    let text = Error::SigningKey {
        id: 0x0578,
        wanted: true,
    }
    .to_string();
    assert!(text.contains("Sealer::signed"));
}

fn any_suite() -> impl Strategy<Value = Suite> {
    prop_oneof![4 => Just(Suite::CommitKey), 1 => Just(Suite::CommitKeySigned)]
}

fn any_context() -> impl Strategy<Value = anchorhold_envelope::EncryptionContext> {
    prop::collection::btree_map("[a-z]{1,4}|ключ|[ -~]{1,20}", "\\PC{0,20}", 0..6)
}

proptest! {
    #[test]
    fn what_is_sealed_opens_whatever_the_pieces(
        suite in any_suite(),
        frame_length in 1_u32..300,
        context in any_context(),
        plaintext in prop::collection::vec(any::<u8>(), 0..2000),
        seal_chunk in 1_usize..700,
        open_chunk in 1_usize..700,
        message_id in any::<[u8; 32]>(),
    ) {
        let message =
            seal_in(options(suite, frame_length, context.clone()), message_id, &plaintext, seal_chunk);
        let (header, opened) = open_in(&message, open_chunk).map_err(|(error, _)| error).unwrap();
        prop_assert_eq!(&opened, &plaintext);
        prop_assert_eq!(header.message_id(), &message_id);
        let mut found = header.context().clone();
        found.remove("aws-crypto-public-key");
        prop_assert_eq!(&found, &context);
        prop_assert_eq!(&open_stream(&message, open_chunk).unwrap(), &plaintext);
        if suite == Suite::CommitKey {
            // Without a signature every byte is determined: reader and writer make the same message.
            let mut streamed = Vec::new();
            let done = seal(
                common::Slow(&plaintext, seal_chunk),
                &mut streamed,
                options(suite, frame_length, context),
                None,
                key(),
                message_id,
            ).unwrap();
            prop_assert_eq!(done.message_bytes, message.len() as u64);
            prop_assert_eq!(done.plaintext_bytes, plaintext.len() as u64);
            prop_assert!(streamed == message);
        }
    }

    #[test]
    fn any_other_bytes_are_refused(
        at in any::<prop::sample::Index>(),
        insert in prop::collection::vec(any::<u8>(), 0..40),
        remove in 0_usize..40,
        chunk in 1_usize..100,
    ) {
        let message = sealed(Suite::CommitKey, 16, b"a message of some forty bytes, in frames");
        let at = at.index(message.len());
        let end = (at + remove).min(message.len());
        let changed = [&message[..at], &insert, &message[end..]].concat();
        let refused = open_in(&changed, chunk).is_err();
        prop_assert_eq!(refused, changed != message);
        prop_assert_eq!(open_stream(&changed, chunk).is_err(), refused);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = Header::parse(&bytes, &Limits::default());
        let prefixed = [&[2, 4, 0x78], bytes.as_slice()].concat();
        let _ = Header::parse(&prefixed, &Limits::default());
        let message = sealed(Suite::CommitKey, 16, b"text");
        let spoiled = [&message[..header_length(&message)], &bytes].concat();
        prop_assert!(open_in(&spoiled, 7).is_err());
    }
}
