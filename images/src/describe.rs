//! What an image is, for people and scripts. The JSON has everything that `nitro-cli describe-eif` prints, under the
//! same names, and more.

use std::io;

use anchorhold_manifest::Manifest;
use serde::Serialize;

use crate::eif::{Architecture, Section};
use crate::image::{Image, ImageError};
use crate::measure::Measurements;
use crate::ramdisk::Compression;
use crate::trust::{self, SignerInfo};

/// An enclave's memory besides its files: the kernel or the runtime, and a small job.
const BASE_MEMORY_BYTES: u64 = 32 << 20;

/// Where an image can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// AWS Nitro enclaves.
    Nitro,
    /// A virtual machine.
    Qemu,
    /// A confined process.
    Sandbox,
}

/// All about an image; its serialisation is what `describe --json` prints.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Description {
    /// Version of the file format.
    pub eif_version: u16,
    /// The PCRs and how they were computed.
    pub measurements: HashedMeasurements,
    /// Whether there is a signature.
    pub is_signed: bool,
    /// The signing certificate; none for an unsigned image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_certificate: Option<SignerInfo>,
    /// Whether the signature is by the certificate's key and over this image; none for an unsigned image. Neither the
    /// certificate's validity nor its chain is judged here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature_check: Option<bool>,
    /// Whether the checksum holds. Always so: an image whose checksum does not is not described but refused.
    #[serde(rename = "CheckCRC")]
    pub check_crc: bool,
    /// The image's name.
    pub image_name: String,
    /// The image's version.
    pub image_version: String,
    /// Who built it, when and from what.
    pub metadata: DescribedMetadata,
    /// The processor it is for.
    pub architecture: Architecture,
    /// Length of the file in bytes.
    pub size: u64,
    /// CRC-32 of the file, eight hexadecimal digits.
    #[serde(rename = "CRC32")]
    pub crc32: String,
    /// The kernel's command line.
    pub command_line: String,
    /// The sections in file order.
    pub sections: Vec<Section>,
    /// The ramdisks in order.
    pub ramdisks: Vec<DescribedRamdisk>,
    /// Whether there is a kernel.
    pub has_kernel: bool,
    /// Where the image can run.
    pub backends: Vec<Backend>,
    /// The least memory that an enclave from this image starts in, estimated: what its ramdisks say that they unpack to
    /// lies in memory beside the image.
    #[serde(rename = "MinimumMemoryMiB")]
    pub minimum_memory_mib: u64,
    /// The manifest; none in images that other tools made.
    pub manifest: Option<Manifest>,
    /// Why it is not known whether there is a manifest, or what it says: a ramdisk that cannot be read. The measurements
    /// hold all the same. An enclave that needs a manifest does not start from such an image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_problem: Option<String>,
}

/// The PCRs with the algorithm's name as nitro-cli prints it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HashedMeasurements {
    /// `Sha384 { ... }`
    pub hash_algorithm: &'static str,
    /// The PCRs.
    #[serde(flatten)]
    pub registers: Measurements,
}

/// The metadata as nitro-cli prints it: build and Docker information side by side.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribedMetadata {
    /// Build information.
    #[serde(flatten)]
    pub build: crate::BuildMetadata,
    /// What Docker said.
    pub docker_info: serde_json::Value,
    /// What the builder added.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub custom_metadata: serde_json::Value,
}

/// A ramdisk.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribedRamdisk {
    /// Bytes in the image.
    pub size: u64,
    /// How it is compressed; none where that is not known here.
    pub compression: Option<Compression>,
    /// Bytes of the archive when it is unpacked, as it says itself; none where its compression is not known here.
    pub unpacked_size: Option<u64>,
}

/// The least memory that an enclave from an image starts in: the image, what its ramdisks say that they unpack to, and
/// what a kernel or the runtime and a small job take.
pub(crate) fn minimum_memory_mib(image: &Image) -> Result<u64, ImageError> {
    let mut bytes = BASE_MEMORY_BYTES + image.size();
    for ramdisk in image.ramdisks() {
        let unpacked = known(image, ramdisk.unpacked_bytes())?;
        bytes = bytes.saturating_add(unpacked.unwrap_or(ramdisk.size()));
    }
    Ok(bytes.div_ceil(1 << 20))
}

/// None for a ramdisk whose compression the kernel may know and this crate does not.
fn known<T>(image: &Image, told: io::Result<T>) -> Result<Option<T>, ImageError> {
    match told {
        Ok(told) => Ok(Some(told)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(source) => Err(image.unreadable(source)),
    }
}

pub(crate) fn describe(image: &Image) -> Result<Description, ImageError> {
    let (manifest, manifest_problem) = match image.manifest() {
        Ok(manifest) => (manifest, None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    let has_kernel = image.has_kernel()?;
    let metadata = image.metadata();
    let mut ramdisks = Vec::new();
    for ramdisk in image.ramdisks() {
        ramdisks.push(DescribedRamdisk {
            size: ramdisk.size(),
            compression: known(image, ramdisk.compression())?,
            unpacked_size: known(image, ramdisk.unpacked_bytes())?,
        });
    }
    // The sandbox finds its job through the manifest, which only our own images have.
    let backends = [
        (Backend::Nitro, has_kernel),
        (Backend::Qemu, has_kernel),
        (Backend::Sandbox, manifest.is_some()),
    ];
    Ok(Description {
        eif_version: crate::eif::VERSION,
        measurements: HashedMeasurements {
            hash_algorithm: "Sha384 { ... }",
            registers: *image.measurements(),
        },
        is_signed: image.signature().is_some(),
        signing_certificate: image
            .signature()
            .and_then(|signature| trust::signer_info(&signature.certificate).ok()),
        signature_check: image
            .signature()
            .map(|_| trust::check_signature(image).is_ok()),
        check_crc: true,
        image_name: metadata.image_name.clone(),
        image_version: metadata.image_version.clone(),
        metadata: DescribedMetadata {
            build: metadata.build_metadata.clone(),
            docker_info: metadata.docker_info.clone(),
            custom_metadata: metadata.custom_metadata.clone(),
        },
        architecture: image.architecture(),
        size: image.size(),
        crc32: format!("{:08x}", image.crc32()),
        command_line: image
            .command_line()
            .trim_end_matches(['\n', '\0'])
            .to_owned(),
        sections: image.sections().to_vec(),
        ramdisks,
        has_kernel,
        backends: backends
            .into_iter()
            .filter(|(_, runs)| *runs)
            .map(|(backend, _)| backend)
            .collect(),
        minimum_memory_mib: minimum_memory_mib(image)?,
        manifest,
        manifest_problem,
    })
}
