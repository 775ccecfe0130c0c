//! Container images made byte by byte, with all that a hostile one may want to choose.

#![allow(dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A tar header and what follows it. Fields that are wrong are wrong because the test says so.
#[derive(Clone)]
pub(crate) struct TarEntry {
    pub(crate) kind: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// None: the data's length.
    pub(crate) size: Option<u64>,
    pub(crate) data: Vec<u8>,
    pub(crate) bad_checksum: bool,
}

impl TarEntry {
    pub(crate) fn new(kind: u8, name: &[u8]) -> TarEntry {
        TarEntry {
            kind,
            name: name.into(),
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: None,
            data: Vec::new(),
            bad_checksum: false,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut header = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, format!("{:07o}", self.mode).as_bytes());
        let id = |id: u64| -> Vec<u8> {
            if id < 1 << 21 {
                format!("{id:07o}").into_bytes()
            } else {
                (0x8000_0000_0000_0000 | id).to_be_bytes().to_vec()
            }
        };
        put(108, &id(self.uid));
        put(116, &id(self.gid));
        let size = self.size.unwrap_or(self.data.len() as u64);
        if size < 1 << 33 {
            put(124, format!("{size:011o}").as_bytes());
        } else {
            put(124, &[0x80, 0, 0, 0]);
            put(128, &size.to_be_bytes());
        }
        put(136, b"14000000000");
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        let sum: u32 =
            header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + u32::from(self.bad_checksum);
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// A record of an extended header: its length in decimal digits, which include themselves.
pub(crate) fn pax(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// A layer's archive under construction.
#[derive(Clone, Default)]
pub(crate) struct Layer {
    pub(crate) archive: Vec<u8>,
}

impl Layer {
    pub(crate) fn raw(mut self, entry: &TarEntry) -> Layer {
        self.archive.extend(entry.bytes());
        self
    }

    pub(crate) fn file(self, name: &str, mode: u32, data: &[u8]) -> Layer {
        self.raw(&TarEntry {
            mode,
            data: data.into(),
            ..TarEntry::new(b'0', name.as_bytes())
        })
    }

    pub(crate) fn folder(self, name: &str) -> Layer {
        self.raw(&TarEntry::new(b'5', name.as_bytes()))
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Layer {
        self.raw(&TarEntry {
            link: target.into(),
            ..TarEntry::new(b'2', name.as_bytes())
        })
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Layer {
        self.raw(&TarEntry {
            link: target.into(),
            ..TarEntry::new(b'1', name.as_bytes())
        })
    }

    pub(crate) fn pax(self, key: &str, value: &[u8]) -> Layer {
        self.raw(&TarEntry {
            data: pax(key, value),
            ..TarEntry::new(b'x', b"pax")
        })
    }

    /// Ends the archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.archive.resize(self.archive.len() + 1024, 0);
        self.archive
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A layer's blob, and its archive's digest.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: String,
    pub(crate) media_type: &'static str,
}

impl Blob {
    pub(crate) fn plain(archive: &[u8]) -> Blob {
        Blob {
            bytes: archive.into(),
            diff_id: format!("sha256:{}", sha256(archive)),
            media_type: "application/vnd.oci.image.layer.v1.tar",
        }
    }

    pub(crate) fn gzip(archive: &[u8]) -> Blob {
        Blob {
            bytes: gzip(archive),
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
            ..Blob::plain(archive)
        }
    }

    pub(crate) fn zstd(archive: &[u8]) -> Blob {
        Blob {
            bytes: zstd(archive),
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
            ..Blob::plain(archive)
        }
    }
}

/// A container image, whose parts tests may change before it is written.
#[derive(Clone)]
pub(crate) struct OciImage {
    pub(crate) execution: Value,
    pub(crate) layers: Vec<Blob>,
    pub(crate) architecture: &'static str,
    pub(crate) name: Option<&'static str>,
}

impl OciImage {
    /// An image that runs `/job`.
    pub(crate) fn new(layers: Vec<Blob>) -> OciImage {
        OciImage {
            execution: json!({ "Entrypoint": ["/job"] }),
            layers,
            architecture: "amd64",
            name: Some("latest"),
        }
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        serde_json::to_vec(&json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.execution,
            "rootfs": {
                "type": "layers",
                "diff_ids": self.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>(),
            },
        }))
        .unwrap()
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        let config = self.config();
        serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": self.layers.iter().map(|layer| descriptor(layer.media_type, &layer.bytes)).collect::<Vec<_>>(),
        }))
        .unwrap()
    }

    /// The files of an image layout.
    pub(crate) fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let manifest = self.manifest();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        if let Some(name) = self.name {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        let mut files = vec![
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
            blob(&manifest),
            blob(&self.config()),
        ];
        files.extend(self.layers.iter().map(|layer| blob(&layer.bytes)));
        files
    }

    /// The files of a `docker save` archive.
    pub(crate) fn saved(&self) -> Vec<(String, Vec<u8>)> {
        let config = self.config();
        let names: Vec<String> = self
            .layers
            .iter()
            .map(|layer| format!("{}/layer.tar", sha256(&layer.bytes)))
            .collect();
        let config_name = format!("{}.json", sha256(&config));
        let list = json!([{ "Config": config_name, "RepoTags": ["team/job:v1"], "Layers": names }]);
        let mut files = vec![
            (config_name, config),
            (
                "manifest.json".to_owned(),
                serde_json::to_vec(&list).unwrap(),
            ),
        ];
        for (name, layer) in names.into_iter().zip(&self.layers) {
            if !files.iter().any(|(earlier, _)| *earlier == name) {
                files.push((name, layer.bytes.clone()));
            }
        }
        files
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", sha256(bytes)),
        "size": bytes.len(),
    })
}

pub(crate) fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", sha256(bytes)), bytes.into())
}

pub(crate) fn write_folder(dir: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir.to_owned()
}

pub(crate) fn write_archive(file: &Path, files: &[(String, Vec<u8>)]) -> PathBuf {
    let mut archive = Layer::default();
    for (name, bytes) in files {
        archive = archive.file(name, 0o644, bytes);
    }
    fs::write(file, archive.end()).unwrap();
    file.to_owned()
}
