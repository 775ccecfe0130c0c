//! Reading from and writing to files or the standard streams, so that a file
//! appears under its name only when it is whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{self, Poll};

use anchorhold_images::Ramdisk;
use anyhow::Context as _;

/// Where input comes from: a file, or `-` for standard input.
pub(crate) fn input(path: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Box::new(file))
}

/// Reads all of `path` (`-`: standard input), refusing more than `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    anyhow::ensure!(
        bytes.len() as u64 <= limit,
        "{} is larger than {limit} bytes",
        path.display()
    );
    Ok(bytes)
}

/// A small text file of an image, found without reading all of its ramdisks.
pub(crate) fn file_in(ramdisks: &[Ramdisk], path: &str) -> anyhow::Result<Option<String>> {
    const LARGEST: u64 = 1 << 20;
    // Entries of a ramdisk are in order, and the application's is the last one.
    for ramdisk in ramdisks.iter().rev() {
        let mut entries = ramdisk.entries(anchorhold_images::Limits::default())?;
        while let Some(entry) = entries.next_entry()? {
            if Path::new("/").join(&entry.path) != Path::new(path) {
                continue;
            }
            let mut text = String::new();
            (&mut entries).take(LARGEST).read_to_string(&mut text)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// Output that becomes visible under its name only by [`Output::commit`]; what
/// is dropped without it leaves no file behind. Standard output cannot take
/// back what it wrote: there, the exit code tells.
pub(crate) enum Output {
    Standard(io::Stdout),
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
        committed: bool,
    },
}

impl Output {
    /// `-` is standard output. Files are created readable by their owner only.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;

        if path == Path::new("-") {
            return Ok(Self::Standard(io::stdout()));
        }
        let name = path
            .file_name()
            .with_context(|| format!("{} is not the name of a file", path.display()))?;
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(name);
        temporary_name.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(temporary_name);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .with_context(|| format!("cannot write beside {}", path.display()))?;
        Ok(Self::File {
            file,
            temporary,
            path: path.to_owned(),
            committed: false,
        })
    }

    /// Gives the output its name.
    pub(crate) fn commit(mut self) -> anyhow::Result<()> {
        self.flush()
            .context("the output could not be written out")?;
        if let Self::File {
            file,
            temporary,
            path,
            committed,
        } = &mut self
        {
            file.sync_all()
                .with_context(|| format!("cannot write {}", path.display()))?;
            std::fs::rename(&*temporary, &*path)
                .with_context(|| format!("cannot give {} its name", path.display()))?;
            *committed = true;
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(stdout) => stdout.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(stdout) => stdout.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File {
            temporary,
            committed: false,
            ..
        } = self
        {
            // Nothing more can be done about a file that will not go away.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// A blocking writer where an asynchronous one is wanted, for a program that
/// has nothing else to do while it writes.
pub(crate) struct BlockingWriter<W>(pub(crate) W);

impl<W: Write + Unpin> tokio::io::AsyncWrite for BlockingWriter<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.flush())
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
