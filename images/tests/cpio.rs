//! cpio archives: what the kernel would unpack, and the tricks that are refused.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::{Path, PathBuf};

use anchorhold_images::cpio::{Attributes, Reader, Writer};
use anchorhold_images::{CpioError, Entry, EntryKind, Limits};
use proptest::prelude::*;

/// An entry's header and data as bytes, with all that a hostile archive may want to choose.
#[derive(Clone)]
struct Raw<'a> {
    name: &'a [u8],
    mode: u32,
    inode: u32,
    links: u32,
    data: &'a [u8],
}

const FILE: Raw<'static> = Raw {
    name: b"a",
    mode: 0o100_644,
    inode: 1,
    links: 1,
    data: b"",
};
const DIRECTORY: Raw<'static> = Raw {
    name: b"d",
    mode: 0o040_755,
    inode: 2,
    links: 2,
    data: b"",
};
const LINK: Raw<'static> = Raw {
    name: b"l",
    mode: 0o120_777,
    inode: 3,
    links: 1,
    data: b"/etc",
};

fn archive(entries: &[Raw<'_>]) -> Vec<u8> {
    let trailer = Raw {
        name: b"TRAILER!!!",
        mode: 0,
        inode: 0,
        links: 1,
        data: b"",
    };
    let mut bytes = Vec::new();
    for entry in entries.iter().chain([&trailer]) {
        bytes.extend_from_slice(b"070701");
        let size = entry.data.len() as u32;
        let fields = [
            entry.inode,
            entry.mode,
            7,
            8,
            entry.links,
            9,
            size,
            1,
            2,
            3,
            4,
            entry.name.len() as u32 + 1,
            0,
        ];
        for field in fields {
            bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        bytes.extend_from_slice(entry.name);
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(entry.data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

fn read_with(bytes: &[u8], limits: Limits) -> Result<Vec<(Entry, Vec<u8>)>, CpioError> {
    let mut reader = Reader::new(bytes, limits);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        reader.read_to_end(&mut data).map_err(|error| {
            error
                .downcast::<CpioError>()
                .unwrap_or(CpioError::Truncated { offset: 0 })
        })?;
        entries.push((entry, data));
    }
    assert!(reader.next_entry()?.is_none());
    Ok(entries)
}

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, CpioError> {
    read_with(bytes, Limits::default())
}

fn refusal(entries: &[Raw<'_>]) -> CpioError {
    let bytes = archive(entries);
    let error = read(&bytes).unwrap_err();
    // Skipping the data must find the same as reading it.
    let mut reader = Reader::new(&bytes[..], Limits::default());
    let skipped = loop {
        match reader.next_entry() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("only reading notices {error}"),
            Err(error) => break error,
        }
    };
    assert_eq!(skipped.to_string(), error.to_string());
    error
}

#[test]
fn all_kinds_are_read() {
    let entries = read(&archive(&[
        Raw {
            name: b".",
            ..DIRECTORY
        },
        DIRECTORY,
        Raw {
            name: b"d/f",
            mode: 0o104_755,
            data: b"hello",
            ..FILE
        },
        LINK,
        Raw {
            name: b"c",
            mode: 0o020_600,
            ..FILE
        },
        Raw {
            name: b"b",
            mode: 0o060_600,
            ..FILE
        },
        Raw {
            name: b"p",
            mode: 0o010_600,
            ..FILE
        },
        Raw {
            name: b"s",
            mode: 0o140_600,
            ..FILE
        },
    ]))
    .unwrap();
    let kinds: Vec<_> = entries
        .iter()
        .map(|(entry, _)| entry.kind.clone())
        .collect();
    assert_eq!(
        kinds,
        [
            EntryKind::Directory,
            EntryKind::Directory,
            EntryKind::File { size: 5 },
            EntryKind::Symlink {
                target: "/etc".into()
            },
            EntryKind::CharacterDevice { major: 3, minor: 4 },
            EntryKind::BlockDevice { major: 3, minor: 4 },
            EntryKind::Fifo,
            EntryKind::Socket,
        ]
    );
    let (file, data) = &entries[2];
    assert_eq!(
        (file.mode, file.uid, file.gid, file.mtime),
        (0o4755, 7, 8, 9)
    );
    assert_eq!(data, b"hello");
    assert_eq!(entries[0].0.path, PathBuf::new());
}

#[test]
fn hard_links_name_the_file_that_came_first() {
    let named = |name| Raw {
        name,
        links: 3,
        ..FILE
    };
    let entries = read(&archive(&[
        named(b"a"),
        Raw {
            inode: 9,
            ..named(b"other")
        },
        named(b"b"),
        Raw {
            data: b"content",
            ..named(b"c")
        },
    ]))
    .unwrap();
    assert_eq!(entries[0].0.kind, EntryKind::File { size: 0 });
    assert_eq!(entries[1].0.kind, EntryKind::File { size: 0 });
    assert_eq!(
        entries[2].0.kind,
        EntryKind::HardLink {
            target: "a".into(),
            size: 0
        }
    );
    assert_eq!(
        entries[3].0.kind,
        EntryKind::HardLink {
            target: "a".into(),
            size: 7
        }
    );
    assert_eq!(entries[3].1, b"content");
}

#[test]
fn a_leading_dot_is_dropped() {
    let entries = read(&archive(&[Raw {
        name: b"./a",
        ..FILE
    }]))
    .unwrap();
    assert_eq!(entries[0].0.path, Path::new("a"));
}

#[test]
fn names_that_leave_the_root_or_have_two_spellings_are_refused() {
    let long = [b'x'; 256];
    for name in [
        &b"/a"[..],
        b"/",
        b"..",
        b"../a",
        b"a/../b",
        b"a/..",
        b"a/./b",
        b"a//b",
        b"a/",
        b"./",
        b"./.",
        b"././a",
        b".//a",
        &long,
    ] {
        let error = refusal(&[Raw { name, ..FILE }]);
        assert!(
            matches!(error, CpioError::Path { .. }),
            "{:?}: {error}",
            name.escape_ascii().to_string()
        );
    }
}

#[test]
fn damaged_names_are_refused() {
    assert!(matches!(
        refusal(&[Raw { name: b"", ..FILE }]),
        CpioError::Name { offset: 0 }
    ));
    assert!(matches!(
        refusal(&[Raw {
            name: b"a\0b",
            ..FILE
        }]),
        CpioError::Name { .. }
    ));
    assert!(matches!(
        refusal(&[Raw {
            name: &[b'a'; 4096],
            ..FILE
        }]),
        CpioError::Name { .. }
    ));
    let mut unterminated = archive(&[Raw {
        name: b"abc",
        ..FILE
    }]);
    unterminated[113] = b'd';
    assert!(matches!(read(&unterminated), Err(CpioError::Name { .. })));
}

#[test]
fn entries_that_pass_through_a_link_or_file_are_refused() {
    for parent in [LINK, Raw { name: b"l", ..FILE }] {
        for name in [&b"l/passwd"[..], b"l/d/passwd", b"./l/passwd"] {
            let error = refusal(&[parent.clone(), Raw { name, ..FILE }]);
            assert!(matches!(error, CpioError::InsideNoFolder { .. }), "{error}");
        }
    }
}

#[test]
fn the_same_name_twice_is_refused_folders_aside() {
    assert!(matches!(
        refusal(&[FILE, FILE]),
        CpioError::Duplicate { .. }
    ));
    assert!(matches!(
        refusal(&[
            FILE,
            Raw {
                name: b"./a",
                ..FILE
            }
        ]),
        CpioError::Duplicate { .. }
    ));
    assert!(matches!(
        refusal(&[DIRECTORY, Raw { name: b"d", ..LINK }]),
        CpioError::Duplicate { .. }
    ));
    assert!(matches!(
        refusal(&[
            LINK,
            Raw {
                name: b"l",
                ..DIRECTORY
            }
        ]),
        CpioError::Duplicate { .. }
    ));
    assert!(read(&archive(&[DIRECTORY, DIRECTORY])).is_ok());
}

#[test]
fn a_folder_that_turns_out_a_link_after_its_contents_is_refused() {
    let inside = Raw {
        name: b"l/f",
        ..FILE
    };
    let error = refusal(&[
        Raw {
            name: b"l",
            ..DIRECTORY
        },
        inside,
        LINK,
    ]);
    assert!(matches!(error, CpioError::Duplicate { .. }), "{error}");
}

#[test]
fn data_where_none_belongs_is_refused() {
    assert!(matches!(
        refusal(&[Raw {
            data: b"x",
            ..DIRECTORY
        }]),
        CpioError::Data { size: 1, .. }
    ));
    assert!(matches!(
        refusal(&[Raw {
            mode: 0o020_600,
            data: b"x",
            ..FILE
        }]),
        CpioError::Data { .. }
    ));
    assert!(matches!(
        refusal(&[Raw { data: b"", ..LINK }]),
        CpioError::Data { size: 0, .. }
    ));
    assert!(matches!(
        refusal(&[Raw {
            data: &[b'x'; 4096],
            ..LINK
        }]),
        CpioError::Data { .. }
    ));
    assert!(matches!(
        refusal(&[Raw {
            data: b"a\0b",
            ..LINK
        }]),
        CpioError::Data { .. }
    ));
}

#[test]
fn unknown_modes_are_refused() {
    assert!(matches!(
        refusal(&[Raw {
            mode: 0o644,
            ..FILE
        }]),
        CpioError::Mode { .. }
    ));
    assert!(matches!(
        refusal(&[Raw {
            mode: 0o1_100_644,
            ..FILE
        }]),
        CpioError::Mode { .. }
    ));
}

#[test]
fn damaged_headers_are_refused() {
    let good = archive(&[FILE]);
    let mut magic = good.clone();
    magic[5] = b'2';
    assert!(matches!(read(&magic), Err(CpioError::Magic { offset: 0 })));
    for digit in *b"+- g\0" {
        let mut field = good.clone();
        field[14] = digit;
        assert!(
            matches!(read(&field), Err(CpioError::Field { field: "mode", .. })),
            "{digit}"
        );
    }
    let mut check = good.clone();
    check[109] = b'1';
    assert!(matches!(
        read(&check),
        Err(CpioError::Field { field: "check", .. })
    ));
    let mut padding = archive(&[Raw {
        name: b"ab",
        data: b"x",
        ..FILE
    }]);
    assert_eq!(padding[116], b'x');
    padding[113] = 1;
    assert!(read(&padding).is_err());
    padding[113] = 0;
    padding[118] = 1;
    assert!(matches!(
        read(&padding),
        Err(CpioError::Padding { offset: 117 })
    ));
}

#[test]
fn an_archive_cut_off_anywhere_is_refused() {
    let whole = archive(&[
        DIRECTORY,
        Raw {
            name: b"d/f",
            data: b"hello",
            ..FILE
        },
        LINK,
    ]);
    for length in 0..whole.len() {
        assert!(
            matches!(read(&whole[..length]), Err(CpioError::Truncated { .. })),
            "{length}"
        );
    }
}

#[test]
fn only_zeros_may_follow_the_end() {
    let mut bytes = archive(&[FILE]);
    bytes.resize(10_000, 0);
    assert!(read(&bytes).is_ok());
    bytes[9_000] = 1;
    assert!(matches!(
        read(&bytes),
        Err(CpioError::TrailingData { offset: 9_000 })
    ));
}

#[test]
fn a_second_archive_after_the_first_is_refused() {
    let bytes = [archive(&[FILE]), archive(&[FILE])].concat();
    assert!(matches!(read(&bytes), Err(CpioError::TrailingData { .. })));
}

#[test]
fn what_unpacking_costs_is_bounded() {
    let bytes = archive(&[
        DIRECTORY,
        Raw {
            data: &[7; 5000],
            ..FILE
        },
    ]);
    let limit = |bytes, entries| Limits { bytes, entries };
    assert!(read_with(&bytes, limit(bytes.len() as u64, 2)).is_ok());
    assert!(matches!(
        read_with(&bytes, limit(bytes.len() as u64 - 1, 2)),
        Err(CpioError::TooLarge { .. })
    ));
    assert!(matches!(
        read_with(&bytes, limit(3000, 2)),
        Err(CpioError::TooLarge { limit: 3000 })
    ));
    assert!(matches!(
        read_with(&bytes, limit(1 << 20, 1)),
        Err(CpioError::TooManyEntries { limit: 1 })
    ));
}

#[test]
fn the_writer_refuses_a_file_that_changes_its_length() {
    for size in [2, 4] {
        let mut writer = Writer::new(Vec::new());
        assert!(
            writer
                .file(
                    Path::new("f"),
                    Attributes::of_root(0o644),
                    size,
                    &mut &b"abc"[..]
                )
                .is_err()
        );
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        files in prop::collection::btree_map("[a-z]{1,20}", (prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..20)
    ) {
        let mut writer = Writer::new(Vec::new());
        writer.directory(Path::new("0"), Attributes::of_root(0o755)).unwrap();
        writer.symlink(Path::new("0/l"), Path::new("../x"), 0, 0).unwrap();
        for (name, (data, executable)) in &files {
            let mode = if *executable { 0o755 } else { 0o644 };
            let mode = Attributes::of_root(mode);
            writer.file(Path::new(name), mode, data.len() as u64, &mut data.as_slice()).unwrap();
        }
        let bytes = writer.finish().unwrap();
        prop_assert_eq!(bytes.len() % 512, 0);
        let entries = read(&bytes).unwrap();
        prop_assert_eq!(entries.len(), files.len() + 2);
        for ((entry, read), (name, (data, executable))) in entries[2..].iter().zip(&files) {
            prop_assert_eq!(&entry.path, Path::new(name));
            prop_assert_eq!(entry.mode, if *executable { 0o755 } else { 0o644 });
            prop_assert_eq!((entry.uid, entry.gid, entry.mtime), (0, 0, 0));
            prop_assert_eq!(read, data);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = archive(&[DIRECTORY, Raw { name: b"d/f", data: b"hello", links: 2, ..FILE }, LINK]);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(&bytes);
    }
}
