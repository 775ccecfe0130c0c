//! Group `structure`: whether the input is one `COSE_Sign1` around one payload, and nothing else.

use anchorhold_corpus::Case;

use crate::document::{NULL, Parts, array, bytes, cbor, map, text};
use crate::world::{Say as _, World, admit, aws, refuse};

pub fn cases(world: &World) -> Vec<Case> {
    let sound = world.sound();
    let payload = world.payload();
    let encoded = payload.indefinite();
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = world.parts();
        change(&mut parts);
        parts.to_bytes()
    };
    let tagged = |tag: &[u8]| [tag, sound.as_slice()].concat();
    let other = world
        .payload()
        .set("nonce", bytes(b"another nonce"))
        .indefinite();

    vec![
        admit(
            "structure/untagged",
            "Hardware writes COSE_Sign1 without its tag.",
            sound.clone(),
        )
        .by(&aws("3.1")),
        admit(
            "structure/tagged",
            "COSE_Sign1 may stand behind its tag, 18.",
            tagged(&[0xd2]),
        )
        .by("RFC 9052, section 2; AWS, attestation_process.md, 3.1"),
        refuse(
            "structure/empty-input",
            "truncated",
            "No byte is no document.",
            vec![],
        ),
        refuse(
            "structure/one-byte",
            "truncated",
            "An array of four is announced, and nothing follows.",
            vec![0x84],
        ),
        refuse(
            "structure/cut-before-the-signature",
            "truncated",
            "The fourth element is not there: what is left was signed by nobody.",
            sound[..sound.len() - 98].to_vec(),
        ),
        refuse(
            "structure/cut-in-the-signature",
            "truncated",
            "The last byte is missing.",
            sound[..sound.len() - 1].to_vec(),
        ),
        refuse(
            "structure/cut-in-the-payload",
            "truncated",
            "The input ends in the middle of the payload.",
            sound[..sound.len() / 2].to_vec(),
        ),
        refuse(
            "structure/trailing-byte",
            "trailing-bytes",
            "Bytes after the document are covered by no signature, and another reader may take them \
             for part of it.",
            [sound.as_slice(), &[0]].concat(),
        )
        .by("RFC 8949, section 5.1"),
        refuse(
            "structure/two-documents",
            "trailing-bytes",
            "Two documents are not one: readers would disagree which of them was verified.",
            [sound.clone(), world.over(other)].concat(),
        )
        .by("RFC 8949, section 5.1"),
        refuse(
            "structure/tag-of-a-mac",
            "wrong-tag",
            "Tag 17 says COSE_Mac0, which has the same shape and proves nothing to third parties.",
            tagged(&[0xd1]),
        )
        .by("RFC 9052, section 2"),
        refuse(
            "structure/tag-of-many-signers",
            "wrong-tag",
            "Tag 98 says COSE_Sign, whose signatures are another structure.",
            tagged(&[0xd8, 98]),
        )
        .by("RFC 9052, section 2"),
        refuse(
            "structure/tag-twice",
            "wrong-type",
            "Tag 18 holds a COSE_Sign1 array, not another tag.",
            tagged(&[0xd2, 0xd2]),
        )
        .by("RFC 9052, section 2"),
        refuse(
            "structure/tag-of-a-web-token",
            "wrong-tag",
            "Tag 61 says CBOR Web Token, whose claims are others.",
            tagged(&[0xd8, 61, 0xd2]),
        )
        .by("RFC 8392, section 6"),
        refuse(
            "structure/tag-of-any-cbor",
            "wrong-tag",
            "No NSM marks its documents as CBOR; whoever skips such tags lets anybody change the \
             document's bytes without breaking its signature.",
            tagged(&[0xd9, 0xd9, 0xf7]),
        )
        .should(),
        refuse(
            "structure/three-elements",
            "envelope-length",
            "COSE_Sign1 has four elements; here is no signature.",
            {
                let mut short = sound[..sound.len() - 98].to_vec();
                short[0] = 0x83;
                short
            },
        )
        .by("RFC 9052, section 4.2"),
        refuse(
            "structure/five-elements",
            "envelope-length",
            "COSE_Sign1 has four elements; a fifth is covered by no signature.",
            {
                let mut long = [sound.as_slice(), &NULL].concat();
                long[0] = 0x85;
                long
            },
        )
        .by("RFC 9052, section 4.2"),
        refuse(
            "structure/document-in-an-array",
            "envelope-length",
            "A list of documents is not a document.",
            array([sound.clone()]),
        ),
        refuse(
            "structure/document-in-a-byte-string",
            "wrong-type",
            "A byte string that holds a document is not a document.",
            bytes(&sound),
        ),
        refuse(
            "structure/answer-of-the-nsm",
            "wrong-type",
            "This is the NSM's whole answer; the document is within it.",
            map([(
                text("Attestation"),
                map([(text("document"), bytes(&sound))]),
            )]),
        ),
        refuse(
            "structure/payload-alone",
            "wrong-type",
            "The payload without its envelope was signed by nobody.",
            encoded.clone(),
        ),
        refuse(
            "structure/map-for-an-envelope",
            "wrong-type",
            "COSE_Sign1 is an array.",
            {
                let parts = world.parts();
                map([
                    (parts.protected, parts.unprotected),
                    (parts.payload, parts.signature),
                ])
            },
        )
        .by("RFC 9052, section 4.2"),
        refuse(
            "structure/zeros",
            "wrong-type",
            "A hundred zero bytes are a hundred numbers.",
            vec![0; 100],
        ),
        refuse(
            "structure/longer-than-any-document",
            "too-long",
            "A payload has at most 16,384 bytes, and an NSM's answer 12 KiB; this one is longer, by \
             its user data alone.",
            world.document(&payload.clone().set("user_data", bytes(vec![0; 17_000]))),
        )
        .by(&aws("3.1")),
        refuse(
            "structure/protected-is-a-map",
            "wrong-type",
            "The protected header is a byte string that holds the map: the bytes that are signed.",
            with(&|parts| parts.protected = vec![0xa1, 0x01, 0x38, 0x22]),
        )
        .by("RFC 9052, section 3"),
        refuse(
            "structure/unprotected-is-a-byte-string",
            "wrong-type",
            "The unprotected header is a map.",
            with(&|parts| parts.unprotected = bytes([0xa0])),
        )
        .by("RFC 9052, section 3"),
        refuse(
            "structure/unprotected-is-null",
            "wrong-type",
            "The unprotected header is a map, if an empty one.",
            with(&|parts| parts.unprotected = NULL.to_vec()),
        )
        .by("RFC 9052, section 3"),
        refuse(
            "structure/payload-is-a-map",
            "wrong-type",
            "The payload is a byte string: the bytes that are signed, rather than what a decoder \
             makes of them.",
            with(&|parts| parts.payload.clone_from(&encoded)),
        )
        .by("RFC 9052, section 4.1"),
        refuse(
            "structure/payload-is-a-text",
            "wrong-type",
            "The payload is a byte string.",
            with(&|parts| parts.payload = text("SHA384")),
        )
        .by("RFC 9052, section 4.1"),
        refuse(
            "structure/signature-is-null",
            "wrong-type",
            "A signature that is absent is not one that is good.",
            with(&|parts| parts.signature = NULL.to_vec()),
        )
        .by("RFC 9052, section 4.2"),
        refuse(
            "structure/payload-is-empty",
            "truncated",
            "A sound signature over no bytes at all says nothing.",
            world.over([]),
        ),
        refuse(
            "structure/payload-holds-an-array",
            "wrong-type",
            "An attestation document is a map.",
            world.over(array(payload.0.iter().map(|(_, value)| value.clone()))),
        )
        .by(&aws("2.2")),
        refuse(
            "structure/payload-holds-a-byte-string",
            "wrong-type",
            "The map is in the payload's byte string once, not twice.",
            world.over(bytes(&encoded)),
        ),
        refuse(
            "structure/payload-with-a-trailing-byte",
            "trailing-bytes",
            "The payload is one map, and nothing follows.",
            world.over([encoded.as_slice(), &[0]].concat()),
        )
        .by("RFC 8949, section 5.1"),
        refuse(
            "structure/payload-of-two-maps",
            "trailing-bytes",
            "Which of two maps is attested would be the reader's choice.",
            world.over(
                [
                    encoded.clone(),
                    map([(text("pcrs"), crate::document::pcr_map([]))]),
                ]
                .concat(),
            ),
        )
        .by("RFC 8949, section 5.1"),
        refuse(
            "structure/payload-one-entry-short",
            "truncated",
            "Nine entries are announced and eight are there.",
            {
                let eight = payload.clone().without("nonce");
                let mut encoded = eight.definite();
                encoded[0] = 0xa9;
                world.over(encoded)
            },
        )
        .by("RFC 8949, section 5.3.1"),
        refuse(
            "structure/tagged-payload",
            "wrong-type",
            "No NSM tags its map.",
            world.over(cbor(|out| {
                out.head(6, 55_799).0.extend(&encoded);
            })),
        )
        .should(),
    ]
}
