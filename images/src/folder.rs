//! A folder of the building machine as the application's root.
//!
//! Owners and all of a mode but "may it be executed" are left behind: they say who keeps the folder, not what is in it.
//! Nothing outside the folder is read, and no link is followed.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::contents::{Contents, EXECUTABLE, FILE, FOLDER, FolderError, Place, place};

/// Gathers a folder.
pub(crate) fn contents(root: &Path) -> Result<Contents, FolderError> {
    let read = |path: &Path, source| FolderError::Read {
        path: path.into(),
        source,
    };
    if !fs::metadata(root)
        .map_err(|source| read(root, source))?
        .is_dir()
    {
        return Err(FolderError::NoFolder { path: root.into() });
    }
    let mut contents = Contents::default();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        let on_host = root.join(&folder);
        for entry in fs::read_dir(&on_host).map_err(|source| read(&on_host, source))? {
            let entry = entry.map_err(|source| read(&on_host, source))?;
            let path = folder.join(entry.file_name());
            let on_host = entry.path();
            let metadata = entry.metadata().map_err(|source| read(&on_host, source))?;
            let kind = metadata.file_type();
            if let Some(kind) = special(kind) {
                return Err(FolderError::Special {
                    path: on_host,
                    kind,
                });
            }
            match place(&path, kind.is_dir()) {
                Place::Free => {}
                Place::Made => {
                    pending.push(path);
                    continue;
                }
                Place::Hidden | Place::Reserved => {
                    return Err(FolderError::Reserved {
                        path: Path::new("/").join(path),
                    });
                }
            }
            if kind.is_dir() {
                contents.folder_at(&path, FOLDER);
                pending.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&on_host).map_err(|source| read(&on_host, source))?;
                contents.symlink_at(&path, target, 0, 0);
            } else {
                let executable = metadata.permissions().mode() & 0o111 != 0;
                let attributes = if executable { EXECUTABLE } else { FILE };
                contents.file_from(&path, &on_host, metadata.len(), attributes);
            }
        }
    }
    Ok(contents)
}

fn special(kind: fs::FileType) -> Option<&'static str> {
    if kind.is_char_device() {
        Some("character device")
    } else if kind.is_block_device() {
        Some("block device")
    } else if kind.is_fifo() {
        Some("named pipe")
    } else if kind.is_socket() {
        Some("socket")
    } else {
        None
    }
}
