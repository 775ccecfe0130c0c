//! Expectations of every kind against true documents: what is admitted is what a plain reading of the
//! rules admits, and every refusal prints.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use anchorhold_attestation::{Expectations, Pcr, Time, Unverified, Verified};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use arbitrary::Arbitrary;
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use libfuzzer_sys::fuzz_target;

const NONCE: &[u8] = b"nonce";
const PUBLIC_KEY: &[u8] = b"";

#[derive(Arbitrary, Debug)]
enum Wish {
    Pcr(u8, Vec<Register>),
    Role(Text),
    Instance(Text),
    SignedBy(Vec<u8>),
    Nonce(Vec<u8>),
    RightNonce,
    UserData(Vec<u8>),
    PublicKey(Vec<u8>),
    ModuleId(Text),
    RightModuleId,
    AllowDebug(bool),
    AnyImage,
}

/// Mostly the values that are there.
#[derive(Arbitrary, Debug, Clone, Copy)]
enum Register {
    Zero,
    Filled(u8),
}

#[derive(Arbitrary, Debug)]
enum Text {
    Known,
    Other(String),
}

impl Register {
    fn value(self) -> Pcr {
        match self {
            Register::Zero => Pcr::ZERO,
            Register::Filled(byte) => Pcr::from_bytes([byte; 48]),
        }
    }
}

impl Text {
    fn or<'a>(&'a self, known: &'a str) -> &'a str {
        match self {
            Text::Known => known,
            Text::Other(text) => text,
        }
    }
}

const ROLE: &str = "arn:aws:iam::111122223333:role/cards";
const INSTANCE: &str = "i-0123456789abcdef0";

static DOCUMENTS: LazyLock<[Verified; 2]> = LazyLock::new(|| {
    let root = DevelopmentRoot::generate().expect("a root");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000);
    [false, true].map(|debug| {
        let config = NsmConfig {
            pcr0: Pcr::from_bytes([1; 48]),
            pcr1: Pcr::from_bytes([2; 48]),
            pcr2: Pcr::from_bytes([3; 48]),
            pcr3: Some(Pcr::of_role(ROLE)),
            pcr4: Some(Pcr::of_instance(INSTANCE)),
            pcr8: Some(Pcr::of_signing_certificate(b"certificate")),
            debug,
            module_id: format!("{INSTANCE}-enc0123456789abcdef"),
            ..NsmConfig::default()
        };
        let nsm = Nsm::new(&root, config, now).expect("a device");
        let request = Request::Attestation {
            user_data: None,
            nonce: Some(NONCE.to_vec().into()),
            public_key: Some(PUBLIC_KEY.to_vec().into()),
        };
        let answer = nsm.handle(&serde_cbor::to_vec(&request).expect("CBOR"), now);
        let Ok(Response::Attestation { document }) = serde_cbor::from_slice(&answer) else {
            panic!("no document")
        };
        Unverified::parse(&document)
            .expect("a document")
            .verify(&[root.anchor()], Time::Document)
            .expect("a true one")
    })
});

fuzz_target!(|input: (bool, Vec<Wish>)| {
    let (debug, wishes) = input;
    let document = &DOCUMENTS[usize::from(debug)];
    let mut expectations = Expectations::new();
    let (mut holds, mut names_image, mut debug_allowed) = (true, false, false);
    for wish in &wishes {
        expectations = match wish {
            Wish::Pcr(index, allowed) => {
                let allowed: Vec<Pcr> = allowed.iter().map(|register| register.value()).collect();
                holds &= document
                    .pcr(*index)
                    .is_some_and(|pcr| allowed.contains(&pcr));
                names_image |= matches!(index, 0 | 1 | 2 | 8);
                expectations.pcr(*index, allowed)
            }
            Wish::Role(arn) => {
                holds &= arn.or(ROLE) == ROLE;
                expectations.role(arn.or(ROLE))
            }
            Wish::Instance(id) => {
                holds &= id.or(INSTANCE) == INSTANCE;
                expectations.instance(id.or(INSTANCE))
            }
            Wish::SignedBy(der) => {
                holds &= der == b"certificate";
                names_image = true;
                expectations.signed_by(der)
            }
            Wish::Nonce(nonce) => {
                holds &= nonce == NONCE;
                expectations.nonce(nonce)
            }
            Wish::RightNonce => expectations.nonce(NONCE),
            Wish::UserData(data) => {
                holds = false;
                expectations.user_data(data)
            }
            Wish::PublicKey(key) => {
                holds &= key == PUBLIC_KEY;
                expectations.public_key(key)
            }
            Wish::ModuleId(id) => {
                holds &= id.or(document.module_id()) == document.module_id();
                expectations.module_id(id.or(document.module_id()))
            }
            Wish::RightModuleId => expectations.module_id(document.module_id()),
            Wish::AllowDebug(allow) => {
                debug_allowed = *allow;
                expectations.allow_debug(*allow)
            }
            Wish::AnyImage => {
                names_image = true;
                expectations.any_image()
            }
        };
    }
    let expected = holds && names_image && (!debug || debug_allowed);
    match document.clone().admit(&expectations) {
        Ok(_) => assert!(expected, "{wishes:?}"),
        Err(refusal) => {
            assert!(!expected, "{wishes:?}: {refusal}");
            assert!(!refusal.differences.is_empty());
            serde_json::to_string(&*refusal).expect("a refusal is printable");
        }
    }
});
