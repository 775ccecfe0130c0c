//! The parent cuts, reorders, splices, lengthens and changes what it carries.

use crate::hostile_parent::HostileParent;
use crate::sealed_parts::SealedParts;
use crate::stage::{LINES, Stage, unique};

/// Small frames, so that a short message has many.
const SMALL: [&str; 2] = ["--frame-length", "16"];

#[test]
fn a_message_cut_anywhere_fails_the_call() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    for more in [&SMALL[..], &["--frame-length", "16", "--signed"]] {
        let sealed = stage.sealed(LINES, more);
        assert_eq!(stage.honest_call(enclave.folder(), &sealed), LINES);
        // At every boundary of a field, and beside it; the same kinds of places in all but the last frames are left out.
        let layout = SealedParts::parse(&sealed).layout();
        let body = layout
            .iter()
            .position(|(name, _)| *name == "sequence number")
            .expect("frames");
        let tail = layout.len() - 8;
        let fields = layout[..body + 4]
            .iter()
            .chain(&layout[tail.max(body + 4)..]);
        let mut places: Vec<usize> = fields
            .flat_map(|(_, range)| [range.start, range.start + 1])
            .collect();
        places.push(sealed.len() - 1);
        places.sort_unstable();
        places.dedup();
        for place in places {
            enclave.must_refuse(&sealed[..place], &["cut off"]);
        }
        assert_eq!(stage.honest_call(enclave.folder(), &sealed), LINES);
    }
}

#[test]
fn no_result_file_appears_for_a_message_that_is_not_whole() {
    let stage = Stage::new();
    let house = &stage.house;
    let enclave = house.enclave(&stage.image, "odd", &[]);
    // Far more than the enclave holds back, so that output has begun when the cut is noticed.
    let lines = "{\"n\":\"0123456789\"}\n".repeat(40_000);
    let sealed = stage.sealed(lines.as_bytes(), &[]);
    let result = house.path("result");
    house.must_call(enclave.name, &house.write("whole", &sealed), &result);
    assert_eq!(house.open(&result, &[]), lines.as_bytes());

    let cut_at_the_end = sealed[..sealed.len() - 1].to_vec();
    let mut appended = sealed.clone();
    appended.push(0);
    let mut flipped = sealed.clone();
    let late = flipped.len() - 100;
    flipped[late] ^= 1;
    for (message, reason) in [
        (&cut_at_the_end, "cut off"),
        (&appended, "bytes after the end"),
        (&flipped, "was changed, or belongs to another message"),
        (&sealed[..3].to_vec(), "cut off"),
        (&Vec::new(), "cut off"),
    ] {
        let input = house.write(&unique("input"), message);
        let before = house.console(enclave.name).len();
        // It looks for the file, too.
        let said = house.must_not_call(enclave.name, &input, &house.path(&unique("output")));
        house.console_says(enclave.name, before, reason);
        assert!(
            said.contains("incomplete") || said.contains(reason),
            "{said}"
        );
    }
    let again = house.path("again");
    house.must_call(enclave.name, &house.path("whole"), &again);
    assert_eq!(house.open(&again, &[]), lines.as_bytes());
}

#[test]
fn frames_that_are_reordered_repeated_left_out_or_spliced_fail_the_call() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let sealed = stage.sealed(LINES, &SMALL);
    // The same key, the same context, the same lengths: another message all the same.
    let twin = stage.sealed(LINES, &SMALL);
    for message in [&sealed, &twin] {
        assert_eq!(stage.honest_call(enclave.folder(), message), LINES);
    }
    let (honest, twin) = (SealedParts::parse(&sealed), SealedParts::parse(&twin));
    assert_eq!(honest.frames.len(), 2);
    let longer = stage.sealed(&LINES.repeat(3), &SMALL);
    assert_eq!(
        stage.honest_call(enclave.folder(), &longer),
        LINES.repeat(3)
    );
    let longer = SealedParts::parse(&longer);
    let last = longer.frames.len() - 1;
    let changed = |message: &SealedParts, change: &dyn Fn(&mut SealedParts)| {
        let mut message = message.clone();
        change(&mut message);
        message.bytes()
    };
    let out_of_order = "frames are missing, repeated or out of order";
    let foreign = "belongs to another message";
    for (message, reason) in [
        (changed(&longer, &|m| m.frames.swap(1, 2)), out_of_order),
        (
            changed(&longer, &|m| drop(m.frames.remove(1))),
            out_of_order,
        ),
        (
            changed(&longer, &|m| m.frames.insert(1, m.frames[1].clone())),
            out_of_order,
        ),
        // Everything between the first and the last.
        (
            changed(&longer, &|m| drop(m.frames.drain(1..last))),
            out_of_order,
        ),
        // Reordered and numbered anew: the number is authenticated.
        (
            changed(&longer, &|m| {
                m.frames.swap(1, 2);
                for (index, sequence) in [(1, 2_u32), (2, 3)] {
                    m.frames[index].sequence = sequence;
                    m.frames[index].iv = [&[0; 8], sequence.to_be_bytes().as_slice()].concat();
                }
            }),
            foreign,
        ),
        // A frame in the middle taken for the last.
        (
            changed(&longer, &|m| {
                m.frames.truncate(2);
                m.frames[1].is_final = true;
            }),
            foreign,
        ),
        // Frames of the twin in their own places.
        (
            changed(&honest, &|m| m.frames[0] = twin.frames[0].clone()),
            foreign,
        ),
        (
            changed(&honest, &|m| m.frames[1] = twin.frames[1].clone()),
            foreign,
        ),
        (
            changed(&honest, &|m| m.frames.clone_from(&twin.frames)),
            foreign,
        ),
    ] {
        enclave.must_refuse(&message, &[reason]);
    }
    // Bytes behind the end: one, a frame, a whole message.
    let end = honest.frames.last().expect("a last frame");
    let frame = [
        &u32::MAX.to_be_bytes(),
        end.sequence.to_be_bytes().as_slice(),
        &end.iv,
    ]
    .concat();
    for more in [&[0][..], &frame, &sealed] {
        enclave.must_refuse(&[&sealed, more].concat(), &["bytes after the end"]);
    }
    assert_eq!(stage.honest_call(enclave.folder(), &sealed), LINES);
}

#[test]
fn a_flipped_bit_in_any_field_fails_the_call() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    for more in [
        &["--frame-length", "16", "--context", "run=1"][..],
        &["--frame-length", "64", "--signed"],
    ] {
        let sealed = stage.sealed(LINES, more);
        assert_eq!(stage.honest_call(enclave.folder(), &sealed), LINES);
        for (field, range) in SealedParts::parse(&sealed).layout() {
            // The lowest bit of its last byte: the smallest change.
            let mut flipped = sealed.clone();
            flipped[range.end - 1] ^= 1;
            enclave.must_refuse(&flipped, reasons(field));
        }
        assert_eq!(stage.honest_call(enclave.folder(), &sealed), LINES);
    }
}

/// What may be said of a bit flipped there.
fn reasons(field: &str) -> &'static [&'static str] {
    match field {
        "version and suite" => &["suite"],
        "message id" | "commitment" => &["not the one that this message was sealed under"],
        "context" | "wrapped key" => &["InvalidCiphertextException"],
        // What follows is read at the wrong places.
        "context's length" | "number of data keys" | "length in a data key" => &[
            "malformed",
            "cut off",
            "out of order",
            "InvalidCiphertextException",
            "content type",
            "of provider",
            "data keys",
            "header",
        ],
        "provider" => &["none of the message's encrypted data keys is of provider"],
        "key" | "frame length" | "header tag" => &["header was changed"],
        "content type" => &["content type"],
        "final mark" | "sequence number" => &["out of order"],
        "IV" => &["an IV that is not its sequence number"],
        "final length" => &[
            "cut off",
            "belongs to another message",
            "more than the frame length",
        ],
        "content" | "tag" => &["belongs to another message"],
        "footer" => &["signature is not good"],
        other => panic!("{other}"),
    }
}
