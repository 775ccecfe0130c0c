//! Writes down every byte that the parent carries, so that anyone can search what the parent saw.
//!
//! One file per connection and direction, in the order in which the bytes passed. Recording fails closed: where a byte
//! cannot be written down, it is not carried. The files hold what the parent holds (the host's own credentials among
//! it), so they are readable by their owner alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A folder of recordings. Clones write to the same folder.
#[derive(Debug, Clone)]
pub struct Recorder {
    folder: Arc<PathBuf>,
    next: Arc<AtomicU64>,
}

impl Recorder {
    /// Records into `folder`, which is made (mode 0700) where it is missing. Several processes may record into one.
    pub fn create(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Ok(Self {
            folder: Arc::new(folder.canonicalize()?),
            next: Arc::new(AtomicU64::new(1)),
        })
    }

    /// The folder that is recorded into.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Opens `<what>-<process>-<number>-from-enclave` and `…-to-enclave`.
    fn start(&self, what: &str) -> io::Result<Recording> {
        let process = std::process::id();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let open = |direction: &str| {
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(
                        self.folder
                            .join(format!("{what}-{process}-{number:06}-{direction}")),
                    )
            };
            // A process of an earlier time may have had this number.
            match open("from-enclave") {
                Ok(from_enclave) => {
                    return Ok(Recording {
                        from_enclave,
                        to_enclave: open("to-enclave")?,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Recording {
    from_enclave: File,
    to_enclave: File,
}

fn cannot_record(error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("the bytes cannot be recorded, so they are not carried: {error}"),
    )
}

/// A stream to the enclave, with its bytes recorded where there is a recorder.
pub struct Carried<S> {
    stream: S,
    recording: Option<Recording>,
}

impl<S> Carried<S> {
    /// Wraps a stream whose other end is the enclave. `what` begins the recordings' names.
    pub fn new(stream: S, recorder: Option<&Recorder>, what: &str) -> io::Result<Self> {
        let recording = recorder
            .map(|recorder| recorder.start(what))
            .transpose()
            .map_err(|error| cannot_record(&error))?;
        Ok(Self { stream, recording })
    }
}

impl<S> Carried<S> {
    /// The stream itself, where nothing is to be recorded.
    pub(super) fn unrecorded(self) -> Result<S, Self> {
        match self.recording {
            None => Ok(self.stream),
            Some(_) => Err(self),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Carried<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(recording) = &mut self.recording {
            recording
                .from_enclave
                .write_all(&buffer.filled()[before..])
                .map_err(|error| cannot_record(&error))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Carried<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        if let Some(recording) = &mut self.recording {
            recording
                .to_enclave
                .write_all(&bytes[..written])
                .map_err(|error| cannot_record(&error))?;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        if let Some(recording) = &mut self.recording {
            let mut left = written;
            for slice in slices {
                let part = &slice[..left.min(slice.len())];
                recording
                    .to_enclave
                    .write_all(part)
                    .map_err(|error| cannot_record(&error))?;
                left -= part.len();
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn both_directions_are_written_down_for_the_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&dir.path().join("seen")).unwrap();
        for round in 1..=2 {
            let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
            let mut near = Carried::new(near, Some(&recorder), "window").unwrap();
            far.write_all(b"question").await.unwrap();
            let mut bytes = [0; 8];
            near.read_exact(&mut bytes).await.unwrap();
            let slices = [IoSlice::new(b"an"), IoSlice::new(b"swer")];
            assert_eq!(near.write_vectored(&slices).await.unwrap(), 6);
            near.write_all(b"!").await.unwrap();

            let name = format!("window-{}-{round:06}", std::process::id());
            let from = recorder.folder().join(format!("{name}-from-enclave"));
            let to = recorder.folder().join(format!("{name}-to-enclave"));
            assert_eq!(std::fs::read(&from).unwrap(), b"question");
            assert_eq!(std::fs::read(&to).unwrap(), b"answer!");
            assert_eq!(
                std::fs::metadata(&to).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let mode = std::fs::metadata(recorder.folder())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[tokio::test]
    async fn what_cannot_be_recorded_is_not_carried() {
        let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
        let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut near = Carried {
            stream: near,
            recording: Some(Recording {
                from_enclave: full(),
                to_enclave: full(),
            }),
        };
        far.write_all(b"question").await.unwrap();
        let error = near.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("cannot be recorded"), "{error}");
    }
}
