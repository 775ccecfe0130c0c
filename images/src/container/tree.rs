//! Layers put one upon the other, as container runtimes do it (OCI Image Format 1.1, layer.md): later entries replace
//! earlier ones, whiteouts remove what lower layers brought, hard links share a file.
//!
//! The tree is in memory only, and holds names and not contents. Where a runtime would follow a link that the same
//! layer has made, this refuses: no tool writes that, and attackers do.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::error::{ContainerError, EntryProblem};
use super::layers::{LayerFile, Layers, refuse};
use super::records::{Kind, Record};
use crate::contents::{Contents, Place, place};
use crate::cpio::Attributes;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

/// Reads all layers, puts them together, and gives what is there in the end.
pub(super) fn contents(
    layers: Layers,
    read: &mut dyn FnMut(u64),
) -> Result<Contents, ContainerError> {
    let limits = layers.limits();
    let mut tree = Tree::default();
    let mut budget = limits.bytes;
    let mut entries = 0;
    for layer in 0..layers.len() {
        layers.each(layer, &mut budget, read, |record, _| {
            entries += 1;
            let name = record.path.clone();
            if entries > limits.entries {
                let problem = EntryProblem::TooManyEntries(limits.entries);
                return Err(refuse(layer, name, problem));
            }
            if let Some(attribute) = &record.extended
                && !layers.drop_attributes
            {
                let problem = EntryProblem::Attribute(attribute.clone());
                return Err(refuse(layer, name, problem));
            }
            tree.apply(layer, record)
                .map_err(|problem| refuse(layer, name, problem))
        })?;
    }
    tree.into_contents(layers)
}

#[derive(Debug, Default)]
struct Tree {
    /// By path below the root. What is inside a folder stands from `folder/` on, before `folder0`.
    nodes: BTreeMap<OsString, Node>,
    /// Files, which may have several names.
    files: Vec<File>,
}

#[derive(Debug, Clone)]
struct Node {
    layer: usize,
    kind: NodeKind,
}

#[derive(Debug, Clone)]
enum NodeKind {
    /// Attributes; none where no entry names the folder, only what is in it.
    Directory(Option<Attributes>),
    Symlink {
        target: PathBuf,
        uid: u32,
        gid: u32,
    },
    File(usize),
}

#[derive(Debug, Clone, Copy)]
struct File {
    from: LayerFile,
    size: u64,
    attributes: Attributes,
}

impl Tree {
    fn apply(&mut self, layer: usize, record: Record) -> Result<(), EntryProblem> {
        let Record {
            number,
            path,
            kind,
            attributes,
            ..
        } = record;
        let Some(name) = path.file_name() else {
            // The root itself, which every enclave has.
            return Ok(());
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent
            .iter()
            .any(|part| part.as_bytes().starts_with(WHITEOUT))
        {
            return Err(EntryProblem::Whiteout);
        }
        if name.as_bytes().starts_with(WHITEOUT) {
            if kind != (Kind::File { size: 0 }) {
                return Err(EntryProblem::Whiteout);
            }
            return self.white_out(layer, parent, name.as_bytes());
        }
        let parent = self.folder(layer, parent)?;
        self.make(layer, &parent);
        let path = parent.join(name);
        let kind = match kind {
            Kind::Directory => NodeKind::Directory(Some(attributes)),
            Kind::Symlink { target } => NodeKind::Symlink {
                target,
                uid: attributes.uid,
                gid: attributes.gid,
            },
            Kind::File { size } => {
                self.files.push(File {
                    from: LayerFile { layer, number },
                    size,
                    attributes,
                });
                NodeKind::File(self.files.len() - 1)
            }
            Kind::HardLink { target } => self.linked(layer, &target)?,
        };
        self.put(layer, path, kind)
    }

    fn put(&mut self, layer: usize, path: PathBuf, kind: NodeKind) -> Result<(), EntryProblem> {
        if let Some(before) = self.nodes.get(path.as_os_str()) {
            let same_layer = before.layer == layer;
            match (&before.kind, &kind) {
                // Its contents stay.
                (NodeKind::Directory(made), NodeKind::Directory(new))
                    if !same_layer || made.is_none() || made == new => {}
                _ if same_layer => return Err(EntryProblem::Twice),
                (NodeKind::Directory(_), _) => {
                    // Something of this layer lies inside: the same name as a folder and as something else.
                    if self.range(&path).any(|(_, node)| node.layer == layer) {
                        return Err(EntryProblem::Twice);
                    }
                    self.remove_inside(&path, usize::MAX);
                }
                _ => {}
            }
        }
        self.nodes.insert(path.into(), Node { layer, kind });
        Ok(())
    }

    /// What a hard link becomes.
    fn linked(&self, layer: usize, target: &Path) -> Result<NodeKind, EntryProblem> {
        let nothing = || EntryProblem::LinkToNothing(target.into());
        let name = target.file_name().ok_or_else(nothing)?;
        let parent = self.folder(layer, target.parent().unwrap_or(Path::new("")))?;
        let node = self
            .nodes
            .get(parent.join(name).as_os_str())
            .ok_or_else(nothing)?;
        match &node.kind {
            NodeKind::Directory(_) => Err(EntryProblem::LinkToFolder(target.into())),
            other => Ok(other.clone()),
        }
    }

    /// The folder that a path leads to: links of lower layers are followed inside the root, those of this layer are
    /// refused.
    fn folder(&self, layer: usize, path: &Path) -> Result<PathBuf, EntryProblem> {
        let mut links = 0;
        let mut reached = PathBuf::new();
        let mut ahead: Vec<OsString> = parts(path);
        while let Some(part) = ahead.pop() {
            if part == ".." {
                reached.pop();
                continue;
            }
            reached.push(&part);
            match self.nodes.get(reached.as_os_str()) {
                None => {}
                Some(node) => match &node.kind {
                    NodeKind::Directory(_) => {}
                    NodeKind::File(_) => return Err(EntryProblem::InsideNoFolder(reached)),
                    NodeKind::Symlink { target, .. } => {
                        links += 1;
                        if node.layer == layer || links > MAX_LINKS {
                            return Err(EntryProblem::ThroughLink(reached));
                        }
                        reached.pop();
                        if target.is_absolute() {
                            reached.clear();
                        }
                        ahead.extend(parts(target));
                    }
                },
            }
        }
        Ok(reached)
    }

    /// Makes a folder and its parents where there are none.
    fn make(&mut self, layer: usize, folder: &Path) {
        for folder in folder.ancestors() {
            if folder.as_os_str().is_empty() || self.nodes.contains_key(folder.as_os_str()) {
                return;
            }
            let node = Node {
                layer,
                kind: NodeKind::Directory(None),
            };
            self.nodes.insert(folder.into(), node);
        }
    }

    fn white_out(&mut self, layer: usize, parent: &Path, name: &[u8]) -> Result<(), EntryProblem> {
        let parent = self.folder(layer, parent)?;
        if name == OPAQUE {
            self.remove_inside(&parent, layer);
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        // What begins so is of another file system's own making.
        if matches!(hidden, b"" | b"." | b"..") || hidden.starts_with(WHITEOUT) {
            return Err(EntryProblem::Whiteout);
        }
        let path = parent.join(OsStr::from_bytes(hidden));
        self.remove_inside(&path, layer);
        let remains = self.range(&path).next().is_some();
        if let Some(node) = self.nodes.get_mut(path.as_os_str())
            && node.layer < layer
        {
            if remains {
                // This layer has made the folder anew, without naming it.
                *node = Node {
                    layer,
                    kind: NodeKind::Directory(None),
                };
            } else {
                self.nodes.remove(path.as_os_str());
            }
        }
        Ok(())
    }

    /// Removes what layers below this one have put into a folder.
    fn remove_inside(&mut self, folder: &Path, layer: usize) {
        let lower: Vec<OsString> = self
            .range(folder)
            .filter(|(_, node)| node.layer < layer)
            .map(|(path, _)| path.clone())
            .collect();
        for path in lower {
            let remains = layer != usize::MAX
                && self
                    .range(Path::new(&path))
                    .any(|(_, node)| node.layer >= layer);
            if remains {
                let node = Node {
                    layer,
                    kind: NodeKind::Directory(None),
                };
                self.nodes.insert(path, node);
            } else {
                self.nodes.remove(&path);
            }
        }
    }

    fn range(&self, folder: &Path) -> impl Iterator<Item = (&OsString, &Node)> {
        let (from, to) = if folder.as_os_str().is_empty() {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            let mut from = folder.as_os_str().to_owned();
            let mut to = from.clone();
            from.push("/");
            // The character after the slash.
            to.push("0");
            (Bound::Included(from), Bound::Excluded(to))
        };
        self.nodes.range::<OsString, _>((from, to))
    }

    fn into_contents(self, layers: Layers) -> Result<Contents, ContainerError> {
        let mut contents = Contents::of_layers(layers);
        let mut made = vec![None; self.files.len()];
        for (path, node) in self.nodes {
            let path = PathBuf::from(path);
            let folder = matches!(node.kind, NodeKind::Directory(_));
            match place(&path, folder) {
                Place::Free => {}
                // The enclave's own folder is there, and what it mounts hides what would be inside, as in containers.
                Place::Made | Place::Hidden => continue,
                Place::Reserved => {
                    return Err(ContainerError::Entry {
                        layer: node.layer + 1,
                        entry: path,
                        problem: EntryProblem::Reserved,
                    });
                }
            }
            match node.kind {
                NodeKind::Directory(attributes) => {
                    contents.folder_at(&path, attributes.unwrap_or(crate::contents::FOLDER));
                }
                NodeKind::Symlink { target, uid, gid } => {
                    contents.symlink_at(&path, target, uid, gid);
                }
                NodeKind::File(file) => match made[file] {
                    Some(id) => contents.link(&path, id),
                    None => {
                        let File {
                            from,
                            size,
                            attributes,
                        } = self.files[file];
                        made[file] = Some(contents.layer_file(&path, from, size, attributes));
                    }
                },
            }
        }
        Ok(contents)
    }
}

/// A path's parts in reverse order.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}
