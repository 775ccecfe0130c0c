//! What holds for every input.

use anchorhold_attestation::{Anchor, Pcr, Time, Unverified};
use proptest::collection::vec;
use proptest::prelude::*;
use sha2::{Digest, Sha384};
use std::sync::OnceLock;

use crate::engines;
use crate::forge::{Chain, Plan};

/// Making a chain costs more than judging it.
fn chain() -> &'static (Chain, Vec<u8>) {
    static CHAIN: OnceLock<(Chain, Vec<u8>)> = OnceLock::new();
    CHAIN.get_or_init(|| {
        let chain = Plan::new().issue();
        let document = chain.sign(&chain.payload());
        (chain, document)
    })
}

/// Whether the bytes get as far as being true, by each engine, which must agree.
fn is_true(bytes: &[u8]) -> bool {
    let Ok(unverified) = Unverified::parse(bytes) else {
        return false;
    };
    let verdicts: Vec<Result<(), String>> = engines()
        .into_iter()
        .map(|engine| {
            crate::verify(engine, &unverified, chain().0.anchor())
                .map(|_| ())
                .map_err(|error| error.to_string())
        })
        .collect();
    assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]));
    verdicts[0].is_ok()
}

proptest! {
    #[test]
    fn extending_is_sha384_over_register_and_data(
        register in any::<[u8; 32]>(),
        data in vec(any::<u8>(), 0..300),
        more in vec(any::<u8>(), 0..300),
    ) {
        let start = Pcr::ZERO.extend(&register);
        let expected: [u8; 48] =
            Sha384::digest([start.as_bytes().as_slice(), &data].concat()).into();
        prop_assert_eq!(start.extend(&data), Pcr::from_bytes(expected));
        prop_assert_ne!(start.extend(&data), start);
        if data != more {
            prop_assert_ne!(start.extend(&data), start.extend(&more));
        }
    }

    #[test]
    fn pcrs_survive_printing_and_json(bytes in vec(any::<u8>(), 48)) {
        let pcr = Pcr::from_bytes(bytes.try_into().unwrap());
        prop_assert_eq!(pcr.to_string().parse::<Pcr>().unwrap(), pcr);
        prop_assert_eq!(pcr.to_string().to_uppercase().parse::<Pcr>().unwrap(), pcr);
        let json = serde_json::to_string(&pcr).unwrap();
        prop_assert_eq!(serde_json::from_str::<Pcr>(&json).unwrap(), pcr);
    }

    #[test]
    fn no_text_makes_reading_a_pcr_panic(text in any::<String>()) {
        let _ = text.parse::<Pcr>();
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in vec(any::<u8>(), 0..2000)) {
        if let Ok(unverified) = Unverified::parse(&bytes) {
            let _ = unverified.verify(&[Anchor::aws_nitro()], Time::Document);
        }
    }

    #[test]
    fn no_envelope_around_any_bytes_makes_parsing_panic(payload in vec(any::<u8>(), 0..300)) {
        let mut bytes = vec![0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0, 0x59];
        bytes.extend((payload.len() as u16).to_be_bytes());
        bytes.extend(&payload);
        bytes.extend([0x58, 96]);
        bytes.extend([1; 96]);
        prop_assert!(Unverified::parse(&bytes).is_err());
    }

    #[test]
    fn no_bytes_make_reading_an_anchor_panic(bytes in vec(any::<u8>(), 0..600)) {
        prop_assert!(Anchor::from_der(&bytes).is_err());
    }

    #[test]
    fn a_damaged_anchor_is_refused_or_another(position in 0..533_usize, bit in 0..8_u8) {
        let good = Anchor::aws_nitro();
        let mut damaged = good.der().to_vec();
        damaged[position] ^= 1_u8 << bit;
        if let Ok(anchor) = Anchor::from_der(&damaged) {
            prop_assert_ne!(anchor.fingerprint(), good.fingerprint());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_flipped_bit_leaves_a_document_true(position in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut damaged = chain().1.clone();
        let position = position.index(damaged.len());
        damaged[position] ^= 1_u8 << bit;
        prop_assert!(!is_true(&damaged), "bit {bit} of byte {position}");
    }

    #[test]
    fn no_splice_leaves_a_document_true(
        start in any::<prop::sample::Index>(),
        removed in 0..50_usize,
        inserted in vec(any::<u8>(), 0..50),
    ) {
        let good = &chain().1;
        let start = start.index(good.len());
        let end = (start + removed).min(good.len());
        let spliced = [&good[..start], &inserted, &good[end..]].concat();
        prop_assume!(spliced != *good);
        // A tag before the document is the one thing that may be added.
        prop_assume!(spliced != [&[0xd2], good.as_slice()].concat());
        prop_assert!(!is_true(&spliced));
    }
}
