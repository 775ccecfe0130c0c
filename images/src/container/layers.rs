//! A container image's layers as streams: decompressed, hashed, and taken apart entry by entry.
//!
//! A layer's digests are those of all its bytes, so a layer of which anything is used was read to its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;
use std::rc::Rc;

use aws_lc_rs::digest::Context;
use flate2::bufread::MultiGzDecoder;

use super::ContainerOptions;
use super::error::{ContainerError, EntryProblem};
use super::records::{self, Kind, Record, Stop};
use super::select::{Digest, LayerBlob, Selected};
use super::store::Blob;
use super::zstd::Zstd;
use crate::cpio::Limits;

const BUFFER_BYTES: usize = 128 << 10;
/// A ramdisk's archive has 32 bits for a file's length.
const MAX_FILE_BYTES: u64 = u32::MAX as u64;

/// A file in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LayerFile {
    pub(super) layer: usize,
    /// Of its entry, counted from 0.
    pub(super) number: u64,
}

/// The layers of an image.
#[derive(Debug)]
pub(crate) struct Layers {
    stack: Vec<Layer>,
    limits: Limits,
    pub(super) drop_attributes: bool,
}

#[derive(Debug)]
struct Layer {
    blob: Blob,
    compression: Compression,
    digest: Option<Digest>,
    diff_id: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

/// Why a visitor wants no more entries.
pub(super) enum Halt {
    /// It has what it wanted. The rest is not read, and no digest is checked.
    Done,
    /// It failed.
    Failed(ContainerError),
}

impl Layers {
    pub(super) fn new(
        selected: &Selected,
        options: &ContainerOptions,
    ) -> Result<Layers, ContainerError> {
        let mut layers = Vec::new();
        for (index, layer) in selected.layers.iter().enumerate() {
            let LayerBlob {
                blob,
                digest,
                diff_id,
            } = layer;
            layers.push(Layer {
                compression: compression(index, blob)?,
                blob: blob.clone(),
                digest: digest.clone(),
                diff_id: diff_id.clone(),
            });
        }
        Ok(Layers {
            stack: layers,
            limits: options.limits,
            drop_attributes: options.drop_attributes,
        })
    }

    /// Plain archives that are what they are.
    pub(super) fn of_archives(archives: &[&[u8]], limits: Limits) -> Layers {
        Layers {
            stack: archives
                .iter()
                .map(|archive| Layer {
                    blob: Blob::from_bytes(archive),
                    compression: Compression::None,
                    digest: None,
                    diff_id: Digest::of(archive),
                })
                .collect(),
            limits,
            drop_attributes: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.stack.len()
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Reads a layer and gives each of its entries to `visit`. At its end its digests are checked. `budget` is what may
    /// still be unpacked; what was unpacked is taken from it, and told to `read`.
    pub(super) fn each(
        &self,
        index: usize,
        budget: &mut u64,
        read: &mut dyn FnMut(u64),
        mut visit: impl FnMut(Record, &mut dyn Read) -> Result<(), Halt>,
    ) -> Result<(), ContainerError> {
        let layer = &self.stack[index];
        let number = index + 1;
        let mut stream = Stream::new(layer, *budget);
        let meter = Rc::clone(&stream.meter);
        let mut told = 0;
        let result = records::each(&mut stream, MAX_FILE_BYTES, |record, data| {
            let bytes = meter.bytes.get();
            read(bytes - told);
            told = bytes;
            visit(record, data)
        });
        let result = match result {
            Ok(()) => stream.finish(layer, number),
            Err(Stop::Visitor(Halt::Done)) => Ok(()),
            Err(Stop::Visitor(Halt::Failed(error))) => Err(error),
            Err(Stop::Entry(entry, problem)) => Err(ContainerError::Entry {
                layer: number,
                entry,
                problem,
            }),
            Err(Stop::Read(_, entry)) if meter.over.get() => Err(ContainerError::Entry {
                layer: number,
                entry: entry.unwrap_or_default(),
                problem: EntryProblem::TooManyBytes(self.limits.bytes),
            }),
            Err(Stop::Read(source, entry)) => Err(ContainerError::Layer {
                layer: number,
                entry,
                source,
            }),
        };
        read(meter.bytes.get() - told);
        *budget = budget.saturating_sub(meter.bytes.get());
        result
    }

    /// The beginning of a file, which is there.
    pub(crate) fn start_of(&self, file: LayerFile, bytes: u64) -> Result<Vec<u8>, ContainerError> {
        let mut start = Vec::new();
        let mut found = false;
        let mut budget = self.limits.bytes;
        self.each(file.layer, &mut budget, &mut |_| (), |record, data| {
            if record.number != file.number {
                return Ok(());
            }
            found = true;
            match data.take(bytes).read_to_end(&mut start) {
                Ok(_) => Err(Halt::Done),
                Err(source) => Err(Halt::Failed(ContainerError::Layer {
                    layer: file.layer + 1,
                    entry: Some(record.path),
                    source,
                })),
            }
        })?;
        if found {
            Ok(start)
        } else {
            Err(ContainerError::Changed {
                layer: file.layer + 1,
            })
        }
    }

    /// Reads the layers once more and gives the contents of the wanted files, piece by piece: where the file belongs
    /// plus how much of it came before, and the piece.
    pub(crate) fn contents(
        &self,
        wanted: &HashMap<LayerFile, u64>,
        read: &mut dyn FnMut(u64),
        place: &mut dyn FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), ContainerError> {
        let mut budget = self.limits.bytes;
        let mut buffer = vec![0; BUFFER_BYTES];
        for index in 0..self.stack.len() {
            let changed = || ContainerError::Changed { layer: index + 1 };
            let mut left = wanted.keys().filter(|file| file.layer == index).count();
            if left == 0 {
                continue;
            }
            self.each(index, &mut budget, read, |record, data| {
                let file = LayerFile {
                    layer: index,
                    number: record.number,
                };
                let Some(at) = wanted.get(&file) else {
                    return Ok(());
                };
                let Kind::File { size } = record.kind else {
                    return Err(Halt::Failed(changed()));
                };
                let mut done = 0;
                while done < size {
                    let length =
                        usize::try_from(size - done).map_or(buffer.len(), |l| l.min(buffer.len()));
                    data.read_exact(&mut buffer[..length]).map_err(|source| {
                        Halt::Failed(ContainerError::Layer {
                            layer: index + 1,
                            entry: Some(record.path.clone()),
                            source,
                        })
                    })?;
                    place(at + done, &buffer[..length])
                        .map_err(|source| Halt::Failed(ContainerError::Write(source)))?;
                    done += length as u64;
                }
                left -= 1;
                Ok(())
            })?;
            if left > 0 {
                return Err(changed());
            }
        }
        Ok(())
    }
}

/// How a layer is compressed, by its first bytes; what its media type says is for registries.
fn compression(index: usize, blob: &Blob) -> Result<Compression, ContainerError> {
    let start = blob.start(6).map_err(|source| ContainerError::Layer {
        layer: index + 1,
        entry: None,
        source,
    })?;
    let unsupported = |problem| {
        Err(ContainerError::Compression {
            layer: index + 1,
            problem,
        })
    };
    match start.as_slice() {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        // A frame, or one to be skipped, which some tools put first.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            unsupported("compressed with xz: use gzip, zstd or none")
        }
        [b'B', b'Z', b'h', ..] => unsupported("compressed with bzip2: use gzip, zstd or none"),
        _ => Ok(Compression::None),
    }
}

/// A layer's archive, decompressed and hashed on its way.
struct Stream {
    archive: Box<dyn Read>,
    archive_hash: Context,
    blob_hash: Option<Rc<RefCell<Context>>>,
    limit: u64,
    meter: Rc<Meter>,
}

#[derive(Default)]
struct Meter {
    bytes: Cell<u64>,
    over: Cell<bool>,
}

impl Stream {
    fn new(layer: &Layer, limit: u64) -> Stream {
        let blob_hash = layer
            .digest
            .as_ref()
            .map(|digest| Rc::new(RefCell::new(Context::new(digest.algorithm))));
        let hashed = Hashed {
            inner: layer.blob.reader(),
            hash: blob_hash.clone(),
        };
        let blob = BufReader::with_capacity(BUFFER_BYTES, hashed);
        let archive: Box<dyn Read> = match layer.compression {
            Compression::None => Box::new(blob),
            Compression::Gzip => Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                MultiGzDecoder::new(blob),
            )),
            Compression::Zstd => Box::new(BufReader::with_capacity(BUFFER_BYTES, Zstd::new(blob))),
        };
        Stream {
            archive,
            archive_hash: Context::new(layer.diff_id.algorithm),
            blob_hash,
            limit,
            meter: Rc::default(),
        }
    }

    /// What follows the archive's end, and the digests.
    fn finish(mut self, layer: &Layer, number: usize) -> Result<(), ContainerError> {
        let mut buffer = [0; 4096];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => {}
                Ok(_) => return Err(ContainerError::TrailingData { layer: number }),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ContainerError::Layer {
                        layer: number,
                        entry: None,
                        source,
                    });
                }
            }
        }
        drop(self.archive);
        if let (Some(hash), Some(digest)) = (self.blob_hash, &layer.digest) {
            let hash = hash.borrow().clone();
            digest.check(&hash.finish())?;
        }
        layer.diff_id.check(&self.archive_hash.finish())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer)?;
        self.archive_hash.update(&buffer[..read]);
        let bytes = self.meter.bytes.get() + read as u64;
        self.meter.bytes.set(bytes);
        if bytes > self.limit {
            self.meter.over.set(true);
            return Err(io::Error::other("more bytes than are allowed"));
        }
        Ok(read)
    }
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hash: Option<Rc<RefCell<Context>>>,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        if let Some(hash) = &self.hash {
            hash.borrow_mut().update(&buffer[..read]);
        }
        Ok(read)
    }
}

/// A refusal of an entry.
pub(super) fn refuse(layer: usize, entry: PathBuf, problem: EntryProblem) -> Halt {
    Halt::Failed(ContainerError::Entry {
        layer: layer + 1,
        entry,
        problem,
    })
}
