//! The device as an enclave sees it: CBOR in, CBOR out, and documents that a verifier believes if,
//! and only if, it was told to trust the development root.
#![allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]

use std::time::{Duration, SystemTime};

use anchorhold_attestation::{
    Anchor, ChainError, Expectations, Pcr, Time, Unverified, Verified, VerifyError,
};
use anchorhold_simulator::{
    DevelopmentRoot, MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, Nsm, NsmConfig, NsmError,
};
use aws_nitro_enclaves_nsm_api::api::{AttestationDoc, Digest, ErrorCode, Request, Response};
use proptest::prelude::*;

const HOUR: Duration = Duration::from_hours(1);

fn value(byte: u8) -> Pcr {
    Pcr::from_bytes([byte; 48])
}

fn config() -> NsmConfig {
    NsmConfig {
        pcr0: value(0xa0),
        pcr1: value(0xa1),
        pcr2: value(0xa2),
        ..NsmConfig::default()
    }
}

/// A moment with milliseconds, whatever the machine's clock says.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123)
}

fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

fn start(config: NsmConfig) -> (DevelopmentRoot, Nsm) {
    let root = DevelopmentRoot::generate().unwrap();
    let nsm = Nsm::new(&root, config, now()).unwrap();
    (root, nsm)
}

fn ask_at(nsm: &Nsm, request: &Request, now: SystemTime) -> Response {
    let answer = nsm.handle(&serde_cbor::to_vec(request).unwrap(), now);
    assert!(answer.len() <= MAX_RESPONSE_BYTES);
    serde_cbor::from_slice(&answer).unwrap()
}

fn ask(nsm: &Nsm, request: &Request) -> Response {
    ask_at(nsm, request, now())
}

fn attestation(user_data: Option<&[u8]>, nonce: Option<&[u8]>, key: Option<&[u8]>) -> Request {
    Request::Attestation {
        user_data: user_data.map(|bytes| bytes.to_vec().into()),
        nonce: nonce.map(|bytes| bytes.to_vec().into()),
        public_key: key.map(|bytes| bytes.to_vec().into()),
    }
}

fn document_at(nsm: &Nsm, request: &Request, now: SystemTime) -> Vec<u8> {
    match ask_at(nsm, request, now) {
        Response::Attestation { document } => document,
        other => panic!("{other:?}"),
    }
}

fn document(nsm: &Nsm) -> Vec<u8> {
    document_at(nsm, &attestation(None, None, None), now())
}

fn verify(document: &[u8], root: &DevelopmentRoot) -> Verified {
    Unverified::parse(document)
        .unwrap()
        .verify(&[root.anchor()], Time::Document)
        .unwrap()
}

#[test]
fn documents_verify_under_the_development_root_and_under_no_other() {
    let (root, nsm) = start(config());
    let document = document(&nsm);
    let unverified = Unverified::parse(&document).unwrap();
    let live = Time::Now {
        now_ms: milliseconds(now()) + 10,
        max_age_ms: 1000,
        max_skew_ms: 0,
    };
    for time in [Time::Document, Time::At(milliseconds(now())), live] {
        let verified = unverified.verify(&[root.anchor()], time).unwrap();
        assert_eq!(verified.anchor_fingerprint(), root.fingerprint());
    }
    for stranger in [
        Anchor::aws_nitro(),
        DevelopmentRoot::generate().unwrap().anchor(),
    ] {
        assert!(matches!(
            unverified.verify(&[stranger], Time::Document),
            Err(VerifyError::Chain(ChainError::UnknownRoot { .. }))
        ));
    }
}

#[test]
fn documents_carry_what_was_asked_for_and_measured() {
    let (root, nsm) = start(NsmConfig {
        pcr3: Some(Pcr::of_role("arn:aws:iam::111122223333:role/cards")),
        pcr4: Some(Pcr::of_instance("i-0123456789abcdef0")),
        pcr8: Some(value(0xa8)),
        module_id: "i-0123456789abcdef0-enc0123456789abcdef".to_owned(),
        ..config()
    });
    let request = attestation(Some(b"data"), Some(b""), Some(&[7; 1024]));
    let verified = verify(&document_at(&nsm, &request, now()), &root);
    assert_eq!(verified.timestamp_ms(), milliseconds(now()));
    assert!(!verified.is_debug());
    assert!(
        verified
            .admit(
                &Expectations::new()
                    .pcr(0, [value(0xa0)])
                    .pcr(1, [value(0xa1)])
                    .pcr(2, [value(0xa2)])
                    .role("arn:aws:iam::111122223333:role/cards")
                    .instance("i-0123456789abcdef0")
                    .pcr(5, [Pcr::ZERO])
                    .pcr(8, [value(0xa8)])
                    .user_data(b"data")
                    .nonce(b"")
                    .public_key(&[7; 1024])
                    .module_id("i-0123456789abcdef0-enc0123456789abcdef"),
            )
            .is_ok()
    );
    let verified = verify(&document(&nsm), &root);
    assert_eq!(verified.user_data(), None);
    assert_eq!(verified.nonce(), None);
    assert_eq!(verified.public_key(), None);
}

#[test]
fn documents_are_read_by_the_nsm_crate_too() {
    let (root, nsm) = start(config());
    let document = document(&nsm);
    let sign1 = <coset::CoseSign1 as coset::CborSerializable>::from_slice(&document).unwrap();
    let document = AttestationDoc::from_binary(&sign1.payload.unwrap()).unwrap();
    assert_eq!(document.digest, Digest::SHA384);
    assert_eq!(document.cabundle.len(), 4);
    assert_eq!(document.cabundle[0].as_slice(), root.anchor().der());
    assert_eq!(document.pcrs.len(), 16);
}

#[test]
fn documents_list_the_locked_pcrs() {
    let (root, nsm) = start(config());
    let extended = Pcr::ZERO.extend(b"mine");
    match ask(
        &nsm,
        &Request::ExtendPCR {
            index: 16,
            data: b"mine".to_vec(),
        },
    ) {
        Response::ExtendPCR { data } => assert_eq!(data, extended.as_bytes()),
        other => panic!("{other:?}"),
    }
    assert_eq!(verify(&document(&nsm), &root).pcrs().count(), 16);
    assert!(matches!(
        ask(&nsm, &Request::LockPCR { index: 16 }),
        Response::LockPCR
    ));
    let verified = verify(&document(&nsm), &root);
    assert_eq!(verified.pcrs().count(), 17);
    assert_eq!(verified.pcr(16), Some(extended));
    assert!(matches!(
        ask(&nsm, &Request::LockPCRs { range: 32 }),
        Response::LockPCRs
    ));
    let verified = verify(&document(&nsm), &root);
    assert_eq!(verified.pcrs().count(), 32);
    assert_eq!(verified.pcr(31), Some(Pcr::ZERO));
}

#[test]
fn locked_pcrs_stay_as_they_are() {
    let (_root, nsm) = start(config());
    let refused = |request: &Request, code: &str| match ask(&nsm, request) {
        Response::Error(found) => assert_eq!(format!("{found:?}"), code),
        other => panic!("{other:?}"),
    };
    for index in 0..16 {
        refused(
            &Request::ExtendPCR {
                index,
                data: vec![1],
            },
            "ReadOnlyIndex",
        );
        refused(&Request::LockPCR { index }, "ReadOnlyIndex");
    }
    for index in [32, 255, 256, u16::MAX] {
        refused(
            &Request::ExtendPCR {
                index,
                data: vec![1],
            },
            "InvalidIndex",
        );
        refused(&Request::LockPCR { index }, "InvalidIndex");
        refused(&Request::DescribePCR { index }, "InvalidIndex");
        refused(
            &Request::LockPCRs {
                range: index.max(33),
            },
            "InvalidIndex",
        );
    }
    ask(&nsm, &Request::LockPCRs { range: 18 });
    refused(
        &Request::ExtendPCR {
            index: 17,
            data: vec![1],
        },
        "ReadOnlyIndex",
    );
    assert!(matches!(
        ask(
            &nsm,
            &Request::ExtendPCR {
                index: 18,
                data: vec![1]
            }
        ),
        Response::ExtendPCR { .. }
    ));
}

#[test]
fn pcrs_and_the_device_describe_themselves() {
    let (_root, nsm) = start(config());
    match ask(&nsm, &Request::DescribePCR { index: 0 }) {
        Response::DescribePCR { lock, data } => {
            assert!(lock);
            assert_eq!(data, [0xa0; 48]);
        }
        other => panic!("{other:?}"),
    }
    match ask(&nsm, &Request::DescribePCR { index: 31 }) {
        Response::DescribePCR { lock, data } => {
            assert!(!lock);
            assert_eq!(data, [0; 48]);
        }
        other => panic!("{other:?}"),
    }
    match ask(&nsm, &Request::DescribeNSM) {
        Response::DescribeNSM {
            version_major,
            version_minor,
            version_patch,
            module_id,
            max_pcrs,
            locked_pcrs,
            digest,
        } => {
            assert_eq!((version_major, version_minor, version_patch), (1, 0, 0));
            assert_eq!(module_id, nsm.module_id());
            assert_eq!(max_pcrs, 32);
            assert!(locked_pcrs.into_iter().eq(0..16));
            assert_eq!(digest, Digest::SHA384);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn debug_mode_zeroes_pcr0_to_2_and_no_others() {
    let (root, nsm) = start(NsmConfig {
        debug: true,
        pcr4: Some(value(0xa4)),
        pcr8: Some(value(0xa8)),
        ..config()
    });
    for index in 0..3 {
        match ask(&nsm, &Request::DescribePCR { index }) {
            Response::DescribePCR { data, .. } => assert_eq!(data, [0; 48]),
            other => panic!("{other:?}"),
        }
    }
    let verified = verify(&document(&nsm), &root);
    assert!(verified.is_debug());
    assert_eq!(verified.pcr(4), Some(value(0xa4)));
    assert_eq!(verified.pcr(8), Some(value(0xa8)));
    assert!(verified.admit(&Expectations::new().any_image()).is_err());
}

#[test]
fn each_get_random_answers_256_other_bytes() {
    let (_root, nsm) = start(config());
    let random = || match ask(&nsm, &Request::GetRandom) {
        Response::GetRandom { random } => random,
        other => panic!("{other:?}"),
    };
    let (one, two) = (random(), random());
    assert_eq!((one.len(), two.len()), (256, 256));
    assert_ne!(one, two);
}

#[test]
fn the_leaf_lives_three_hours_and_is_renewed_when_used_up() {
    let (root, nsm) = start(config());
    let request = attestation(None, None, None);
    let leaf = |at: SystemTime| {
        let document = document_at(&nsm, &request, at);
        verify(&document, &root);
        let unverified = Unverified::parse(&document).unwrap();
        unverified.claimed().certificate().to_vec()
    };
    let first = leaf(now());
    let verified = verify(&document(&nsm), &root);
    assert_eq!(
        verified.certificate_not_after_ms() / 1000,
        milliseconds(now() + 3 * HOUR) / 1000
    );
    assert_eq!(
        leaf(now() + 2 * HOUR),
        first,
        "over two hours old is normal"
    );
    let second = leaf(now() + 3 * HOUR);
    assert_ne!(second, first);
    assert_eq!(leaf(now() + 4 * HOUR), second);
    let later = now() + 1000 * 24 * HOUR;
    assert_ne!(leaf(later), second);
    assert_ne!(leaf(now()), second, "the clock may be set back");
}

#[test]
fn requests_that_are_none_get_an_error() {
    let (_root, nsm) = start(config());
    let error = |request: &[u8]| match serde_cbor::from_slice(&nsm.handle(request, now())).unwrap()
    {
        Response::Error(code) => format!("{code:?}"),
        other => panic!("{other:?}"),
    };
    for request in [
        &b""[..],
        b"\xff",
        b"\x65hello",
        b"\x80",
        b"\xa0",
        b"\xa1\x69GetRandom",
        b"\xa1\x67LockPCR\xa0",
        b"\xa1\x67LockPCR\xa1\x65index\x20",
        b"\xa1\x67LockPCR\xa1\x65index\x1a\x00\x01\x00\x00",
        b"\x69GetRandom\x00",
        &[0x81; 4096],
        &[0x5b; 4096],
    ] {
        assert_eq!(error(request), "InvalidOperation", "{request:x?}");
    }
    assert_eq!(error(&[0; MAX_REQUEST_BYTES + 1]), "InputTooLarge");
    let long_key = serde_cbor::to_vec(&attestation(None, None, Some(&[0; 1025]))).unwrap();
    assert_eq!(error(&long_key), "InputTooLarge");
    // The error is a map, as hardware's is.
    assert_eq!(nsm.handle(b"", now()), b"\xa1\x65Error\x70InvalidOperation");
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert!(matches!(
        ask_at(&nsm, &attestation(None, None, None), before_1970),
        Response::Error(ErrorCode::InternalError)
    ));
}

#[test]
fn the_longest_request_gets_its_document() {
    let (root, nsm) = start(config());
    let request = attestation(Some(&[1; 3000]), Some(&[2; 1000]), None);
    let document = document_at(&nsm, &request, now());
    assert_eq!(
        verify(&document, &root).user_data(),
        Some([1; 3000].as_slice())
    );
}

#[test]
fn the_fixed_answers_are_the_nsm_crates_bytes() {
    let (_root, nsm) = start(config());
    assert_eq!(
        nsm.handle(b"\xa1\x67LockPCR\xa1\x65index\x10", now()),
        b"\x67LockPCR"
    );
    assert_eq!(
        nsm.handle(b"\xa1\x68LockPCRs\xa1\x65range\x10", now()),
        b"\x68LockPCRs"
    );
    let random = nsm.handle(b"\x69GetRandom", now());
    assert!(random.starts_with(b"\xa1\x69GetRandom\xa1\x66random\x59\x01\x00"));
}

#[test]
fn module_ids_that_no_verifier_accepts_are_refused() {
    let root = DevelopmentRoot::generate().unwrap();
    for module_id in ["", "a b", "ä", "i-1-tpm0000", &"i".repeat(129)] {
        let config = NsmConfig {
            module_id: module_id.to_owned(),
            ..config()
        };
        assert!(matches!(
            Nsm::new(&root, config, now()),
            Err(NsmError::ModuleId)
        ));
    }
}

#[test]
fn threads_may_share_one_nsm() {
    let (root, nsm) = start(config());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    verify(&document(&nsm), &root);
                }
            });
        }
    });
}

proptest! {
    #[test]
    fn no_request_makes_it_panic_or_answer_too_much(
        request in proptest::collection::vec(any::<u8>(), 0..5000),
    ) {
        thread_local! {
            static NSM: (DevelopmentRoot, Nsm) = start(config());
        }
        NSM.with(|(_, nsm)| {
            let answer = nsm.handle(&request, now());
            assert!(answer.len() <= MAX_RESPONSE_BYTES);
            serde_cbor::from_slice::<Response>(&answer).unwrap();
        });
    }

    #[test]
    fn a_pcr_is_the_chain_of_its_extensions(
        data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..8),
        index in 16..32_u16,
    ) {
        thread_local! {
            static ROOT: DevelopmentRoot = DevelopmentRoot::generate().unwrap();
        }
        let nsm = ROOT.with(|root| Nsm::new(root, config(), now()).unwrap());
        let mut expected = Pcr::ZERO;
        for data in data {
            expected = expected.extend(&data);
            ask(&nsm, &Request::ExtendPCR { index, data });
        }
        match ask(&nsm, &Request::DescribePCR { index }) {
            Response::DescribePCR { data, lock } => {
                prop_assert!(!lock);
                prop_assert_eq!(data, expected.as_bytes());
            }
            other => panic!("{other:?}"),
        }
    }
}
