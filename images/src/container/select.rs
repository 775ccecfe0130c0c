//! Which of the images in a layout or archive is meant, and which blobs it consists of.
//!
//! Shapes: OCI Image Format 1.1 (image-layout.md, image-index.md, manifest.md), and `manifest.json` of `docker save`.
//! Whatever names a blob by a digest gets that blob or an error.

use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::config::Config;
use super::error::ContainerError;
use super::shown;
use super::store::{Blob, Store};
use crate::eif::Architecture;

/// Manifests have a few KiB; registries take up to 4 MiB.
const MAX_JSON_BYTES: u64 = 4 << 20;
const MAX_NESTING: usize = 4;
const REFERENCE: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The image that was chosen.
pub(super) struct Selected {
    pub(super) name: Option<String>,
    pub(super) config: Config,
    pub(super) layers: Vec<LayerBlob>,
}

/// A layer as the manifest names it.
pub(super) struct LayerBlob {
    pub(super) blob: Blob,
    /// Of the blob as it is; none in archives that name layers otherwise.
    pub(super) digest: Option<Digest>,
    /// Of the archive after decompression.
    pub(super) diff_id: Digest,
}

/// `sha256:…` or `sha512:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    pub(super) algorithm: &'static digest::Algorithm,
    hex: String,
}

impl Digest {
    fn parse(text: &str) -> Result<Digest, ContainerError> {
        let refuse = || ContainerError::UnknownDigest {
            digest: text.to_owned(),
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(refuse)?;
        let (algorithm, digits): (&'static digest::Algorithm, usize) = match algorithm {
            "sha256" => (&digest::SHA256, 64),
            "sha512" => (&digest::SHA512, 128),
            _ => return Err(refuse()),
        };
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != digits || !hex.bytes().all(plain) {
            return Err(refuse());
        }
        Ok(Digest {
            algorithm,
            hex: hex.to_owned(),
        })
    }

    /// SHA-256 of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Digest {
        Digest {
            algorithm: &digest::SHA256,
            hex: hex::encode(digest::digest(&digest::SHA256, bytes).as_ref()),
        }
    }

    fn path(&self) -> PathBuf {
        Path::new("blobs")
            .join(self.algorithm_name())
            .join(&self.hex)
    }

    fn algorithm_name(&self) -> &'static str {
        if self.algorithm == &digest::SHA256 {
            "sha256"
        } else {
            "sha512"
        }
    }

    /// Whether this is what was computed; if not, the computed one as text.
    pub(super) fn check(&self, computed: &digest::Digest) -> Result<(), ContainerError> {
        let found = hex::encode(computed.as_ref());
        if found == self.hex {
            return Ok(());
        }
        Err(ContainerError::Digest {
            name: self.to_string(),
            found: format!("{}:{found}", self.algorithm_name()),
        })
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.algorithm_name(), self.hex)
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
    platform: Option<Platform>,
    #[serde(default)]
    urls: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An entry of `manifest.json` as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Chooses an image, checks its manifest and configuration, and finds its layers.
pub(super) fn select(
    store: &Store,
    reference: Option<&str>,
    architecture: Architecture,
) -> Result<Selected, ContainerError> {
    if let Some(index) = store.find(Path::new("index.json"))? {
        let index: Index = json(&index, "index.json")?;
        return from_index(store, index, reference, architecture);
    }
    if let Some(saved) = store.find(Path::new("manifest.json"))? {
        let saved: Vec<Saved> = json(&saved, "manifest.json")?;
        return from_saved(store, saved, reference, architecture);
    }
    Err(ContainerError::NoImage {
        path: store.path.clone(),
        problem: "holds neither index.json (an OCI image layout) nor manifest.json (what `docker save` writes)",
    })
}

struct Candidate {
    name: Option<String>,
    descriptor: Descriptor,
}

fn from_index(
    store: &Store,
    index: Index,
    reference: Option<&str>,
    architecture: Architecture,
) -> Result<Selected, ContainerError> {
    let named: Vec<Candidate> = index
        .manifests
        .into_iter()
        .map(|descriptor| Candidate {
            name: name_of(&descriptor),
            descriptor,
        })
        .collect();
    let names = listed(named.iter().map(|candidate| {
        candidate
            .name
            .clone()
            .unwrap_or_else(|| candidate.descriptor.digest.clone())
    }));
    let wanted: Vec<Candidate> = match reference {
        None => named,
        Some(wanted) => {
            let found: Vec<Candidate> = named
                .into_iter()
                .filter(|candidate| {
                    candidate
                        .name
                        .as_deref()
                        .is_some_and(|name| is_called(name, wanted))
                        || candidate.descriptor.digest == wanted
                })
                .collect();
            if found.is_empty() {
                return Err(ContainerError::UnknownReference {
                    path: store.path.clone(),
                    wanted: wanted.to_owned(),
                    names,
                });
            }
            found
        }
    };
    let mut manifests: Vec<Candidate> = Vec::new();
    let mut platforms = Vec::new();
    for candidate in wanted {
        flatten(
            store,
            candidate,
            architecture,
            0,
            &mut manifests,
            &mut platforms,
        )?;
    }
    // The same image under several names is one image.
    let mut distinct: Vec<Candidate> = Vec::new();
    for manifest in manifests {
        if !distinct
            .iter()
            .any(|earlier| earlier.descriptor.digest == manifest.descriptor.digest)
        {
            distinct.push(manifest);
        }
    }
    if distinct.len() > 1 {
        return Err(ContainerError::Several {
            path: store.path.clone(),
            names: listed(distinct.iter().map(|candidate| {
                candidate
                    .name
                    .clone()
                    .unwrap_or_else(|| candidate.descriptor.digest.clone())
            })),
        });
    }
    let Some(candidate) = distinct.pop() else {
        return Err(platform_missing(store, architecture, platforms));
    };
    let manifest: Manifest = blob_json(store, &candidate.descriptor)?;
    let config_digest = Digest::parse(&manifest.config.digest)?;
    let config = Config::parse(
        &config_digest.to_string(),
        &verified(store, &manifest.config)?,
    )?;
    check_platform(store, &config, architecture)?;
    if manifest.layers.len() != config.diff_ids().len() {
        return Err(ContainerError::LayerCount {
            layers: manifest.layers.len(),
            named: config.diff_ids().len(),
        });
    }
    let mut layers = Vec::new();
    for (descriptor, diff_id) in manifest.layers.iter().zip(config.diff_ids()) {
        check_layer_type(descriptor)?;
        let digest = Digest::parse(&descriptor.digest)?;
        layers.push(LayerBlob {
            blob: sized(store, descriptor, &digest)?,
            digest: Some(digest),
            diff_id: Digest::parse(diff_id)?,
        });
    }
    Ok(Selected {
        name: candidate.name,
        config,
        layers,
    })
}

/// Follows indexes to manifests for the processor.
fn flatten(
    store: &Store,
    candidate: Candidate,
    architecture: Architecture,
    depth: usize,
    manifests: &mut Vec<Candidate>,
    platforms: &mut Vec<String>,
) -> Result<(), ContainerError> {
    if depth > MAX_NESTING {
        return Err(ContainerError::Nesting { limit: MAX_NESTING });
    }
    let descriptor = &candidate.descriptor;
    if let Some(platform) = &descriptor.platform {
        let found = format!("{}/{}", platform.os, platform.architecture);
        if found != format!("linux/{}", container_name(architecture)) {
            platforms.push(found);
            return Ok(());
        }
    }
    match descriptor.media_type.as_str() {
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => {
            let index: Index = blob_json(store, descriptor)?;
            for inner in index.manifests {
                let name = name_of(&inner).or_else(|| candidate.name.clone());
                let inner = Candidate {
                    name,
                    descriptor: inner,
                };
                flatten(store, inner, architecture, depth + 1, manifests, platforms)?;
            }
            Ok(())
        }
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json"
        | "" => {
            manifests.push(candidate);
            Ok(())
        }
        other => Err(ContainerError::MediaType {
            name: descriptor.digest.clone(),
            media_type: other.to_owned(),
            problem: "an image's manifest or an index of them is wanted",
        }),
    }
}

fn from_saved(
    store: &Store,
    saved: Vec<Saved>,
    reference: Option<&str>,
    architecture: Architecture,
) -> Result<Selected, ContainerError> {
    let tags = |image: &Saved| image.repo_tags.clone().unwrap_or_default();
    let names = listed(saved.iter().flat_map(|image| {
        let tags = tags(image);
        if tags.is_empty() {
            vec![image.config.clone()]
        } else {
            tags
        }
    }));
    let mut images: Vec<Saved> = match reference {
        None => saved,
        Some(wanted) => saved
            .into_iter()
            .filter(|image| {
                image.config == wanted || tags(image).iter().any(|tag| is_called(tag, wanted))
            })
            .collect(),
    };
    if images.len() > 1 {
        return Err(ContainerError::Several {
            path: store.path.clone(),
            names,
        });
    }
    let Some(image) = images.pop() else {
        return Err(match reference {
            Some(wanted) => ContainerError::UnknownReference {
                path: store.path.clone(),
                wanted: wanted.to_owned(),
                names,
            },
            None => ContainerError::NoImage {
                path: store.path.clone(),
                problem: "has a manifest.json that lists no image",
            },
        });
    };
    let blob = store.file(Path::new(&image.config))?;
    let bytes = small(&blob, &image.config)?;
    // Docker names the configuration by its digest.
    let stem = image
        .config
        .strip_prefix("blobs/sha256/")
        .unwrap_or(&image.config);
    let stem = stem.strip_suffix(".json").unwrap_or(stem);
    if let Ok(named) = Digest::parse(&format!("sha256:{stem}")) {
        named.check(&digest::digest(named.algorithm, &bytes))?;
    }
    let config = Config::parse(&image.config, &bytes)?;
    check_platform(store, &config, architecture)?;
    if image.layers.len() != config.diff_ids().len() {
        return Err(ContainerError::LayerCount {
            layers: image.layers.len(),
            named: config.diff_ids().len(),
        });
    }
    let mut layers = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(config.diff_ids()) {
        layers.push(LayerBlob {
            blob: store.file(Path::new(name))?,
            digest: None,
            diff_id: Digest::parse(diff_id)?,
        });
    }
    Ok(Selected {
        name: tags(&image).into_iter().next(),
        config,
        layers,
    })
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    [CONTAINERD_NAME, REFERENCE]
        .iter()
        .find_map(|key| descriptor.annotations.get(*key))
        .cloned()
}

/// Whether a name is the wanted one, in full or as its tag.
fn is_called(name: &str, wanted: &str) -> bool {
    name == wanted
        || name
            .strip_suffix(wanted)
            .is_some_and(|before| before.ends_with([':', '/']))
}

fn listed(names: impl Iterator<Item = String>) -> Vec<String> {
    const SHOWN: usize = 20;
    let mut names: Vec<String> = names.take(SHOWN + 1).collect();
    if names.len() > SHOWN {
        "…".clone_into(&mut names[SHOWN]);
    }
    if names.is_empty() {
        names.push("none".to_owned());
    }
    names
}

/// The processor as containers call it.
fn container_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "amd64",
        Architecture::Arm64 => "arm64",
    }
}

fn check_platform(
    store: &Store,
    config: &Config,
    architecture: Architecture,
) -> Result<(), ContainerError> {
    let found = config.platform();
    if found == format!("linux/{}", container_name(architecture)) {
        return Ok(());
    }
    Err(platform_missing(store, architecture, vec![found]))
}

fn platform_missing(
    store: &Store,
    architecture: Architecture,
    mut found: Vec<String>,
) -> ContainerError {
    found.sort();
    found.dedup();
    ContainerError::Platform {
        path: store.path.clone(),
        wanted: container_name(architecture),
        found: listed(found.into_iter()),
    }
}

fn check_layer_type(descriptor: &Descriptor) -> Result<(), ContainerError> {
    let refuse = |problem| {
        Err(ContainerError::MediaType {
            name: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
            problem,
        })
    };
    if !descriptor.urls.is_empty() {
        return refuse("the layer is kept elsewhere and is not in the image");
    }
    match descriptor.media_type.as_str() {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(()),
        other if other.contains("encrypted") => refuse("decrypt the image first"),
        _ => refuse("a layer is a tar archive, plain or compressed with gzip or zstd"),
    }
}

fn sized(store: &Store, descriptor: &Descriptor, digest: &Digest) -> Result<Blob, ContainerError> {
    let blob = store.file(&digest.path())?;
    if blob.size != descriptor.size {
        return Err(ContainerError::Size {
            name: digest.to_string(),
            stated: descriptor.size,
            found: blob.size,
        });
    }
    Ok(blob)
}

/// A small blob whose length and digest are its descriptor's.
fn verified(store: &Store, descriptor: &Descriptor) -> Result<Vec<u8>, ContainerError> {
    let digest = Digest::parse(&descriptor.digest)?;
    let blob = sized(store, descriptor, &digest)?;
    let bytes = small(&blob, &digest.to_string())?;
    digest.check(&digest::digest(digest.algorithm, &bytes))?;
    Ok(bytes)
}

fn blob_json<T: DeserializeOwned>(
    store: &Store,
    descriptor: &Descriptor,
) -> Result<T, ContainerError> {
    let bytes = verified(store, descriptor)?;
    parse(&bytes, &descriptor.digest)
}

fn json<T: DeserializeOwned>(blob: &Blob, name: &str) -> Result<T, ContainerError> {
    parse(&small(blob, name)?, name)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T, ContainerError> {
    serde_json::from_slice(bytes).map_err(|source| ContainerError::Json {
        name: name.to_owned(),
        source,
    })
}

fn small(blob: &Blob, name: &str) -> Result<Vec<u8>, ContainerError> {
    if blob.size > MAX_JSON_BYTES {
        return Err(ContainerError::TooLarge {
            name: name.to_owned(),
            size: blob.size,
            limit: MAX_JSON_BYTES,
        });
    }
    blob.start(blob.size)
        .map_err(|source| ContainerError::Read {
            name: shown(Path::new(name)),
            source,
        })
}
