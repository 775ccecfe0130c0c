//! AWS's own library for enclave images as a program. It adds nothing to what the library does and decides nothing:
//! what it prints is what the library found.
//!
//! ```text
//! others build OUTPUT KERNEL COMMAND-LINE METADATA.json RAMDISK... [--arm64] [--sign KEY CERTIFICATE]
//! others describe IMAGE
//! others sign IMAGE KEY CERTIFICATE
//! ```
//! `build` prints the measurements as JSON, `describe` what `nitro-cli describe-eif` does and more. What the library
//! cannot take ends the program, by an error or by the library's panic.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_nitro_enclaves_image_format::defs::{EIF_HDR_ARCH_ARM64, EifIdentityInfo};
use aws_nitro_enclaves_image_format::utils::eif_reader::EifReader;
use aws_nitro_enclaves_image_format::utils::{
    EifBuilder, EifSigner, PcrSignatureChecker, SignKeyData,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha384};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["build", output, kernel, line, metadata, rest @ ..] => {
            build(output, kernel, line, metadata, rest)
        }
        ["describe", image] => describe(image),
        ["sign", image, key, certificate] => sign(image, key, certificate),
        _ => Err("others build|describe|sign ...".to_owned()),
    };
    match result {
        Ok(answer) => {
            println!("{answer:#}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

fn build(
    output: &str,
    kernel: &str,
    line: &str,
    metadata: &str,
    rest: &[&str],
) -> Result<Value, String> {
    let mut ramdisks: Vec<PathBuf> = Vec::new();
    let mut flags = 0;
    let mut signer = None;
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        match *word {
            "--arm64" => flags |= EIF_HDR_ARCH_ARM64,
            "--sign" => {
                let key = words.next().ok_or("--sign KEY CERTIFICATE")?;
                let certificate = words.next().ok_or("--sign KEY CERTIFICATE")?;
                signer = Some(SignKeyData::new(key, Path::new(certificate))?);
            }
            ramdisk => ramdisks.push(ramdisk.into()),
        }
    }
    let text = std::fs::read_to_string(metadata).map_err(|error| error.to_string())?;
    let identity: EifIdentityInfo = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let mut builder = EifBuilder::new(
        Path::new(kernel),
        line.to_owned(),
        signer,
        Sha384::new(),
        flags,
        identity,
    );
    for ramdisk in &ramdisks {
        builder.add_ramdisk(ramdisk);
    }
    let mut file = File::create(output).map_err(|error| error.to_string())?;
    Ok(json!(builder.write_to(&mut file)))
}

fn describe(image: &str) -> Result<Value, String> {
    let mut reader = EifReader::from_eif(image.to_owned())?;
    let measurements = reader.get_measurements()?;
    let header = reader.get_header();
    let count = usize::from(header.num_sections);
    let metadata = reader
        .get_metadata()
        .map(|metadata| serde_json::to_value(metadata).expect("it came from JSON"));
    let mut description = json!({
        "EifVersion": header.version,
        "Flags": header.flags,
        "DefaultMemory": header.default_mem,
        "DefaultCpus": header.default_cpus,
        "SectionOffsets": header.section_offsets[..count],
        "SectionSizes": header.section_sizes[..count],
        "Measurements": measurements,
        "IsSigned": reader.signature_section.is_some(),
        "CheckCRC": reader.check_crc(),
        "Crc": header.eif_crc32,
        "Metadata": metadata,
    });
    if reader.signature_section.is_some() {
        let certificate = reader.get_certificate_info(measurements)?;
        description["SignatureCheck"] = json!(reader.sign_check);
        description["SigningCertificate"] =
            serde_json::to_value(certificate).map_err(|error| error.to_string())?;
        // What it asks before an enclave starts: the signature and the certificate's validity.
        let mut checker = PcrSignatureChecker::from_eif(image)?;
        description["Verdict"] = json!(checker.verify().err());
    }
    Ok(description)
}

fn sign(image: &str, key: &str, certificate: &str) -> Result<Value, String> {
    let data = SignKeyData::new(key, Path::new(certificate))?;
    let signer = EifSigner::new(Some(data)).ok_or("there is no signer")?;
    signer.sign_image(image)?;
    describe(image)
}
