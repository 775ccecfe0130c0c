//! The dependencies between the parts that must never exist. The folders are
//! trust boundaries; this reads them from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// For each member, everything that it links in, directly or not, without
/// what only its tests and build scripts use.
fn linked() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(vec!["--locked".to_owned(), "--offline".to_owned()])
        .exec()
        .expect("cargo metadata describes this workspace");
    let names: BTreeMap<_, _> = metadata
        .packages
        .iter()
        .map(|package| (package.id.clone(), package.name.to_string()))
        .collect();
    let resolve = metadata
        .resolve
        .as_ref()
        .expect("metadata with dependencies");
    let direct: BTreeMap<_, Vec<_>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal = node
                .deps
                .iter()
                .filter(|dependency| {
                    dependency
                        .dep_kinds
                        .iter()
                        .any(|kind| kind.kind == DependencyKind::Normal)
                })
                .map(|dependency| dependency.pkg.clone())
                .collect();
            (node.id.clone(), normal)
        })
        .collect();
    metadata
        .workspace_members
        .iter()
        .map(|member| {
            let mut seen = BTreeSet::new();
            let mut open = direct[member].clone();
            while let Some(package) = open.pop() {
                if seen.insert(package.clone()) {
                    open.extend(direct[&package].iter().cloned());
                }
            }
            let reached = seen.iter().map(|id| names[id].clone()).collect();
            (names[member].clone(), reached)
        })
        .collect()
}

fn refuse(from: &str, to: &[&str]) {
    let linked = linked();
    let reached = linked
        .get(from)
        .unwrap_or_else(|| panic!("{from} is not a member of the workspace"));
    for forbidden in to {
        assert!(
            !reached.contains(*forbidden),
            "{from} must never depend on {forbidden}"
        );
    }
}

#[test]
fn members_are_read_and_real_arrows_are_seen() {
    // What keeps the tests below from passing on an empty graph.
    let linked = linked();
    assert!(linked["anchorhold-kms"].contains("anchorhold-attestation"));
    assert!(linked["anchorhold-parent"].contains("anchorhold-simulator"));
    assert!(linked["anchorhold"].contains("tokio"));
}

#[test]
fn attestation_is_pure() {
    // As the crate is by default: others may switch on its faster engine.
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            "anchorhold-attestation",
            "--edges",
            "normal",
        ])
        .args([
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--locked",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    let reached: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "anchorhold-attestation")
        .collect();
    assert!(reached.contains("coset"), "the tree is read");
    for name in &reached {
        assert!(
            !name.starts_with("anchorhold"),
            "attestation depends on {name}"
        );
    }
    for forbidden in [
        "tokio",
        "aws-lc-sys",
        "ring",
        "openssl-sys",
        "chrono",
        "time",
        "jiff",
        "cc",
    ] {
        assert!(
            !reached.contains(forbidden),
            "attestation depends on {forbidden}"
        );
    }
}

#[test]
fn the_enclave_knows_no_host_side() {
    refuse(
        "anchorhold-enclave",
        &[
            "anchorhold",
            "anchorhold-parent",
            "anchorhold-images",
            "anchorhold-kms",
            "anchorhold-simulator",
            "anchorhold-attestation",
            "anchorhold-client",
            "anchorhold-verifier",
        ],
    );
}

#[test]
fn a_client_knows_the_verifier_and_the_channel_alone() {
    let linked = linked();
    for (member, may) in [
        ("anchorhold-channel", &[][..]),
        (
            "anchorhold-client",
            &["anchorhold-attestation", "anchorhold-channel"],
        ),
        (
            "anchorhold-verifier",
            &["anchorhold-attestation", "anchorhold-channel"],
        ),
        (
            "anchorhold-python",
            &[
                "anchorhold-attestation",
                "anchorhold-channel",
                "anchorhold-client",
                "anchorhold-verifier",
            ],
        ),
    ] {
        for other in linked.keys() {
            assert!(
                may.contains(&other.as_str()) || !linked[member].contains(other),
                "{member} depends on {other}"
            );
        }
    }
    // What both ends compute is pure.
    for forbidden in ["tokio", "rustls", "aws-lc-sys"] {
        assert!(!linked["anchorhold-channel"].contains(forbidden));
    }
}

#[test]
fn the_parent_and_the_key_service_are_strangers() {
    refuse(
        "anchorhold-parent",
        &[
            "anchorhold-kms",
            "anchorhold-kms-wire",
            "anchorhold-envelope",
        ],
    );
    refuse(
        "anchorhold-kms",
        &[
            "anchorhold",
            "anchorhold-parent",
            "anchorhold-enclave",
            "anchorhold-simulator",
        ],
    );
    refuse(
        "anchorhold-kms-wire",
        &[
            "anchorhold-kms",
            "anchorhold-attestation",
            "anchorhold-parent",
        ],
    );
    refuse(
        "anchorhold-envelope",
        &[
            "anchorhold-kms",
            "anchorhold-attestation",
            "anchorhold-parent",
        ],
    );
}

#[test]
fn images_know_no_enclave_no_parent_and_no_key_service() {
    refuse(
        "anchorhold-images",
        &[
            "anchorhold",
            "anchorhold-enclave",
            "anchorhold-parent",
            "anchorhold-kms",
        ],
    );
}

#[test]
fn the_corpus_judges_with_the_verifier_alone_and_is_linked_into_the_command_alone() {
    refuse(
        "anchorhold-corpus",
        &[
            "anchorhold",
            "anchorhold-enclave",
            "anchorhold-images",
            "anchorhold-kms",
            "anchorhold-parent",
            "anchorhold-simulator",
        ],
    );
    for (member, reached) in linked() {
        assert!(
            member == "anchorhold" || !reached.contains("anchorhold-corpus"),
            "{member} must never depend on the corpus"
        );
    }
}

#[test]
fn jobs_depend_on_what_is_made_for_jobs_and_that_depends_on_nobody() {
    let linked = linked();
    for (room, may) in [
        (
            "anchorhold-job-cards",
            &["anchorhold-job", "anchorhold-job-serve"][..],
        ),
        ("anchorhold-job-pii", &["anchorhold-detect"]),
        ("anchorhold-detect", &[]),
        ("anchorhold-job", &[]),
        ("anchorhold-job-serve", &[]),
    ] {
        let reached = &linked[room];
        for member in linked.keys() {
            assert!(
                may.contains(&member.as_str()) || !reached.contains(member),
                "{room} depends on {member}"
            );
        }
    }
}

#[test]
fn there_is_no_feature_named_mock() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(vec!["--locked".to_owned(), "--offline".to_owned()])
        .no_deps()
        .exec()
        .expect("cargo metadata describes this workspace");
    assert!(metadata.packages.len() > 5);
    for package in metadata.packages {
        for feature in package.features.keys() {
            for word in ["mock", "insecure", "skip", "fake"] {
                assert!(
                    !feature.contains(word),
                    "{} has a feature named {feature}",
                    package.name
                );
            }
        }
    }
}
