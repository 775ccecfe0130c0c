//! The enclave's root file system: what the ramdisks hold, unpacked into memory as a kernel unpacks its initramfs.
//!
//! Entries are prepared before the clone and written after it, by the new process, inside its new root: an image's symbolic
//! links can lead nowhere else. It must never be filled from outside.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Gid, LinkatFlags, Uid, UnlinkatFlags};

/// What one entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A regular file with these bytes.
    File(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(CString),
    /// Another name of a file that came earlier.
    HardLink(CString),
}

/// One entry of the root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: CString,
    mode: u32,
    uid: u32,
    gid: u32,
    content: Content,
}

/// A path or a target that no file system can hold.
#[derive(Debug, thiserror::Error)]
#[error("the image holds a path with a zero byte in it: {0:?}")]
pub struct ZeroByte(pub(crate) String);

impl Entry {
    /// An entry at `path` (from the root; leading slashes do not matter) with these permission bits, owned by `uid` and `gid`
    /// as the enclave numbers them.
    pub fn new(
        path: &[u8],
        mode: u32,
        uid: u32,
        gid: u32,
        content: Content,
    ) -> Result<Entry, ZeroByte> {
        let path = relative(path);
        Ok(Entry {
            path: CString::new(path)
                .map_err(|_| ZeroByte(String::from_utf8_lossy(path).into_owned()))?,
            mode: mode & 0o7777,
            uid,
            gid,
            content,
        })
    }

    /// The path, relative to the root.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// Whether it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.content == Content::Directory
    }

    /// The entry as it is seen by who has `folder` as the root; `None` where it lies outside.
    pub(crate) fn below(self, folder: &[u8]) -> Option<Entry> {
        let path = path_below(self.path.to_bytes(), folder)?;
        let content = match self.content {
            Content::HardLink(target) => {
                Content::HardLink(path_below(relative(target.to_bytes()), folder)?)
            }
            content => content,
        };
        Some(Entry {
            path,
            content,
            ..self
        })
    }

    /// The bytes, if it is a file.
    pub fn file(&self) -> Option<&[u8]> {
        match &self.content {
            Content::File(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// A path from the root without what it begins with; never empty.
fn relative(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"/").or_else(|| path.strip_prefix(b"./")) {
        path = rest;
    }
    if path.is_empty() { b"." } else { path }
}

fn path_below(path: &[u8], folder: &[u8]) -> Option<CString> {
    let rest = path.strip_prefix(folder)?;
    if !rest.is_empty() && !rest.starts_with(b"/") {
        return None;
    }
    CString::new(relative(rest)).ok()
}

/// *child* Writes the entries into the current directory, in order; later ones replace earlier ones. What a kernel passes over
/// in silence (an entry whose directory does not exist) is passed over here too, so that an image behaves the same on every
/// backend. `owners`: whether the namespace has all ids, so that owners can be set.
///
/// An error names the entry by its index. `ENOSPC`: the image does not fit into the enclave's memory.
pub(crate) fn fill(entries: &[Entry], owners: bool) -> Result<(), (usize, Errno)> {
    for (index, entry) in entries.iter().enumerate() {
        match write_entry(entry, owners) {
            Ok(())
            | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EEXIST | Errno::EISDIR | Errno::ELOOP) => {
            }
            Err(errno) => return Err((index, errno)),
        }
    }
    Ok(())
}

fn write_entry(entry: &Entry, owners: bool) -> Result<(), Errno> {
    let path = entry.path.as_c_str();
    let mode = Mode::from_bits_truncate(entry.mode);
    match &entry.content {
        Content::Directory => {
            clear_way(path, SFlag::S_IFDIR)?;
            match nix::unistd::mkdir(path, mode) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            let directory = nix::fcntl::open(
                path,
                OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            own(&directory, entry, owners)?;
            nix::sys::stat::fchmod(&directory, mode)
        }
        Content::File(bytes) => {
            clear_way(path, SFlag::S_IFREG)?;
            let file = nix::fcntl::open(
                path,
                OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC,
                mode,
            )?;
            own(&file, entry, owners)?;
            nix::sys::stat::fchmod(&file, mode)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let written = nix::unistd::write(&file, rest)?;
                rest = rest.get(written..).unwrap_or_default();
            }
            Ok(())
        }
        Content::Symlink(target) => {
            clear_way(path, SFlag::empty())?;
            nix::unistd::symlinkat(target.as_c_str(), AT_FDCWD, path)?;
            if owners {
                nix::unistd::fchownat(
                    AT_FDCWD,
                    path,
                    Some(Uid::from_raw(entry.uid)),
                    Some(Gid::from_raw(entry.gid)),
                    AtFlags::AT_SYMLINK_NOFOLLOW,
                )?;
            }
            Ok(())
        }
        Content::HardLink(target) => {
            clear_way(path, SFlag::empty())?;
            nix::unistd::linkat(
                AT_FDCWD,
                target.as_c_str(),
                AT_FDCWD,
                path,
                LinkatFlags::empty(),
            )
        }
    }
}

/// Removes what stands at `path` unless it is of this kind already.
fn clear_way(path: &CStr, kind: SFlag) -> Result<(), Errno> {
    let Ok(status) = nix::sys::stat::lstat(path) else {
        return Ok(());
    };
    let present = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    if present == kind {
        return Ok(());
    }
    let how = if present == SFlag::S_IFDIR {
        UnlinkatFlags::RemoveDir
    } else {
        UnlinkatFlags::NoRemoveDir
    };
    match nix::unistd::unlinkat(AT_FDCWD, path, how) {
        // A directory that is not empty stays, and what should replace it is passed over.
        Err(Errno::ENOTEMPTY) => Err(Errno::EEXIST),
        other => other,
    }
}

fn own(file: impl AsFd, entry: &Entry, owners: bool) -> Result<(), Errno> {
    if owners && (entry.uid, entry.gid) != (0, 0) {
        nix::unistd::fchown(
            file,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn entry(path: &str, content: Content) -> Entry {
        Entry::new(path.as_bytes(), 0o640, 0, 0, content).unwrap()
    }

    #[test]
    fn paths_become_relative_and_zero_bytes_are_refused() {
        let path = |path: &[u8]| {
            Entry::new(path, 0, 0, 0, Content::Directory)
                .map(|entry| entry.path.into_bytes())
                .map_err(drop)
        };
        assert_eq!(path(b"/init"), Ok(b"init".to_vec()));
        assert_eq!(path(b"./a/b"), Ok(b"a/b".to_vec()));
        assert_eq!(path(b"//./"), Ok(b".".to_vec()));
        assert_eq!(path(b"a\0b"), Err(()));
    }

    #[test]
    fn a_folder_can_become_the_root_and_nothing_else_is_seen_from_there() {
        let below = |path: &str, content| {
            entry(path, content)
                .below(b"rootfs")
                .map(|entry| (entry.path.into_string().unwrap(), entry.content))
        };
        let directory = Content::Directory;
        assert_eq!(
            below("/rootfs", directory.clone()),
            Some((".".to_owned(), directory.clone()))
        );
        assert_eq!(
            below("./rootfs//bin/sh", directory.clone()),
            Some(("bin/sh".to_owned(), directory.clone()))
        );
        for outside in ["init", "rootfs2/x", "cmd", "."] {
            assert_eq!(below(outside, directory.clone()), None, "{outside}");
        }
        let link = |target: &str| Content::HardLink(CString::new(target).unwrap());
        assert_eq!(
            below("rootfs/a", link("/rootfs/b")),
            Some(("a".to_owned(), link("b")))
        );
        assert_eq!(below("rootfs/a", link("init")), None);
        // A symbolic link is followed later, by who has that root.
        let symlink = Content::Symlink(c"/rootfs/b".into());
        assert_eq!(
            below("rootfs/a", symlink.clone()),
            Some(("a".to_owned(), symlink))
        );
    }

    // The working directory belongs to the whole process, so that this is one test.
    #[test]
    fn later_entries_replace_earlier_ones_and_orphans_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let before = std::env::current_dir().unwrap();
        std::env::set_current_dir(folder.path()).unwrap();
        let done = fill(
            &[
                entry("/file", Content::File(b"first and longer".to_vec())),
                entry("/link", Content::Symlink(c"file".into())),
                entry("/dir", Content::Directory),
                entry("/file", Content::File(b"second".to_vec())),
                entry("/link", Content::File(b"no longer a link".to_vec())),
                entry("/missing/child", Content::File(b"orphan".to_vec())),
                entry("/hard", Content::HardLink(c"file".into())),
                entry("/dir", Content::Symlink(c"file".into())),
            ],
            false,
        );
        std::env::set_current_dir(before).unwrap();
        assert_eq!(done, Ok(()));
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("file"), b"second");
        assert_eq!(read("link"), b"no longer a link");
        assert_eq!(read("hard"), b"second");
        assert_eq!(read("dir"), b"second");
        assert!(!folder.path().join("missing").exists());
        let mode = std::fs::metadata(folder.path().join("file"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o640);
    }
}
