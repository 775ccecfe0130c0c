//! Group `policy`: whether a genuine document is the one that was expected. Nothing else is wrong with
//! any of these documents, but that some are in debug mode.

use std::collections::BTreeMap;

use anchorhold_attestation::Pcr;
use anchorhold_corpus::{Arguments, Case};

use crate::document::{NONCE, NULL, USER_DATA, bytes, pcr, pcr_map, pcrs};
use crate::key::Key;
use crate::paper::MODULE_ID;
use crate::world::{Say as _, World, admit, refuse};

const ROLE: &str = "arn:aws:iam::111122223333:role/cards";
const INSTANCE: &str = "i-0123456789abcdef0";

fn other(name: &str) -> Pcr {
    Pcr::ZERO.extend(name.as_bytes())
}

/// The case says which image it expects, if any.
fn expecting(case: Case, tell: impl FnOnce(&mut Arguments)) -> Case {
    case.told(|arguments| {
        arguments.any_image = false;
        tell(arguments);
    })
}

fn registers(world: &World) -> Vec<Case> {
    let sound = || world.sound();
    let listing =
        |pcrs: BTreeMap<u8, Pcr>| world.document(&world.payload().set("pcrs", pcr_map(pcrs)));
    let allowing = |case: Case, allowed: &[(u8, &[Pcr])]| {
        expecting(case, |arguments| {
            arguments.pcrs = allowed
                .iter()
                .map(|(index, values)| (*index, values.to_vec()))
                .collect();
        })
    };
    let flipped = {
        let mut bytes = *pcr(0).as_bytes();
        bytes[47] ^= 1;
        Pcr::from_bytes(bytes)
    };
    let without = |index: u8| {
        let mut pcrs = pcrs(16);
        pcrs.remove(&index);
        listing(pcrs)
    };
    let swapped = {
        let mut pcrs = pcrs(16);
        pcrs.insert(0, pcr(1));
        pcrs.insert(1, pcr(0));
        listing(pcrs)
    };
    let at_role = {
        let mut pcrs = pcrs(16);
        pcrs.insert(3, Pcr::of_role(ROLE));
        pcrs.insert(4, Pcr::of_instance(INSTANCE));
        listing(pcrs)
    };
    let absent = "A register that is absent matches nothing, not even zeros";
    vec![
        allowing(
            admit("policy/pcr0", "The image is the expected one.", sound()),
            &[(0, &[pcr(0)])],
        ),
        allowing(
            admit(
                "policy/pcr0-1-2-and-8",
                "All four registers of an image are the expected ones.",
                sound(),
            ),
            &[
                (0, &[pcr(0)]),
                (1, &[pcr(1)]),
                (2, &[pcr(2)]),
                (8, &[pcr(8)]),
            ],
        ),
        allowing(
            admit(
                "policy/pcr8-alone",
                "The image is signed by the expected certificate, whichever it is.",
                sound(),
            ),
            &[(8, &[pcr(8)])],
        ),
        allowing(
            admit(
                "policy/old-image-while-rolling-over",
                "While a new image is rolled out the old one is allowed beside it.",
                sound(),
            ),
            &[(0, &[pcr(0), other("new image")])],
        ),
        allowing(
            admit(
                "policy/new-image-while-rolling-over",
                "While a new image is rolled out it is allowed beside the old one.",
                sound(),
            ),
            &[(0, &[other("old image"), pcr(0)])],
        ),
        allowing(
            admit(
                "policy/role-and-instance",
                "PCR3 is the role's, PCR4 the instance's, and the image the expected one.",
                at_role.clone(),
            )
            .by("AWS Nitro Enclaves User Guide, \"Cryptographic attestation\""),
            &[
                (0, &[pcr(0)]),
                (3, &[Pcr::of_role(ROLE)]),
                (4, &[Pcr::of_instance(INSTANCE)]),
            ],
        ),
        allowing(
            admit(
                "policy/register-of-zeros",
                "A register that is listed and zero is what was expected.",
                sound(),
            ),
            &[(0, &[pcr(0)]), (9, &[Pcr::ZERO])],
        ),
        admit(
            "policy/any-image",
            "It was said that any image will do.",
            sound(),
        ),
        expecting(
            refuse(
                "policy/nothing-expected",
                "no-image-expected",
                "Whoever expects nothing has forgotten to say what he trusts; an empty policy admits \
                 nothing.",
                sound(),
            )
            .should(),
            |_| {},
        ),
        expecting(
            refuse(
                "policy/only-a-nonce-expected",
                "no-image-expected",
                "The nonce is right, and any image could have asked for it.",
                sound(),
            )
            .should(),
            |arguments| arguments.nonce = Some(NONCE.to_vec()),
        ),
        allowing(
            refuse(
                "policy/only-a-role-expected",
                "no-image-expected",
                "The role is right, and any image could run under it.",
                at_role.clone(),
            )
            .should(),
            &[(3, &[Pcr::of_role(ROLE)])],
        ),
        allowing(
            refuse(
                "policy/no-value-allowed",
                "pcr",
                "A list of allowed values that is empty allows none, rather than all.",
                sound(),
            ),
            &[(0, &[])],
        ),
        allowing(
            refuse("policy/another-image", "pcr", "PCR0 differs.", sound()),
            &[(0, &[other("another image")])],
        ),
        allowing(
            refuse(
                "policy/pcr0-differs-in-its-last-bit",
                "pcr",
                "A register is compared as a whole.",
                sound(),
            ),
            &[(0, &[flipped])],
        ),
        allowing(
            refuse(
                "policy/pcr1-differs",
                "pcr",
                "PCR0 is right, and PCR1 is not: all that is expected must hold.",
                sound(),
            ),
            &[(0, &[pcr(0)]), (1, &[other("another kernel")])],
        ),
        allowing(
            refuse(
                "policy/pcr2-differs",
                "pcr",
                "PCR0 is right, and PCR2 is not: all that is expected must hold.",
                sound(),
            ),
            &[(0, &[pcr(0)]), (2, &[other("another application")])],
        ),
        allowing(
            refuse(
                "policy/signed-by-another",
                "pcr",
                "The image was signed by another certificate.",
                sound(),
            ),
            &[(8, &[other("another certificate")])],
        ),
        allowing(
            refuse(
                "policy/another-role",
                "pcr",
                "PCR3 is another role's.",
                at_role.clone(),
            ),
            &[
                (0, &[pcr(0)]),
                (3, &[Pcr::of_role("arn:aws:iam::111122223333:role/card")]),
            ],
        ),
        allowing(
            refuse(
                "policy/another-instance",
                "pcr",
                "PCR4 is another instance's.",
                at_role,
            ),
            &[
                (0, &[pcr(0)]),
                (4, &[Pcr::of_instance("i-0123456789abcdef1")]),
            ],
        ),
        allowing(
            refuse(
                "policy/none-of-two-allowed",
                "pcr",
                "Neither the old image nor the new.",
                sound(),
            ),
            &[(0, &[other("old image"), other("new image")])],
        ),
        allowing(
            refuse(
                "policy/values-of-two-registers-swapped",
                "pcr",
                "The wanted values are there, in each other's registers.",
                swapped,
            ),
            &[(0, &[pcr(0)]), (1, &[pcr(1)])],
        ),
        allowing(
            refuse(
                "policy/pcr0-absent",
                "pcr",
                &format!("{absent}: PCR0 is not listed."),
                without(0),
            ),
            &[(0, &[pcr(0)])],
        ),
        allowing(
            refuse(
                "policy/pcr8-absent-and-zero-expected",
                "pcr",
                &format!("{absent}: PCR8 is not listed."),
                without(8),
            ),
            &[(0, &[pcr(0)]), (8, &[Pcr::ZERO])],
        ),
        allowing(
            refuse(
                "policy/pcr16-absent-and-zero-expected",
                "pcr",
                &format!("{absent}: the enclave has not locked PCR16, and may extend it yet."),
                sound(),
            ),
            &[(0, &[pcr(0)]), (16, &[Pcr::ZERO])],
        ),
        allowing(
            refuse(
                "policy/register-of-zeros-and-more-expected",
                "pcr",
                "PCR8 is zero: nobody has signed this image.",
                {
                    let mut pcrs = pcrs(16);
                    pcrs.insert(8, Pcr::ZERO);
                    listing(pcrs)
                },
            ),
            &[(0, &[pcr(0)]), (8, &[pcr(8)])],
        ),
    ]
}

fn debug(world: &World) -> Vec<Case> {
    let measuring = |kept: &[u8]| {
        let pcrs = (0..16).map(|index| {
            let value = if kept.contains(&index) {
                pcr(index)
            } else {
                Pcr::ZERO
            };
            (index, value)
        });
        world.document(&world.payload().set("pcrs", pcr_map(pcrs)))
    };
    let user_guide = "AWS Nitro Enclaves User Guide, \"Cryptographic attestation\": PCRs of zeros in \
                      debug mode";
    vec![
        refuse(
            "policy/debug",
            "debug",
            "PCR0, 1 and 2 are zero: the enclave runs in debug mode, where its host reads its console.",
            measuring(&[4]),
        )
        .by(user_guide),
        refuse(
            "policy/debug-under-a-role",
            "debug",
            "PCR0, 1 and 2 are zero, and PCR3 and 4 are not: all registers are never zero where a role \
             is attached.",
            measuring(&[3, 4]),
        )
        .by("AWS's documents of enclaves in debug mode"),
        refuse(
            "policy/debug-of-a-signed-image",
            "debug",
            "PCR0, 1 and 2 are zero; that PCR8 is not changes nothing.",
            measuring(&[3, 4, 8]),
        )
        .should(),
        expecting(
            refuse(
                "policy/debug-where-zeros-are-expected",
                "debug",
                "To expect zeros is not to allow debug mode aloud: whoever copied them from a debug \
                 run would admit every image in debug mode.",
                measuring(&[4]),
            )
            .should(),
            |arguments| {
                for index in 0..3 {
                    arguments.pcrs.insert(index, vec![Pcr::ZERO]);
                }
            },
        ),
        admit(
            "policy/debug-allowed",
            "It was said that debug mode is allowed.",
            measuring(&[3, 4]),
        )
        .told(|arguments| arguments.allow_debug = true),
        admit(
            "policy/no-debug-where-it-is-allowed",
            "That debug mode is allowed does not make it necessary.",
            world.sound(),
        )
        .told(|arguments| arguments.allow_debug = true),
        expecting(
            refuse(
                "policy/another-image-where-debug-is-allowed",
                "pcr",
                "Debug mode is allowed, and the image is another one all the same.",
                world.sound(),
            ),
            |arguments| {
                arguments.allow_debug = true;
                arguments.pcrs.insert(0, vec![other("another image")]);
            },
        ),
        expecting(
            refuse(
                "policy/debug-allowed-and-an-image-expected",
                "pcr",
                "Debug mode is allowed, and hides which image runs: the expected one is not shown.",
                measuring(&[3, 4]),
            ),
            |arguments| {
                arguments.allow_debug = true;
                arguments.pcrs.insert(0, vec![pcr(0)]);
            },
        ),
        refuse(
            "policy/nothing-measured",
            "debug",
            "PCR0, 1 and 2 are not listed: what runs there was not measured.",
            {
                let pcrs = (3..16).map(|index| (index, pcr(index)));
                world.document(&world.payload().set("pcrs", pcr_map(pcrs)))
            },
        )
        .should(),
    ]
}

fn bound(world: &World) -> Vec<Case> {
    let key = Key::p384("enclave").point().to_vec();
    let full = world
        .payload()
        .set("user_data", bytes(USER_DATA))
        .set("public_key", bytes(&key));
    let document = || world.document(&full);
    let with = |name: &str, value: Vec<u8>| world.document(&full.clone().set(name, value));
    let absent = |name: &str| world.document(&full.clone().without(name));
    let nonce = |value: &[u8]| {
        let value = value.to_vec();
        move |arguments: &mut Arguments| arguments.nonce = Some(value)
    };
    let user_data = |value: &[u8]| {
        let value = value.to_vec();
        move |arguments: &mut Arguments| arguments.user_data = Some(value)
    };
    let public_key = |value: &[u8]| {
        let value = value.to_vec();
        move |arguments: &mut Arguments| arguments.public_key = Some(value)
    };
    let module_id = |value: &str| {
        let value = value.to_owned();
        move |arguments: &mut Arguments| arguments.module_id = Some(value)
    };
    vec![
        admit(
            "policy/nonce",
            "The nonce is the one that was asked for.",
            document(),
        )
        .told(nonce(NONCE)),
        admit(
            "policy/empty-nonce",
            "An empty nonce was asked for, and is there.",
            with("nonce", bytes([])),
        )
        .told(nonce(b"")),
        refuse(
            "policy/another-nonce",
            "nonce",
            "The document answers another question: perhaps a replay.",
            document(),
        )
        .told(nonce(b"the nonce that nobody drew, ever")),
        refuse(
            "policy/nonce-is-a-prefix",
            "nonce",
            "A nonce is compared as a whole: this one begins like the wanted one.",
            with("nonce", bytes(&NONCE[..8])),
        )
        .told(nonce(NONCE)),
        refuse(
            "policy/nonce-is-longer",
            "nonce",
            "A nonce is compared as a whole: the wanted one is only the beginning of this.",
            with("nonce", bytes([NONCE, &[0]].concat())),
        )
        .told(nonce(NONCE)),
        refuse(
            "policy/nonce-null",
            "nonce",
            "A nonce was asked for, and there is none.",
            with("nonce", NULL.to_vec()),
        )
        .told(nonce(NONCE)),
        refuse(
            "policy/nonce-absent",
            "nonce",
            "A nonce was asked for, and there is none.",
            absent("nonce"),
        )
        .told(nonce(NONCE)),
        refuse(
            "policy/nonce-empty",
            "nonce",
            "A nonce was asked for, and an empty one is there.",
            with("nonce", bytes([])),
        )
        .told(nonce(NONCE)),
        refuse(
            "policy/empty-nonce-and-null-found",
            "nonce",
            "An empty byte string was asked for, and null is none.",
            with("nonce", NULL.to_vec()),
        )
        .told(nonce(b""))
        .should(),
        refuse(
            "policy/nonce-in-the-user-data",
            "nonce",
            "The right bytes stand in another field, which the enclave's job may fill at will.",
            world.document(
                &full
                    .clone()
                    .set("nonce", NULL)
                    .set("user_data", bytes(NONCE)),
            ),
        )
        .told(nonce(NONCE)),
        admit(
            "policy/user-data",
            "The user data is what was expected.",
            document(),
        )
        .told(user_data(USER_DATA)),
        refuse(
            "policy/other-user-data",
            "user-data",
            "The enclave said something else.",
            document(),
        )
        .told(user_data(b"what the enclave had to say.")),
        refuse(
            "policy/user-data-null",
            "user-data",
            "User data was expected, and there is none.",
            with("user_data", NULL.to_vec()),
        )
        .told(user_data(USER_DATA)),
        refuse(
            "policy/user-data-in-another-case",
            "user-data",
            "Bytes are compared as bytes.",
            with("user_data", bytes(USER_DATA.to_ascii_uppercase())),
        )
        .told(user_data(USER_DATA)),
        admit(
            "policy/public-key",
            "The public key is the expected one.",
            document(),
        )
        .told(public_key(&key)),
        refuse(
            "policy/another-public-key",
            "public-key",
            "What is encrypted to the expected key this enclave cannot read, and what it shows is \
             another's.",
            document(),
        )
        .told(public_key(Key::p384("another enclave").point())),
        refuse(
            "policy/public-key-null",
            "public-key",
            "A public key was expected, and there is none.",
            with("public_key", NULL.to_vec()),
        )
        .told(public_key(&key)),
        admit(
            "policy/module-id",
            "The enclave's name is the expected one.",
            document(),
        )
        .told(module_id(MODULE_ID)),
        refuse(
            "policy/another-module-id",
            "module-id",
            "Another enclave of the same instance.",
            document(),
        )
        .told(module_id("i-0123456789abcdef0-enc0123456789abcde0")),
        refuse(
            "policy/module-id-is-longer",
            "module-id",
            "A name is compared as a whole: this one begins like the wanted one.",
            document(),
        )
        .told(module_id("i-0123456789abcdef0-enc")),
        expecting(
            admit(
                "policy/all-as-expected",
                "Image, nonce, user data, public key and name, fresh: all that can be asked for.",
                document(),
            )
            .fresh(300_000, 60_000),
            |arguments| {
                arguments.pcrs = [0, 1, 2, 8].map(|index| (index, vec![pcr(index)])).into();
                arguments.nonce = Some(NONCE.to_vec());
                arguments.user_data = Some(USER_DATA.to_vec());
                arguments.public_key = Some(key.clone());
                arguments.module_id = Some(MODULE_ID.to_owned());
            },
        ),
        expecting(
            refuse(
                "policy/image-right-and-nonce-wrong",
                "nonce",
                "The image is the expected one, and the document an old one.",
                document(),
            ),
            |arguments| {
                arguments.pcrs = [(0, vec![pcr(0)])].into();
                arguments.nonce = Some(b"another nonce".to_vec());
            },
        ),
        expecting(
            refuse(
                "policy/several-things-differ",
                "module-id nonce pcr",
                "Image, nonce and name are others; the user data is right.",
                document(),
            ),
            |arguments| {
                arguments.pcrs = [(0, vec![other("another image")])].into();
                arguments.nonce = Some(b"another nonce".to_vec());
                arguments.user_data = Some(USER_DATA.to_vec());
                arguments.module_id = Some("i-1-enc1".to_owned());
            },
        ),
    ]
}

pub fn cases(world: &World) -> Vec<Case> {
    [registers(world), debug(world), bound(world)].concat()
}
