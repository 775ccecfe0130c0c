//! Group `cose`: headers and signature. Every wrong signature here is one that some key made over
//! something, or that some arithmetic lets by.

use anchorhold_corpus::Case;
use coset::SignatureContext;
use sha2::{Digest as _, Sha384, Sha512};

use crate::document::{ES384, NULL, Parts, Payload, bytes, map, pcr, text, to_be_signed, unsigned};
use crate::key::Key;
use crate::paper::{NOW_MS, Plan};
use crate::world::{Say as _, World, admit, aws, refuse};

/// The order of P-384 (FIPS 186-5; SEC 2, section 2.5.1).
const ORDER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";

/// order - s, both of 48 bytes.
fn negated(s: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut out: Vec<u8> = order()
        .iter()
        .zip(s)
        .rev()
        .map(|(n, s)| {
            let difference = i16::from(*n) - i16::from(*s) - borrow;
            borrow = i16::from(difference < 0);
            difference.rem_euclid(256) as u8
        })
        .collect();
    out.reverse();
    out
}

fn order() -> Vec<u8> {
    hex::decode(ORDER).unwrap()
}

/// The first sound document (by its nonce) of which this holds.
fn found(world: &World, holds: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    (0_u64..10_000)
        .map(|nonce| world.document(&world.payload().set("nonce", bytes(nonce.to_be_bytes()))))
        .find(|document| holds(&document[document.len() - 96..]))
        .unwrap()
}

/// An HMAC with SHA-384 (RFC 2104), as HS384 makes it.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA384, key);
    aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
}

fn headers(world: &World) -> Vec<Case> {
    let leaf = &world.chain.leaf.key;
    let encoded = world.payload().indefinite();
    let under = |protected: &[u8]| world.parts_under(protected).to_bytes();
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = world.parts();
        change(&mut parts);
        parts.to_bytes()
    };
    let algorithm = "The algorithm is ES384 and no other";
    vec![
        refuse(
            "cose/algorithm-es256",
            "protected-header",
            &format!("{algorithm}; the signature is by the right key over this header, which says ES256."),
            under(&[0xa1, 0x01, 0x26]),
        )
        .by(&aws("3.1")),
        refuse(
            "cose/algorithm-es512",
            "protected-header",
            &format!("{algorithm}; this header says ES512."),
            under(&[0xa1, 0x01, 0x38, 0x23]),
        )
        .by(&aws("3.1")),
        refuse(
            "cose/algorithm-hs384",
            "protected-header",
            "The public key served as the key of an HMAC, which anybody can make who has read the \
             certificate.",
            {
                let protected = [0xa1, 0x01, 0x06];
                let message =
                    to_be_signed(SignatureContext::CoseSign1, &protected, &[], &encoded);
                let mut parts = world.parts_under(&protected);
                parts.signature = bytes(hmac(leaf.point(), &message));
                parts.to_bytes()
            },
        )
        .by("AWS, attestation_process.md, 3.1; RFC 8725, section 2.1"),
        refuse(
            "cose/algorithm-as-a-text",
            "protected-header",
            "ES384 has a number, -35; the text is another algorithm, registered by nobody.",
            under(&[0xa1, 0x01, 0x65, b'E', b'S', b'3', b'8', b'4']),
        )
        .by("RFC 9053, section 2.1"),
        refuse(
            "cose/no-algorithm",
            "protected-header",
            "An empty protected header leaves the algorithm to the verifier.",
            under(&[0xa0]),
        )
        .by(&aws("3.1")),
        refuse(
            "cose/protected-header-of-no-bytes",
            "protected-header",
            "An empty protected header leaves the algorithm to the verifier, whichever way it is \
             written.",
            under(&[]),
        )
        .by("AWS, attestation_process.md, 3.1; RFC 9052, section 3"),
        refuse(
            "cose/algorithm-unprotected-only",
            "protected-header",
            "An algorithm that is not signed can be changed by anybody.",
            {
                let mut parts = world.parts_under(&[]);
                parts.unprotected = ES384.to_vec();
                parts.to_bytes()
            },
        )
        .by(&aws("3.1")),
        refuse(
            "cose/algorithm-in-both-headers",
            "unprotected-header",
            "A label is in one of the two headers; here the unsigned one says ES256.",
            with(&|parts| parts.unprotected = vec![0xa1, 0x01, 0x26]),
        )
        .by("RFC 9052, section 3"),
        refuse(
            "cose/algorithm-twice",
            "protected-header",
            "A label is in a header once; here the second says ES256.",
            under(&[0xa2, 0x01, 0x38, 0x22, 0x01, 0x26]),
        )
        .by("RFC 9052, section 9"),
        refuse(
            "cose/critical-header-that-nobody-knows",
            "protected-header",
            "Who does not understand a critical header must not accept the message.",
            under(&[
                0xa3, 0x01, 0x38, 0x22, 0x02, 0x81, 0x39, 0xff, 0xff, 0x39, 0xff, 0xff, 0xf5,
            ]),
        )
        .by("RFC 9052, section 3.1"),
        refuse(
            "cose/protected-header-with-a-trailing-byte",
            "protected-header",
            "The byte string holds one map, and nothing follows.",
            under(&[0xa1, 0x01, 0x38, 0x22, 0x00]),
        )
        .by("RFC 9052, section 3"),
        refuse(
            "cose/protected-key-id",
            "protected-header",
            "The protected header of a document names its algorithm and nothing else.",
            under(&[0xa2, 0x01, 0x38, 0x22, 0x04, 0x41, 0x00]),
        )
        .by(&aws("3.1"))
        .should(),
        refuse(
            "cose/unprotected-key-id",
            "unprotected-header",
            "The unprotected header of a document is empty; what stands there is signed by nobody.",
            with(&|parts| parts.unprotected = map([(vec![4], bytes(b"root"))])),
        )
        .by(&aws("3.1"))
        .should(),
        refuse(
            "cose/unprotected-certificates",
            "unprotected-header",
            "A chain in the unprotected header (x5chain) is signed by nobody; a document's is in its \
             payload.",
            with(&|parts| {
                let attacker = Plan::of("attacker", NOW_MS).issue();
                parts.unprotected = map([(vec![0x18, 33], bytes(attacker.leaf.der))]);
            }),
        )
        .by("AWS, attestation_process.md, 3.1; RFC 9360, section 2")
        .should(),
        refuse(
            "cose/unprotected-header-of-indefinite-length",
            "unprotected-header",
            "No NSM writes its empty header so; whoever accepts it lets anybody change a document's \
             bytes without breaking its signature.",
            with(&|parts| parts.unprotected = vec![0xbf, 0xff]),
        )
        .should(),
        refuse(
            "cose/detached-payload",
            "wrong-type",
            "The payload is null and the signature good for one that is sent elsewhere; an attestation \
             document carries its own.",
            with(&|parts| parts.payload = NULL.to_vec()),
        )
        .by("RFC 9052, section 4.2; AWS, attestation_process.md, 3.1"),
        refuse(
            "cose/document-of-qemu",
            "protected-header",
            "QEMU's nitro-enclave machine has no key: zeros stand for certificate, bundle and a \
             signature of 64 bytes, and the algorithm is -1.",
            {
                let zeros = bytes([0; 64]);
                let payload = world
                    .payload()
                    .set("certificate", zeros.clone())
                    .set("cabundle", crate::document::array([zeros.clone()]))
                    .definite();
                Parts {
                    protected: bytes([0xa1, 0x01, 0x20]),
                    unprotected: vec![0xa0],
                    payload: bytes(payload),
                    signature: zeros,
                }
                .to_bytes()
            },
        )
        .by("QEMU, hw/virtio/virtio-nsm.c"),
    ]
}

fn lengths(world: &World) -> Vec<Case> {
    let sound = world.sound();
    let signature = sound[sound.len() - 96..].to_vec();
    let signed_with = |signature: &[u8]| {
        let mut parts = world.parts();
        parts.signature = bytes(signature);
        parts.to_bytes()
    };
    let mut der = p384::ecdsa::Signature::from_slice(&signature)
        .unwrap()
        .to_der()
        .as_bytes()
        .to_vec();
    assert_ne!(der.len(), 96);
    let cases = [
        (
            "cose/no-signature",
            "A signature of no bytes is by nobody.",
            vec![],
        ),
        (
            "cose/signature-of-95-bytes",
            "r and s have 48 bytes each; this r has lost its first.",
            signature[1..].to_vec(),
        ),
        (
            "cose/signature-of-97-bytes",
            "r and s have 48 bytes each; a byte follows.",
            [signature.as_slice(), &[0]].concat(),
        ),
        (
            "cose/signature-of-64-zero-bytes",
            "What QEMU puts in a signature's place, under the right algorithm.",
            vec![0; 64],
        ),
        (
            "cose/signature-padded-as-for-p521",
            "r and s have 48 bytes each, not 66 with zeros before them.",
            [&[0; 18], &signature[..48], &[0; 18], &signature[48..]].concat(),
        ),
        (
            "cose/signature-in-der",
            "COSE has r and s side by side, not in the DER that certificates have.",
            core::mem::take(&mut der),
        ),
    ];
    cases
        .into_iter()
        .map(|(name, why, signature)| {
            refuse(name, "signature-length", why, signed_with(&signature))
                .by("RFC 9053, section 2.1")
        })
        .collect()
}

fn arithmetic(world: &World) -> Vec<Case> {
    let sound = world.sound();
    let (front, signature) = sound.split_at(sound.len() - 96);
    let (r, s) = signature.split_at(48);
    let with = |r: &[u8], s: &[u8]| [front, r, s].concat();
    let zero = [0; 48];
    let mut ends_in_one = zero;
    ends_in_one[47] = 1;
    let low = |s: &[u8]| s < negated(s).as_slice();
    let (low_s, high_s) = if low(s) {
        (s.to_vec(), negated(s))
    } else {
        (negated(s), s.to_vec())
    };
    let swapped_bytes = |part: &[u8]| part.iter().rev().copied().collect::<Vec<_>>();
    let range = "FIPS 186-5, section 6.4.2; RFC 6090, section 5.3.3";
    let refused = |name: &str, why: &str, document| refuse(name, "signature", why, document);
    vec![
        admit(
            "cose/low-s",
            "Of the two values of s that fit, this is the lower.",
            with(r, &low_s),
        )
        .by("FIPS 186-5, section 6.4.2"),
        admit(
            "cose/high-s",
            "Of the two values of s that fit, this is the higher. ES384 knows no rule against it, and \
             half of all honest signatures have it.",
            with(r, &high_s),
        )
        .by("FIPS 186-5, section 6.4.2"),
        admit(
            "cose/r-that-begins-with-a-zero-byte",
            "One in 256 honest signatures has such an r; it still has 48 bytes.",
            found(world, |signature| signature[0] == 0),
        )
        .by("RFC 9053, section 2.1"),
        admit(
            "cose/s-that-begins-with-a-zero-byte",
            "One in 256 honest signatures has such an s; it still has 48 bytes.",
            found(world, |signature| signature[48] == 0),
        )
        .by("RFC 9053, section 2.1"),
        refused(
            "cose/signature-of-zeros",
            "With r and s zero a careless equation holds for every message (CVE-2022-21449).",
            with(&zero, &zero),
        )
        .by(range),
        refused("cose/r-is-zero", "r is at least 1.", with(&zero, s)).by(range),
        refused("cose/s-is-zero", "s is at least 1.", with(r, &zero)).by(range),
        refused(
            "cose/r-is-the-order",
            "r is below the order; the order itself is a zero in disguise.",
            with(&order(), s),
        )
        .by(range),
        refused(
            "cose/s-is-the-order",
            "s is below the order; the order itself is a zero in disguise.",
            with(r, &order()),
        )
        .by(range),
        refused(
            "cose/r-and-s-are-the-order",
            "With r and s zero a careless equation holds for every message, and reduced these are \
             zeros.",
            with(&order(), &order()),
        )
        .by(range),
        refused(
            "cose/signature-of-ones",
            "r and s are above the order.",
            with(&[0xff; 48], &[0xff; 48]),
        )
        .by(range),
        refused(
            "cose/r-and-s-are-one",
            "Small numbers are in range, and no signature.",
            with(&ends_in_one, &ends_in_one),
        ),
        refused(
            "cose/r-and-s-swapped",
            "r comes first.",
            with(s, r),
        )
        .by("RFC 9053, section 2.1"),
        refused(
            "cose/r-and-s-least-byte-first",
            "r and s have their most significant byte first.",
            with(&swapped_bytes(r), &swapped_bytes(s)),
        )
        .by("RFC 9053, section 2.1"),
        refused(
            "cose/r-negated",
            "s may be negated, r may not.",
            with(&negated(r), s),
        )
        .by("FIPS 186-5, section 6.4.2"),
        refused(
            "cose/signature-with-one-bit-flipped",
            "The last bit of s.",
            {
                let mut flipped = s.to_vec();
                flipped[47] ^= 1;
                with(r, &flipped)
            },
        ),
    ]
}

fn signers(world: &World) -> Vec<Case> {
    let chain = &world.chain;
    let encoded = world.payload().indefinite();
    let by = |key: &Key| crate::document::signed(encoded.clone(), key);
    let over = |message: &[u8]| {
        let mut parts = world.parts();
        parts.signature = bytes(chain.leaf.key.fixed(message));
        parts.to_bytes()
    };
    let over_hash = |hash: &[u8]| {
        let mut parts = world.parts();
        parts.signature = bytes(chain.leaf.key.fixed_over_hash(hash));
        parts.to_bytes()
    };
    let message = to_be_signed(SignatureContext::CoseSign1, ES384, &[], &encoded);
    let forged = |change: &dyn Fn(Payload) -> Payload| {
        let mut parts = world.parts();
        parts.payload = bytes(change(world.payload()).indefinite());
        parts.to_bytes()
    };
    let refused = |name: &str, why: &str, document| refuse(name, "signature", why, document);
    let structure = "RFC 9052, section 4.4";
    vec![
        refused(
            "cose/signed-by-the-instances-key",
            "The leaf signs, not its issuer.",
            by(&chain.issuers[2].key),
        )
        .by(&aws("2.2")),
        refused(
            "cose/signed-by-the-roots-key",
            "The leaf signs, not the root.",
            by(&chain.root.key),
        )
        .by(&aws("2.2")),
        refused(
            "cose/signed-by-a-strangers-key",
            "A key that no certificate names.",
            by(&Key::p384("stranger")),
        ),
        refused(
            "cose/signed-by-the-key-that-it-carries",
            "The enclave's own public key is in the document; it is not the NSM's.",
            {
                let key = Key::p384("enclave");
                let payload = world.payload().set("public_key", bytes(key.point()));
                crate::document::signed(payload.indefinite(), &key)
            },
        ),
        refused(
            "cose/signature-of-another-document",
            "A good signature of the same leaf, over another nonce.",
            {
                let other = world.document(&world.payload().set("nonce", bytes(b"another")));
                let mut parts = world.parts();
                parts.signature = bytes(&other[other.len() - 96..]);
                parts.to_bytes()
            },
        ),
        refused(
            "cose/signature-over-the-payload-alone",
            "What is signed is the Sig_structure, not the payload.",
            over(&encoded),
        )
        .by(structure),
        refused(
            "cose/signature-for-many-signers",
            "The context of COSE_Sign is \"Signature\", that of COSE_Sign1 \"Signature1\".",
            over(&to_be_signed(
                SignatureContext::CoseSignature,
                ES384,
                &[],
                &encoded,
            )),
        )
        .by(structure),
        refused(
            "cose/signature-as-a-counter-signature",
            "The context of a counter-signature is another one.",
            over(&to_be_signed(
                SignatureContext::CounterSignature,
                ES384,
                &[],
                &encoded,
            )),
        )
        .by(structure),
        refused(
            "cose/signature-with-external-data",
            "A document is signed without external data.",
            over(&to_be_signed(
                SignatureContext::CoseSign1,
                ES384,
                b"aws",
                &encoded,
            )),
        )
        .by(structure),
        refused(
            "cose/signature-without-the-protected-header",
            "The protected header is signed too, so that the algorithm cannot be changed.",
            over(&to_be_signed(
                SignatureContext::CoseSign1,
                &[],
                &[],
                &encoded,
            )),
        )
        .by(structure),
        refused(
            "cose/signature-over-a-hash-of-the-hash",
            "The message is hashed once.",
            over(&Sha384::digest(&message)),
        )
        .by("FIPS 186-5, section 6.4.1"),
        refused(
            "cose/signature-with-sha512",
            "ES384 is ECDSA with SHA-384; this is the first 48 bytes of SHA-512.",
            over_hash(&Sha512::digest(&message)[..48]),
        )
        .by("RFC 9053, section 2.1"),
        refused(
            "cose/pcr0-changed-after-signing",
            "One register was replaced by the wanted one.",
            forged(&|payload| {
                let mut pcrs = crate::document::pcrs(16);
                pcrs.insert(0, pcr(1));
                payload.set("pcrs", crate::document::pcr_map(pcrs))
            }),
        ),
        refused(
            "cose/timestamp-changed-after-signing",
            "A document was made younger by a minute.",
            forged(&|payload| payload.set("timestamp", unsigned(NOW_MS + 60_000))),
        ),
        refused(
            "cose/public-key-changed-after-signing",
            "The enclave's key was replaced by another, to which a secret would be encrypted.",
            forged(&|payload| payload.set("public_key", bytes(Key::p384("attacker").point()))),
        ),
        refused(
            "cose/nonce-taken-out-after-signing",
            "The last entry is gone.",
            forged(&|payload| payload.without("nonce")),
        ),
        refused(
            "cose/payload-written-anew-after-signing",
            "The same entries in a map of definite length are other bytes than were signed.",
            {
                let mut parts = world.parts();
                parts.payload = bytes(world.payload().definite());
                parts.to_bytes()
            },
        )
        .by(structure),
        refused(
            "cose/module-id-changed-after-signing",
            "One letter of the enclave's name.",
            forged(&|payload| {
                payload.set("module_id", text("i-0123456789abcdef1-enc0123456789abcdef"))
            }),
        ),
    ]
}

pub fn cases(world: &World) -> Vec<Case> {
    [
        headers(world),
        lengths(world),
        arithmetic(world),
        signers(world),
    ]
    .concat()
}
