//! The bytes of an image, read by offset, from a file or from memory. Reads by several threads do not disturb each
//! other. Nothing is interpreted here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// Where an image's bytes are.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    File { file: Arc<File>, bytes: u64 },
    Memory(Arc<[u8]>),
}

impl Storage {
    /// A file of the building machine.
    pub(crate) fn open(path: &Path) -> io::Result<Storage> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Storage::File {
            file: Arc::new(file),
            bytes,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Storage::File { bytes, .. } => *bytes,
            Storage::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Fills the buffer from the offset on, or fails with `UnexpectedEof`.
    pub(crate) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Storage::File { file, bytes } => {
                // Offsets come from files; beyond 2^63 the system would call them invalid arguments.
                if offset
                    .checked_add(buffer.len() as u64)
                    .is_none_or(|end| end > *bytes)
                {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.read_exact_at(buffer, offset)
            }
            Storage::Memory(bytes) => {
                let source = usize::try_from(offset)
                    .ok()
                    .and_then(|start| bytes.get(start..start.checked_add(buffer.len())?))
                    .ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(source);
                Ok(())
            }
        }
    }

    /// A small range as a whole. The caller has bounded `size`.
    pub(crate) fn read(&self, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        if offset.checked_add(size).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let size = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; size];
        self.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// A range in pieces of at most `chunk` bytes.
    pub(crate) fn each_chunk(
        &self,
        offset: u64,
        size: u64,
        chunk: usize,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        let mut buffer = vec![0; usize::try_from(size).map_or(chunk, |size| size.min(chunk))];
        let mut done = 0;
        while done < size {
            let length =
                usize::try_from(size - done).map_or(buffer.len(), |left| left.min(buffer.len()));
            let piece = &mut buffer[..length];
            self.read_exact_at(piece, offset + done)?;
            take(piece);
            done += length as u64;
        }
        Ok(())
    }
}

/// A range of the storage as a stream that can skip without reading.
#[derive(Debug, Clone)]
pub(crate) struct RangeReader {
    storage: Storage,
    at: u64,
    end: u64,
}

impl RangeReader {
    pub(crate) fn new(storage: Storage, offset: u64, size: u64) -> RangeReader {
        RangeReader {
            storage,
            at: offset,
            end: offset + size,
        }
    }

    /// Moves on by `count` bytes; beyond the end is `UnexpectedEof`.
    pub(crate) fn skip(&mut self, count: u64) -> io::Result<()> {
        if count > self.end - self.at {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count;
        Ok(())
    }
}

impl io::Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end - self.at;
        let length = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.storage.read_exact_at(&mut buffer[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}
