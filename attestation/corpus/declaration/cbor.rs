//! Group `cbor`: the encodings in which a payload may and may not be written. Those that only some
//! decoders refuse are `should`, except where two readers would see two documents.

use anchorhold_attestation::Pcr;
use anchorhold_corpus::Case;

use crate::document::{Payload, bytes, cbor, map, pcr, pcr_map, pcrs, text, unsigned};
use crate::paper::{MODULE_ID, NOW_MS};
use crate::world::{Say as _, World, admit, aws, refuse};

/// An item of indefinite length: its head, parts, and a break.
fn chunked(head: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    [&[head], parts.concat().as_slice(), &[0xff]].concat()
}

fn twice(payload: Payload, key: &str, value: Vec<u8>) -> Payload {
    payload.and(text(key), value)
}

pub fn cases(world: &World) -> Vec<Case> {
    let payload = world.payload();
    let document = |payload: &Payload| world.document(payload);
    let parts = world.parts();
    let encoded = payload.indefinite();
    let two_bytes = |length: usize| u16::try_from(length).unwrap().to_be_bytes();

    let attackers = Pcr::ZERO.extend(b"another image");
    let mut both: Vec<_> = pcrs(16).into_iter().collect();
    both.push((0, attackers));
    // PCR0 as 0, and once more as 0 in two bytes.
    let mut both_lengths = pcr_map(pcrs(16));
    both_lengths[0] += 1;
    both_lengths.extend([&[0x18, 0], bytes(attackers.as_bytes()).as_slice()].concat());

    vec![
        admit(
            "cbor/definite-map",
            "Until the spring of 2025 hardware wrote the payload as a map of definite length.",
            world.over(payload.definite()),
        )
        .by("AWS's documents of 2021 to 2025"),
        admit(
            "cbor/indefinite-map",
            "Since the summer of 2025 hardware writes the payload as a map of indefinite length.",
            world.sound(),
        )
        .by("AWS's documents since 2025; RFC 8949, section 3.2.2"),
        admit(
            "cbor/indefinite-map-of-pcrs",
            "What hardware did to the one map it may do to the other; both are the same CBOR map.",
            document(&payload.clone().set(
                "pcrs",
                chunked(
                    0xbf,
                    &pcrs(16)
                        .into_iter()
                        .flat_map(|(index, pcr)| {
                            [unsigned(u64::from(index)), bytes(pcr.as_bytes())]
                        })
                        .collect::<Vec<_>>(),
                ),
            )),
        )
        .by("RFC 8949, section 3.2.2")
        .should(),
        admit(
            "cbor/keys-in-another-order",
            "A CBOR map has no order.",
            document(&Payload(payload.0.iter().rev().cloned().collect())),
        )
        .by("RFC 8949, section 5.6"),
        admit(
            "cbor/pcrs-in-another-order",
            "A CBOR map has no order, so that a register is found by its index, not by its place.",
            document(&payload.clone().set("pcrs", pcr_map(pcrs(16).into_iter().rev()))),
        )
        .by("RFC 8949, section 5.6")
        .told(|arguments| {
            arguments.any_image = false;
            arguments.pcrs.insert(0, vec![pcr(0)]);
        }),
        refuse(
            "cbor/pcrs-twice",
            "duplicate-key",
            "A map with a key twice is not valid: one reader takes the first registers, another the \
             last.",
            document(&twice(
                payload.clone(),
                "pcrs",
                pcr_map([(0, attackers), (1, attackers), (2, attackers)]),
            )),
        )
        .by("RFC 8949, section 5.6"),
        refuse(
            "cbor/certificate-twice",
            "duplicate-key",
            "A map with a key twice is not valid: the certificate that is verified may not be the one \
             that is shown.",
            document(&twice(
                payload.clone(),
                "certificate",
                bytes(&world.chain.root.der),
            )),
        )
        .by("RFC 8949, section 5.6"),
        refuse(
            "cbor/nonce-twice",
            "duplicate-key",
            "A map with a key twice is not valid, though both values are the same.",
            document(&twice(payload.clone(), "nonce", payload.value("nonce"))),
        )
        .by("RFC 8949, section 5.6"),
        refuse(
            "cbor/user-data-null-and-then-given",
            "duplicate-key",
            "A null counts as a value: the second entry repeats the key.",
            document(&twice(payload.clone(), "user_data", bytes(b"data"))),
        )
        .by("RFC 8949, section 5.6"),
        refuse(
            "cbor/timestamp-twice",
            "duplicate-key",
            "A map with a key twice is not valid: the document would be fresh to one reader and old \
             to another.",
            document(&twice(payload.clone(), "timestamp", unsigned(NOW_MS - 1))),
        )
        .by("RFC 8949, section 5.6"),
        refuse(
            "cbor/pcr0-twice",
            "duplicate-key",
            "A register with two values has the wanted one for every reader.",
            document(&payload.clone().set("pcrs", pcr_map(both))),
        )
        .by("RFC 8949, section 5.6"),
        refuse(
            "cbor/pcr0-twice-in-two-lengths",
            "not-shortest",
            "0 and 0 in a longer form are the same key, so PCR0 is there twice.",
            document(&payload.clone().set("pcrs", both_lengths)),
        )
        .by("RFC 8949, section 5.6.1"),
        refuse(
            "cbor/key-is-a-number",
            "wrong-type",
            "The keys of a document are texts.",
            document(&payload.clone().and(unsigned(1), unsigned(1))),
        )
        .by(&aws("2.2")),
        refuse(
            "cbor/key-is-a-byte-string",
            "wrong-type",
            "The byte string `pcrs` is another key than the text `pcrs`.",
            document(&payload.clone().rename("pcrs", bytes(b"pcrs"))),
        )
        .by("RFC 8949, section 5.6.1"),
        refuse(
            "cbor/pcr-index-is-a-text",
            "wrong-type",
            "A register's index is an integer.",
            document(&payload.clone().set(
                "pcrs",
                map(pcrs(16)
                    .into_iter()
                    .map(|(index, pcr)| (text(&index.to_string()), bytes(pcr.as_bytes())))),
            )),
        )
        .by(&aws("3.2.2.2")),
        refuse(
            "cbor/pcr-index-is-negative",
            "wrong-type",
            "Registers count from 0.",
            document(&payload.clone().set(
                "pcrs",
                map([(vec![0x20], bytes(pcr(0).as_bytes()))]),
            )),
        )
        .by(&aws("3.2.2.2")),
        refuse(
            "cbor/break-in-a-definite-map",
            "wrong-type",
            "A break ends nothing where a length was given.",
            {
                let mut broken = payload.clone().definite();
                broken[0] += 1;
                broken.push(0xff);
                world.over(broken)
            },
        )
        .by("RFC 8949, section 3.2.1"),
        refuse(
            "cbor/indefinite-map-without-its-break",
            "truncated",
            "A map of indefinite length ends with a break.",
            world.over(&encoded[..encoded.len() - 1]),
        )
        .by("RFC 8949, section 3.2.2"),
        refuse(
            "cbor/reserved-head",
            "not-cbor",
            "Additional information 28 is reserved: this is not CBOR.",
            document(&payload.clone().set("nonce", [0x5c])),
        )
        .by("RFC 8949, section 3"),
        refuse(
            "cbor/text-that-is-not-utf8",
            "not-utf8",
            "A text is UTF-8; a reader that replaces what is not sees another name than was signed.",
            document(&payload.clone().set("module_id", {
                let mut broken = text(MODULE_ID);
                broken[2] = 0xff;
                broken
            })),
        )
        .by("RFC 8949, section 3.1"),
        refuse(
            "cbor/byte-string-longer-than-memory",
            "truncated",
            "A length of 2^64-1 is not there; a reader that makes room for it first ends.",
            document(&payload.clone().set("nonce", [&[0x5b], [0xff; 8].as_slice()].concat())),
        )
        .by("RFC 8949, section 10"),
        refuse(
            "cbor/array-longer-than-memory",
            "wrong-length",
            "A bundle of 2^32 certificates is not there; a reader that makes room for it first ends.",
            document(&payload.clone().set("cabundle", {
                cbor(|out| {
                    out.head(4, 1 << 32);
                })
            })),
        )
        .by("RFC 8949, section 10"),
        refuse(
            "cbor/map-longer-than-memory",
            "truncated",
            "2^64-1 registers are not there; a reader that makes room for them first ends.",
            {
                let mut open = Payload(vec![(
                    text("pcrs"),
                    cbor(|out| {
                        out.head(5, u64::MAX).head(0, 0).bytes(pcr(0).as_bytes());
                    }),
                )])
                .indefinite();
                open.pop();
                world.over(open)
            },
        )
        .by("RFC 8949, section 10"),
        refuse(
            "cbor/deeply-nested-envelope",
            "envelope-length",
            "Ten thousand arrays within each other are no document; a reader that follows them may \
             run out of stack.",
            [vec![0x81; 10_000], vec![0xf6]].concat(),
        )
        .by("RFC 8949, section 10"),
        refuse(
            "cbor/deeply-nested-value",
            "unknown-key",
            "A key that documents do not have holds seven thousand arrays within each other; a reader \
             that follows them may run out of stack.",
            document(
                &payload
                    .clone()
                    .and(text("depth"), [vec![0x81; 7000], vec![0xf6]].concat()),
            ),
        )
        .by("RFC 8949, section 10"),
        refuse(
            "cbor/timestamp-is-a-float",
            "wrong-type",
            "The timestamp is an unsigned integer; a float of the same value is another item.",
            document(&payload.clone().set(
                "timestamp",
                [&[0xfb], 1.75e12_f64.to_be_bytes().as_slice()].concat(),
            )),
        )
        .by(&aws("2.2")),
        refuse(
            "cbor/timestamp-is-negative",
            "wrong-type",
            "The timestamp is an unsigned integer.",
            document(&payload.clone().set("timestamp", {
                cbor(|out| {
                    out.head(1, NOW_MS - 1);
                })
            })),
        )
        .by(&aws("2.2")),
        refuse(
            "cbor/timestamp-is-a-big-number",
            "wrong-type",
            "The timestamp is an unsigned integer, not a tagged byte string of one.",
            document(&payload.clone().set("timestamp", {
                cbor(|out| {
                    out.head(6, 2).bytes(&NOW_MS.to_be_bytes());
                })
            })),
        )
        .by(&aws("2.2")),
        refuse(
            "cbor/nonce-is-undefined",
            "wrong-type",
            "Undefined is neither a byte string nor the null that hardware writes for a field that is \
             not used.",
            document(&payload.clone().set("nonce", [0xf7])),
        )
        .by(&aws("3.2.2.2")),
        refuse(
            "cbor/tagged-certificate",
            "wrong-type",
            "The certificate is a byte string; no NSM puts a tag before it.",
            document(&payload.clone().set("certificate", {
                cbor(|out| {
                    out.head(6, 24).bytes(&world.chain.leaf.der);
                })
            })),
        )
        .should(),
        refuse(
            "cbor/envelope-of-indefinite-length",
            "indefinite-length",
            "No NSM writes its envelope so; whoever accepts it lets anybody change a document's bytes \
             without breaking its signature.",
            {
                let mut open = parts.to_bytes();
                open[0] = 0x9f;
                open.push(0xff);
                open
            },
        )
        .should(),
        refuse(
            "cbor/payload-in-chunks",
            "indefinite-length",
            "No NSM writes its payload in chunks; whoever accepts it lets anybody change a document's \
             bytes without breaking its signature.",
            {
                let (first, second) = encoded.split_at(1000);
                let mut parts = parts.clone();
                parts.payload = chunked(0x5f, &[bytes(first), bytes(second)]);
                parts.to_bytes()
            },
        )
        .should(),
        refuse(
            "cbor/module-id-in-chunks",
            "indefinite-length",
            "No NSM writes its name in chunks.",
            document(
                &payload
                    .clone()
                    .set("module_id", chunked(0x7f, &[text("i-0123"), text("-enc0")])),
            ),
        )
        .should(),
        refuse(
            "cbor/certificate-in-chunks",
            "indefinite-length",
            "No NSM writes its certificate in chunks.",
            document(&payload.clone().set("certificate", {
                let (first, second) = world.chain.leaf.der.split_at(100);
                chunked(0x5f, &[bytes(first), bytes(second)])
            })),
        )
        .should(),
        refuse(
            "cbor/array-head-in-two-bytes",
            "not-shortest",
            "Four has one shortest form; whoever accepts others lets anybody change a document's bytes \
             without breaking its signature.",
            [&[0x98, 4], &parts.to_bytes()[1..]].concat(),
        )
        .by("RFC 8949, section 4.1")
        .should(),
        refuse(
            "cbor/tag-in-two-bytes",
            "not-shortest",
            "18 has one shortest form; whoever accepts others lets anybody change a document's bytes \
             without breaking its signature.",
            [&[0xd8, 18], parts.to_bytes().as_slice()].concat(),
        )
        .by("RFC 8949, section 4.1")
        .should(),
        refuse(
            "cbor/payload-length-in-four-bytes",
            "not-shortest",
            "A length has one shortest form; whoever accepts others lets anybody change a document's \
             bytes without breaking its signature.",
            {
                let mut parts = parts.clone();
                let length = two_bytes(encoded.len());
                parts.payload = [&[0x5a, 0, 0], length.as_slice(), &encoded].concat();
                parts.to_bytes()
            },
        )
        .by("RFC 8949, section 4.1")
        .should(),
        refuse(
            "cbor/map-head-in-two-bytes",
            "not-shortest",
            "No NSM writes numbers longer than they are.",
            world.over([&[0xb8, 9], payload.entries().as_slice()].concat()),
        )
        .by("RFC 8949, section 4.1")
        .should(),
    ]
}
