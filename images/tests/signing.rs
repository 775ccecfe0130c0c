//! Signing images and verifying what was signed.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anchorhold_images::signing::{
    ImageSigner, SigningCertificate, SigningError, attach, sign, to_sign,
};
use anchorhold_images::trust::{SignatureFault, check_signature, verify};
use anchorhold_images::{Image, SectionKind, signer_pcr};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
};
use common::{built, program_options};
use rcgen::{
    CertificateParams, CertifiedIssuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
};
use rustls_pki_types::CertificateDer;

/// In the middle of the certificates' validity.
const NOW: Duration = Duration::from_secs(1_800_000_000);

struct Identity {
    key: KeyPair,
    certificate: rcgen::Certificate,
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::<String>::new()).unwrap();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    parameters.not_before = rcgen::date_time_ymd(2026, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2028, 1, 1);
    parameters
}

fn identity(name: &str) -> Identity {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = parameters(name).self_signed(&key).unwrap();
    Identity { key, certificate }
}

fn signer(identity: &Identity) -> ImageSigner {
    let certificate = SigningCertificate::from_pem(identity.certificate.pem().as_bytes()).unwrap();
    ImageSigner::new(identity.key.serialize_pem().as_bytes(), certificate).unwrap()
}

fn unsigned(dir: &Path) -> Image {
    Image::open(&built(&program_options(dir)).path).unwrap()
}

fn signed(dir: &Path, identity: &Identity) -> (Image, PathBuf) {
    let output = dir.join("signed.eif");
    sign(&unsigned(dir), &signer(identity), false, &output).unwrap();
    (Image::open(&output).unwrap(), output)
}

#[test]
fn a_signed_image_has_its_signers_pcr8_and_the_same_other_registers() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity("signer");
    let before = unsigned(dir.path());
    let (after, _) = signed(dir.path(), &identity);
    assert_eq!(after.measurements().pcr0, before.measurements().pcr0);
    assert_eq!(after.measurements().pcr1, before.measurements().pcr1);
    assert_eq!(after.measurements().pcr2, before.measurements().pcr2);
    let pcr8 = signer_pcr(identity.certificate.der());
    assert_eq!(after.measurements().pcr8, Some(pcr8));
    let verified = verify(&after, &[], NOW).unwrap();
    assert_eq!(verified.pcr8, pcr8);
    assert!(verified.self_signed);
    assert_eq!(verified.signer.subject_name, "CN=signer");
    let description = serde_json::to_value(after.describe().unwrap()).unwrap();
    assert_eq!(description["IsSigned"], true);
    assert_eq!(description["SignatureCheck"], true);
    assert_eq!(
        description["SigningCertificate"]["IssuerName"]["commonName"],
        "signer"
    );
    assert_eq!(
        description["SigningCertificate"]["Algorithm"],
        "ecdsa-with-SHA384"
    );
    assert_eq!(
        description["SigningCertificate"]["NotAfter"],
        "Jan  1 00:00:00 2028 GMT"
    );
}

#[test]
fn the_same_key_signs_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity("signer");
    let (_, one) = signed(dir.path(), &identity);
    let one = fs::read(one).unwrap();
    let (_, two) = signed(dir.path(), &identity);
    assert!(one == fs::read(two).unwrap());
}

#[test]
fn a_signature_made_elsewhere_is_attached_in_either_form() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity("elsewhere");
    let image = unsigned(dir.path());
    let certificate = SigningCertificate::from_pem(identity.certificate.pem().as_bytes()).unwrap();
    let random = SystemRandom::new();
    for algorithm in [
        &ECDSA_P384_SHA384_ASN1_SIGNING,
        &ECDSA_P384_SHA384_FIXED_SIGNING,
    ] {
        let key = EcdsaKeyPair::from_pkcs8(algorithm, &identity.key.serialize_der()).unwrap();
        let signature = key.sign(&random, &to_sign(&image)).unwrap();
        let output = dir.path().join("attached.eif");
        attach(&image, &certificate, signature.as_ref(), false, &output).unwrap();
        verify(&Image::open(&output).unwrap(), &[], NOW).unwrap();
    }
}

#[test]
fn a_signature_that_is_wrong_is_never_attached() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity("signer");
    let image = unsigned(dir.path());
    let certificate = SigningCertificate::from_pem(identity.certificate.pem().as_bytes()).unwrap();
    let key = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P384_SHA384_FIXED_SIGNING,
        &identity.key.serialize_der(),
    )
    .unwrap();
    let output = dir.path().join("never.eif");
    let other = key.sign(&SystemRandom::new(), b"something else").unwrap();
    for (signature, is_known) in [
        (other.as_ref(), true),
        (&[1; 96][..], true),
        (&[0; 96][..], false),
        (b"".as_slice(), false),
        (b"not a signature", false),
    ] {
        let error = attach(&image, &certificate, signature, false, &output).unwrap_err();
        match error {
            SigningError::WrongSignature => assert!(is_known),
            SigningError::SignatureForm(_) => assert!(!is_known),
            other => panic!("{other}"),
        }
        assert!(!output.exists());
    }
}

#[test]
fn keys_and_certificates_that_do_not_fit_are_refused() {
    let (one, two) = (identity("one"), identity("two"));
    let certificate =
        |identity: &Identity| SigningCertificate::from_pem(identity.certificate.pem().as_bytes());
    assert!(matches!(
        ImageSigner::new(
            two.key.serialize_pem().as_bytes(),
            certificate(&one).unwrap()
        ),
        Err(SigningError::Mismatch)
    ));
    let weak = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    assert!(matches!(
        ImageSigner::new(weak.serialize_pem().as_bytes(), certificate(&one).unwrap()),
        Err(SigningError::Key(_))
    ));
    let weak = parameters("weak").self_signed(&weak).unwrap().pem();
    let with_key = one.certificate.pem() + &one.key.serialize_pem();
    let twice = one.certificate.pem() + &one.certificate.pem();
    for pem in [
        weak,
        with_key,
        twice,
        one.key.serialize_pem(),
        String::new(),
    ] {
        assert!(matches!(
            SigningCertificate::from_pem(pem.as_bytes()),
            Err(SigningError::Certificate(_))
        ));
    }
}

#[test]
fn a_signed_image_is_signed_anew_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (identity("first"), identity("second"));
    let (image, _) = signed(dir.path(), &first);
    let output = dir.path().join("again.eif");
    assert!(matches!(
        sign(&image, &signer(&second), false, &output),
        Err(SigningError::AlreadySigned)
    ));
    assert!(!output.exists());
    sign(&image, &signer(&second), true, &output).unwrap();
    let image = Image::open(&output).unwrap();
    let signatures = image
        .sections()
        .iter()
        .filter(|section| section.kind == SectionKind::Signature)
        .count();
    assert_eq!(signatures, 1);
    assert_eq!(
        verify(&image, &[], NOW).unwrap().signer.subject_name,
        "CN=second"
    );
}

#[test]
fn a_certificate_that_has_expired_or_is_not_valid_yet_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let (image, _) = signed(dir.path(), &identity("signer"));
    let late = verify(&image, &[], Duration::from_secs(1_900_000_000)).unwrap_err();
    assert!(
        matches!(&late, SignatureFault::Expired(when) if when.starts_with("2028-01-01")),
        "{late}"
    );
    assert!(late.to_string().contains("expired on 2028-01-01"), "{late}");
    let early = verify(&image, &[], Duration::from_secs(1_000_000_000)).unwrap_err();
    assert!(matches!(early, SignatureFault::NotYetValid(_)), "{early}");
}

#[test]
fn a_certificate_of_an_authority_needs_that_authority() {
    let dir = tempfile::tempdir().unwrap();
    let mut root = parameters("root");
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let root = CertifiedIssuer::self_signed(root, key).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = parameters("leaf").signed_by(&key, &root).unwrap();
    let (image, _) = signed(dir.path(), &Identity { key, certificate });
    let error = verify(&image, &[], NOW).unwrap_err();
    assert!(
        matches!(&error, SignatureFault::AuthorityNeeded { issuer } if issuer == "CN=root"),
        "{error}"
    );
    let authority = CertificateDer::from(root.der().to_vec());
    assert!(!verify(&image, &[authority], NOW).unwrap().self_signed);
    let other = identity("other");
    let other = CertificateDer::from(other.certificate.der().to_vec());
    let error = verify(&image, &[other], NOW).unwrap_err();
    assert!(matches!(error, SignatureFault::Chain { .. }), "{error}");
}

#[test]
fn another_images_signature_and_another_key_s_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity("signer");
    let (image, path) = signed(dir.path(), &identity);
    let section = image
        .sections()
        .iter()
        .find(|section| section.kind == SectionKind::Signature)
        .copied()
        .unwrap();
    let bytes = fs::read(&path).unwrap();
    let section = bytes[section.offset as usize..][..section.size as usize].to_vec();

    let mut sections = common::sections();
    sections.push((SectionKind::Signature, section.clone()));
    let transplanted = anchorhold_images::Unmeasured::from_bytes("t", common::image(&sections))
        .unwrap()
        .measure()
        .unwrap();
    let error = check_signature(&transplanted).unwrap_err();
    assert!(
        matches!(error, SignatureFault::AnotherImage { register: 0, .. }),
        "{error}"
    );

    // The same signature beside another certificate: PCR8 would be that one's.
    let other = self::identity("other");
    let (mine, theirs) = (identity.certificate.pem(), other.certificate.pem());
    assert_eq!(mine.len() / 64, theirs.len() / 64);
    let mut value: ciborium::Value = ciborium::from_reader(section.as_slice()).unwrap();
    let fields = value.as_array_mut().unwrap()[0].as_map_mut().unwrap();
    fields[0].1 = ciborium::Value::Bytes(theirs.into_bytes());
    let mut forged = Vec::new();
    ciborium::into_writer(&value, &mut forged).unwrap();
    let mut sections = common::sections();
    sections.push((SectionKind::Signature, forged));
    let forged = anchorhold_images::Unmeasured::from_bytes("t", common::image(&sections))
        .unwrap()
        .measure()
        .unwrap();
    assert_eq!(check_signature(&forged), Err(SignatureFault::Wrong));
    assert_eq!(
        verify(&unsigned(dir.path()), &[], NOW),
        Err(SignatureFault::Unsigned)
    );
}
