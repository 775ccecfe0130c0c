//! What the enclave prints, kept on the host: raw in a file, and with times in a [ring](crate::lifecycle::RingReader) beside it.
//! Both are bounded: a flood costs the enclave its own output, the last of it in the file, the first of it in the ring.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;

use crate::lifecycle::Ring;

/// The most that is kept.
pub(crate) const MOST: u64 = 16 << 20;
/// What is read at once.
const TURN: usize = 64 * 1024;

pub(crate) struct Console {
    pipe: OwnedFd,
    file: File,
    ring: Ring,
    room: u64,
    buffer: Vec<u8>,
    heard: usize,
}

/// What a turn of reading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Something,
    NothingNow,
    /// Nobody can write any more.
    End,
}

impl Console {
    /// Keeps what comes out of `pipe` (which must not block) in a new file at `path`, readable by its owner alone.
    pub(crate) fn new(pipe: OwnedFd, path: &Path) -> std::io::Result<Console> {
        let _ = std::fs::remove_file(path);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Console {
            pipe,
            file,
            ring: Ring::new(path.parent().unwrap_or(Path::new("/"))),
            room: MOST,
            buffer: vec![0; TURN],
            heard: 0,
        })
    }

    pub(crate) fn pipe(&self) -> &OwnedFd {
        &self.pipe
    }

    /// What the last [`Heard::Something`] was, whether it was kept or not.
    pub(crate) fn heard(&self) -> &[u8] {
        self.buffer.get(..self.heard).unwrap_or_default()
    }

    /// Takes what there is, up to a bound. Errors of the file are the same as a full one: the enclave goes on.
    pub(crate) fn listen(&mut self) -> Heard {
        self.heard = 0;
        let count = match nix::unistd::read(&self.pipe, &mut self.buffer) {
            Ok(0) => {
                self.ring.end();
                return Heard::End;
            }
            Ok(count) => count,
            Err(Errno::EINTR) => return Heard::Something,
            Err(Errno::EAGAIN) => return Heard::NothingNow,
            Err(_) => return Heard::End,
        };
        self.heard = count;
        self.ring.keep(self.buffer.get(..count).unwrap_or_default());
        if self.room > 0 {
            let kept = (count as u64).min(self.room) as usize;
            let bytes = self.buffer.get(..kept).unwrap_or_default();
            let written = self.file.write_all(bytes);
            self.room -= kept as u64;
            if self.room == 0 || written.is_err() {
                self.room = 0;
                let note = format!(
                    "\n[the console keeps {} MiB; the rest is dropped]\n",
                    MOST >> 20
                );
                let _ = self.file.write_all(note.as_bytes());
            }
        }
        Heard::Something
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::OFlag;

    #[test]
    fn a_flood_is_cut_with_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).unwrap();
        let mut console = Console::new(read, &path).unwrap();
        let line = [b'x'; 4096];
        let mut sent = 0u64;
        while sent < MOST + (1 << 20) {
            match nix::unistd::write(&write, &line) {
                Ok(count) => sent += count as u64,
                Err(_) => while console.listen() == Heard::Something {},
            }
        }
        drop(write);
        while console.listen() != Heard::End {}
        let kept = std::fs::read(&path).unwrap();
        assert!(kept.len() as u64 > MOST && (kept.len() as u64) < MOST + 200);
        assert!(kept.ends_with(b"the rest is dropped]\n"));
    }
}
