//! The file format: what is refused, one test per way of being malformed, and what the measurements are.

#![allow(clippy::unwrap_used)]

mod common;

use anchorhold_images::eif::{HEADER_BYTES, SECTION_HEADER_BYTES, SectionKind};
use anchorhold_images::{FormatError, Image, ImageError, Unmeasured, signer_pcr};
use common::{METADATA, empty_archive, image, register, seal, sections};
use proptest::prelude::*;

fn open(bytes: Vec<u8>) -> Result<Image, ImageError> {
    Unmeasured::from_bytes("test.eif", bytes)?.measure()
}

/// The format error of a small image after `change` and with its checksum made right again.
fn refusal(change: impl FnOnce(&mut Vec<u8>)) -> FormatError {
    let mut bytes = image(&sections());
    change(&mut bytes);
    if bytes.len() >= HEADER_BYTES {
        seal(&mut bytes);
    }
    match open(bytes) {
        Err(ImageError::Format { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn order_refusal(kinds: &[SectionKind]) -> FormatError {
    let sections: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let data = if *kind == SectionKind::Metadata {
                METADATA.into()
            } else {
                b"data".to_vec()
            };
            (*kind, data)
        })
        .collect();
    match open(image(&sections)) {
        Err(ImageError::Format { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// Where entry `index` of the header's table of offsets or, 256 bytes on, sizes stands.
fn table(index: usize) -> usize {
    28 + 8 * index
}

#[test]
fn the_measurements_are_those_computed_by_hand() {
    let sections = sections();
    let read = open(image(&sections)).unwrap();
    let data = |indexes: &[usize]| -> Vec<u8> {
        indexes
            .iter()
            .flat_map(|index| sections[*index].1.clone())
            .collect()
    };
    let measured = read.measurements();
    assert_eq!(measured.pcr0.to_string(), register(&data(&[0, 1, 3, 4])));
    assert_eq!(measured.pcr1.to_string(), register(&data(&[0, 1, 3])));
    assert_eq!(measured.pcr2.to_string(), register(&data(&[4])));
    assert_eq!(measured.pcr8, None);
    assert_eq!(read.name(), "n");
    assert_eq!(read.command_line(), "quiet");
    assert_eq!(read.default_resources(), (1 << 30, 2));
    assert!(read.has_kernel().unwrap());
    assert_eq!(read.manifest().unwrap(), None);
}

#[test]
fn an_image_with_one_ramdisk_has_pcr1_equal_to_pcr0_and_an_empty_pcr2() {
    let mut sections = sections();
    sections.pop();
    let read = open(image(&sections)).unwrap();
    assert_eq!(read.measurements().pcr0, read.measurements().pcr1);
    assert_eq!(read.measurements().pcr2.to_string(), register(b""));
}

#[test]
fn many_ramdisks_are_measured_in_order() {
    let mut sections = sections();
    sections.push((SectionKind::Ramdisk, [empty_archive(), vec![0; 8]].concat()));
    let read = open(image(&sections)).unwrap();
    assert_eq!(
        read.measurements().pcr2.to_string(),
        register(&[&sections[4].1[..], &sections[5].1].concat())
    );
}

#[test]
fn metadata_is_not_measured() {
    let mut other = sections();
    other[2].1 = METADATA.replace("\"n\"", "\"another\"").into();
    let (one, two) = (
        open(image(&sections())).unwrap(),
        open(image(&other)).unwrap(),
    );
    assert_eq!(one.measurements(), two.measurements());
}

#[test]
fn metadata_may_stand_anywhere_between_command_line_and_signature() {
    let mut moved = sections();
    let metadata = moved.remove(2);
    moved.push(metadata);
    let (one, two) = (
        open(image(&sections())).unwrap(),
        open(image(&moved)).unwrap(),
    );
    assert_eq!(one.measurements(), two.measurements());
}

#[test]
fn a_short_file_is_refused() {
    assert_eq!(
        refusal(|bytes| bytes.truncate(HEADER_BYTES - 1)),
        FormatError::TooShort { bytes: 547 }
    );
    assert_eq!(refusal(Vec::clear), FormatError::TooShort { bytes: 0 });
}

#[test]
fn another_magic_is_refused() {
    assert_eq!(refusal(|bytes| bytes[0] = b'x'), FormatError::Magic);
}

#[test]
fn another_version_is_refused() {
    assert_eq!(
        refusal(|bytes| bytes[5] = 3),
        FormatError::Version { found: 3 }
    );
}

#[test]
fn unknown_header_flags_are_refused() {
    assert_eq!(
        refusal(|bytes| bytes[7] = 3),
        FormatError::Flags { flags: 3 }
    );
    assert_eq!(
        refusal(|bytes| bytes[6] = 1),
        FormatError::Flags { flags: 256 }
    );
}

#[test]
fn reserved_bytes_in_use_are_refused() {
    assert_eq!(
        refusal(|bytes| bytes[25] = 1),
        FormatError::Reserved { offset: 24 }
    );
    assert_eq!(
        refusal(|bytes| bytes[543] = 1),
        FormatError::Reserved { offset: 540 }
    );
}

#[test]
fn too_many_sections_are_refused() {
    assert_eq!(
        refusal(|bytes| bytes[27] = 33),
        FormatError::SectionCount { count: 33 }
    );
}

#[test]
fn table_entries_beyond_the_count_are_refused() {
    assert_eq!(
        refusal(|bytes| bytes[table(7)] = 1),
        FormatError::TableBeyondCount { index: 7 }
    );
    assert_eq!(
        refusal(|bytes| bytes[table(5) + 256] = 1),
        FormatError::TableBeyondCount { index: 5 }
    );
}

#[test]
fn a_count_that_hides_a_section_is_refused() {
    assert_eq!(
        refusal(|bytes| bytes[27] = 4),
        FormatError::TableBeyondCount { index: 4 }
    );
}

#[test]
fn overlapping_sections_are_refused() {
    let error = refusal(|bytes| bytes[table(1) + 7] -= 1);
    assert!(
        matches!(error, FormatError::Overlap { index: 1, .. }),
        "{error:?}"
    );
    let error = refusal(|bytes| bytes[table(0)..table(0) + 8].fill(0));
    assert_eq!(
        error,
        FormatError::Overlap {
            index: 0,
            offset: 0,
            previous_end: 548
        }
    );
}

#[test]
fn gaps_are_refused() {
    let error = refusal(|bytes| bytes[table(1) + 7] += 1);
    assert!(
        matches!(error, FormatError::Gap { index: 1, .. }),
        "{error:?}"
    );
}

#[test]
fn sections_beyond_the_file_are_refused() {
    let error = refusal(|bytes| bytes[table(4) + 256 + 7] += 1);
    assert!(
        matches!(error, FormatError::BeyondFile { index: 4, .. }),
        "{error:?}"
    );
    let error = refusal(|bytes| bytes[table(4) + 256..table(4) + 264].fill(0xff));
    assert!(
        matches!(
            error,
            FormatError::BeyondFile {
                index: 4,
                end: u64::MAX,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn trailing_bytes_are_refused() {
    assert_eq!(
        refusal(|bytes| bytes.push(0)),
        FormatError::TrailingBytes { extra: 1 }
    );
}

#[test]
fn unknown_section_types_are_refused() {
    for code in [0, 6, 255] {
        let error = refusal(|bytes| bytes[HEADER_BYTES + 1] = code);
        assert_eq!(
            error,
            FormatError::SectionType {
                index: 0,
                code: code.into()
            }
        );
    }
}

#[test]
fn section_flags_are_refused() {
    let error = refusal(|bytes| bytes[HEADER_BYTES + 3] = 1);
    assert_eq!(
        error,
        FormatError::SectionFlags {
            index: 0,
            kind: SectionKind::Kernel,
            flags: 1
        }
    );
}

#[test]
fn a_size_that_differs_from_the_table_is_refused() {
    let error = refusal(|bytes| bytes[HEADER_BYTES + 11] += 1);
    assert_eq!(
        error,
        FormatError::SectionSize {
            index: 0,
            kind: SectionKind::Kernel,
            section: 9,
            table: 8
        }
    );
}

#[test]
fn empty_sections_are_refused_but_for_the_command_line() {
    let mut sections = sections();
    sections[1].1.clear();
    let bytes = image(&sections);
    assert_eq!(open(bytes).unwrap().command_line(), "");
    sections[0].1.clear();
    let error = open(image(&sections)).unwrap_err();
    let ImageError::Format { source, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(
        source,
        FormatError::EmptySection {
            index: 0,
            kind: SectionKind::Kernel
        }
    );
}

#[test]
fn sections_that_are_read_into_memory_are_bounded() {
    for (index, bytes) in [(1, (64 << 10) + 1), (2, (1 << 20) + 1)] {
        let mut sections = sections();
        sections[index].1 = vec![b' '; bytes];
        let error = open(image(&sections)).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::Format {
                    source: FormatError::SectionTooLarge { .. },
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

#[test]
fn sections_out_of_order_are_refused() {
    use SectionKind::{CommandLine, Kernel, Metadata, Ramdisk, Signature};
    for (kinds, index) in [
        (vec![CommandLine, Kernel, Metadata, Ramdisk], 0),
        (vec![Kernel, Metadata, CommandLine, Ramdisk], 1),
        (vec![Kernel, Ramdisk, CommandLine, Metadata], 2),
        (vec![Kernel, CommandLine, Metadata, Signature, Ramdisk], 4),
        (vec![Kernel, CommandLine, Ramdisk, Signature, Metadata], 4),
        (vec![Metadata, Kernel, CommandLine, Ramdisk], 0),
    ] {
        let error = order_refusal(&kinds);
        assert_eq!(
            error,
            FormatError::Order {
                index,
                kind: kinds[index]
            },
            "{kinds:?}"
        );
    }
}

#[test]
fn repeated_sections_are_refused() {
    use SectionKind::{CommandLine, Kernel, Metadata, Ramdisk, Signature};
    for (kinds, index) in [
        (vec![Kernel, Kernel, CommandLine, Metadata, Ramdisk], 1),
        (vec![Kernel, CommandLine, CommandLine, Metadata, Ramdisk], 2),
        (vec![Kernel, CommandLine, Metadata, Ramdisk, Metadata], 4),
        (
            vec![Kernel, CommandLine, Metadata, Ramdisk, Signature, Signature],
            5,
        ),
    ] {
        assert_eq!(
            order_refusal(&kinds),
            FormatError::Repeated {
                index,
                kind: kinds[index]
            }
        );
    }
}

#[test]
fn missing_sections_are_refused() {
    use SectionKind::{CommandLine, Kernel, Metadata, Ramdisk};
    let all = [Kernel, CommandLine, Metadata, Ramdisk];
    for kind in all {
        let others: Vec<_> = all.into_iter().filter(|other| *other != kind).collect();
        assert_eq!(order_refusal(&others), FormatError::Missing { kind });
    }
    assert_eq!(order_refusal(&[]), FormatError::Missing { kind: Kernel });
}

#[test]
fn a_file_cut_off_at_any_section_border_is_refused() {
    let whole = image(&sections());
    let read = open(whole.clone()).unwrap();
    for section in read.sections() {
        let start = section.offset as usize;
        for at in [
            start - SECTION_HEADER_BYTES,
            start,
            start + 1,
            start + section.size as usize - 1,
        ] {
            let error = open(whole[..at].to_vec()).unwrap_err();
            assert!(
                matches!(
                    error,
                    ImageError::Format {
                        source: FormatError::BeyondFile { .. },
                        ..
                    }
                ),
                "{at}: {error:?}"
            );
        }
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    let whole = image(&sections());
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        assert!(open(damaged).is_err(), "byte {at}");
    }
}

#[test]
fn a_wrong_checksum_says_both() {
    let mut bytes = image(&sections());
    bytes[HEADER_BYTES + SECTION_HEADER_BYTES] ^= 1;
    let error = open(bytes).unwrap_err();
    let ImageError::Checksum {
        computed, stated, ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_ne!(computed, stated);
}

#[test]
fn metadata_that_is_no_json_is_refused() {
    for text in ["", "{", "{}", "[]", &METADATA.replace("ImageName", "Name")] {
        let mut sections = sections();
        sections[2].1 = format!("{text} ").into();
        let error = open(image(&sections)).unwrap_err();
        assert!(
            matches!(error, ImageError::Metadata { .. }),
            "{text}: {error:?}"
        );
    }
}

#[test]
fn a_command_line_that_is_no_text_is_refused() {
    let mut sections = sections();
    sections[1].1 = vec![0xff];
    assert!(matches!(
        open(image(&sections)),
        Err(ImageError::CommandLine { .. })
    ));
}

#[test]
fn files_that_are_no_files_are_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        Image::open(dir.path()),
        Err(ImageError::NotAFile { .. })
    ));
    assert!(matches!(
        Image::open(&dir.path().join("none")),
        Err(ImageError::Open { .. })
    ));
    assert!(matches!(
        Image::open("/dev/null".as_ref()),
        Err(ImageError::NotAFile { .. })
    ));
}

/// A section as AWS's tool writes it: byte strings as arrays of numbers.
fn signature_section(certificate_pem: &str, signature: &[u8]) -> Vec<u8> {
    let numbers =
        |bytes: &[u8]| ciborium::Value::Array(bytes.iter().map(|byte| (*byte).into()).collect());
    let entry = ciborium::Value::Map(vec![
        (
            "signing_certificate".into(),
            numbers(certificate_pem.as_bytes()),
        ),
        ("signature".into(), numbers(signature)),
    ]);
    let mut section = Vec::new();
    ciborium::into_writer(&ciborium::Value::Array(vec![entry]), &mut section).unwrap();
    section
}

fn signed(section: Vec<u8>) -> Result<Image, ImageError> {
    let mut sections = sections();
    sections.push((SectionKind::Signature, section));
    open(image(&sections))
}

#[test]
fn pcr8_is_the_hash_of_the_signing_certificate() {
    let certificate = rcgen::generate_simple_self_signed(["signer".to_owned()])
        .unwrap()
        .cert;
    let read = signed(signature_section(&certificate.pem(), b"signature")).unwrap();
    let pcr8 = read.measurements().pcr8.unwrap();
    assert_eq!(pcr8.to_string(), register(certificate.der()));
    assert_eq!(pcr8, signer_pcr(certificate.der()));
    assert_eq!(read.signature().unwrap().cose_sign1, b"signature");
    assert_eq!(
        open(image(&sections())).unwrap().measurements().pcr0,
        read.measurements().pcr0
    );
}

#[test]
fn a_malformed_signature_section_is_an_error_and_never_an_unsigned_image() {
    let pem = rcgen::generate_simple_self_signed(["signer".to_owned()])
        .unwrap()
        .cert
        .pem();
    let good = signature_section(&pem, b"signature");
    assert!(signed(good.clone()).is_ok());
    let mut empty = Vec::new();
    ciborium::into_writer(&ciborium::Value::Array(Vec::new()), &mut empty).unwrap();
    for section in [
        vec![0],
        empty,
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        signature_section("no certificate", b"signature"),
        signature_section(&format!("{pem}{pem}"), b"signature"),
        signature_section(&pem.replace('M', "N"), b"signature"),
        signature_section(&pem, b""),
    ] {
        let error = signed(section).unwrap_err();
        assert!(matches!(error, ImageError::Signature { .. }), "{error:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(data in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..5000), 3..8)) {
        let mut sections = sections();
        sections.truncate(3);
        sections[0].1.clone_from(&data[0]);
        sections[1].1 = data[1].iter().map(|byte| byte & 0x7f).collect();
        sections.extend(data[2..].iter().map(|data| (SectionKind::Ramdisk, data.clone())));
        let read = open(image(&sections)).unwrap();
        let measured: Vec<u8> = [0, 1].into_iter().chain(3..sections.len()).flat_map(|index| sections[index].1.clone()).collect();
        prop_assert_eq!(read.measurements().pcr0.to_string(), register(&measured));
        let found: Vec<_> = read.sections().iter().map(|section| (section.kind, section.size)).collect();
        let expected: Vec<_> = sections.iter().map(|(kind, data)| (*kind, data.len() as u64)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        damage in prop::collection::vec((0usize..1200, any::<u8>()), 1..6), reseal: bool
    ) {
        let mut bytes = image(&sections());
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if reseal {
            seal(&mut bytes);
        }
        if let Ok(image) = open(bytes) {
            let _ = image.describe();
        }
    }
}
