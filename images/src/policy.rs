//! Key policies that let a key be used from inside measured images and nowhere else.
//!
//! Conditions as AWS KMS has them for Nitro enclaves: `kms:RecipientAttestation:ImageSha384` is PCR0, and
//! `kms:RecipientAttestation:PCR<n>` any register. A request without an attestation document has none of these keys.
//! `anchorhold:Anchor` is this project's: the fingerprint of the root that the document chains to. Where a policy does
//! not name it, only AWS's root counts.
//! This module only writes policies; the key service decides.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::measure::Measurements;

const IMAGE: &str = "kms:RecipientAttestation:ImageSha384";
const ANCHOR: &str = "anchorhold:Anchor";
const SIGNER: &str = "kms:RecipientAttestation:PCR8";

/// What a policy is to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyPolicy {
    /// The images that may use the key: the new one, and those that still may for a while.
    pub images: Vec<Measurements>,
    /// Whether the images' signers are named (PCR8) rather than the images (PCR0).
    pub by_signer: bool,
    /// Who asks on the enclave's behalf: the role of the machine that runs it. None: whoever brings a matching document.
    pub principal: Option<String>,
    /// Who administers the key, seals and opens.
    pub owner: Option<String>,
    /// Nobody seals or opens outside of the images, the owner neither.
    pub inside_only: bool,
    /// SHA-256 fingerprints of the roots whose documents count, in place of AWS's alone. None: AWS's alone, and the
    /// policy is one that AWS's own service understands.
    pub anchors: Vec<[u8; 32]>,
}

/// Why there is no such policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// An unsigned image has no signer.
    #[error(
        "the image is not signed, so no policy can name its signer: sign it, or leave out --signer"
    )]
    Unsigned,
    /// Without an image there is nothing to admit.
    #[error("a policy names at least one image")]
    NoImage,
}

impl KeyPolicy {
    /// The whole policy.
    pub fn document(&self) -> Result<Value, PolicyError> {
        Ok(json!({ "Version": "2012-10-17", "Statement": self.statements()? }))
    }

    /// The statements, as the list that stands under `Statement`.
    pub fn statements(&self) -> Result<Value, PolicyError> {
        let mut statements = Vec::new();
        if let Some(owner) = &self.owner {
            statements.push(json!({
                "Sid": if self.inside_only { "OwnerAdministers" } else { "OwnerAdministersSealsAndOpens" },
                "Effect": "Allow",
                "Principal": { "AWS": owner },
                "Action": "kms:*",
                "Resource": "*",
            }));
        }
        let principal = self.principal.as_deref().unwrap_or("*");
        let (key, values) = self.admitted()?;
        let mut equals = Map::new();
        equals.insert(key.to_owned(), one_or_several(&values));
        if !self.anchors.is_empty() {
            let anchors: Vec<String> = self.anchors.iter().map(hex::encode).collect();
            equals.insert(ANCHOR.to_owned(), one_or_several(&anchors));
        }
        statements.push(json!({
            "Sid": "UseInsideTheMeasuredEnclaveOnly",
            "Effect": "Allow",
            "Principal": { "AWS": principal },
            "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
            "Resource": "*",
            "Condition": { "StringEquals": equals },
        }));
        // Holds also where another statement, or a grant, allows more. The owner works outside of enclaves.
        let mut outside = Map::new();
        outside.insert("Null".to_owned(), json!({ IMAGE: "true" }));
        let denied = match (&self.principal, &self.owner) {
            _ if self.inside_only => Some("*"),
            (Some(principal), owner) if owner.as_ref() != Some(principal) => {
                Some(principal.as_str())
            }
            (None, Some(owner)) => {
                outside.insert(
                    "ArnNotEquals".to_owned(),
                    json!({ "aws:PrincipalArn": owner }),
                );
                Some("*")
            }
            _ => None,
        };
        if let Some(principal) = denied {
            let mut actions = vec![
                "kms:Decrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyPair",
                "kms:ReEncrypt*",
            ];
            if self.inside_only {
                // What is sealed under the key was sealed by one of the images.
                actions.extend([
                    "kms:Encrypt",
                    "kms:GenerateDataKeyWithoutPlaintext",
                    "kms:GenerateDataKeyPairWithoutPlaintext",
                ]);
            }
            statements.push(json!({
                "Sid": "NothingOutsideAnEnclave",
                "Effect": "Deny",
                "Principal": { "AWS": principal },
                "Action": actions,
                "Resource": "*",
                "Condition": outside,
            }));
        }
        Ok(Value::Array(statements))
    }

    /// The policy as a Terraform data source of the type `aws_iam_policy_document`.
    pub fn terraform(&self, name: &str) -> Result<String, PolicyError> {
        let statements = self.statements()?;
        let mut text = format!("data \"aws_iam_policy_document\" {} {{\n", quoted(name));
        for statement in statements.as_array().into_iter().flatten() {
            let string = |key: &str| quoted(statement[key].as_str().unwrap_or_default());
            let list = |value: &Value| match value {
                Value::Array(values) => values
                    .iter()
                    .map(|value| quoted(value.as_str().unwrap_or_default()))
                    .collect::<Vec<_>>()
                    .join(", "),
                other => quoted(other.as_str().unwrap_or_default()),
            };
            let _ = write!(
                text,
                "  statement {{\n    sid       = {}\n    effect    = {}\n    actions   = [{}]\n    resources = [{}]\n\n    \
                 principals {{\n      type        = \"AWS\"\n      identifiers = [{}]\n    }}\n",
                string("Sid"),
                string("Effect"),
                list(&statement["Action"]),
                list(&statement["Resource"]),
                list(&statement["Principal"]["AWS"]),
            );
            let conditions = statement.get("Condition").and_then(Value::as_object);
            for (test, keys) in conditions.into_iter().flatten() {
                for (variable, values) in keys.as_object().into_iter().flatten() {
                    let _ = write!(
                        text,
                        "\n    condition {{\n      test     = {}\n      variable = {}\n      values   = [{}]\n    }}\n",
                        quoted(test),
                        quoted(variable),
                        list(values),
                    );
                }
            }
            text.push_str("  }\n");
        }
        text.push_str("}\n");
        Ok(text)
    }

    fn admitted(&self) -> Result<(&'static str, Vec<String>), PolicyError> {
        let mut values = Vec::new();
        for image in &self.images {
            let value = if self.by_signer {
                image.pcr8.ok_or(PolicyError::Unsigned)?
            } else {
                image.pcr0
            };
            let value = value.to_string();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        if values.is_empty() {
            return Err(PolicyError::NoImage);
        }
        Ok((if self.by_signer { SIGNER } else { IMAGE }, values))
    }
}

fn one_or_several(values: &[String]) -> Value {
    match values {
        [only] => json!(only),
        several => json!(several),
    }
}

/// A string as Terraform's language has it.
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
        .replace("${", "$${")
        .replace("%{", "%%{");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use anchorhold_attestation::Pcr;

    use super::*;

    const HOST: &str = "arn:aws:iam::111122223333:role/host";
    const OWNER: &str = "arn:aws:iam::111122223333:user/owner";

    fn measured(byte: u8, signer: Option<u8>) -> Measurements {
        let pcr = |byte| Pcr::from_bytes([byte; 48]);
        Measurements {
            pcr0: pcr(byte),
            pcr1: pcr(0x11),
            pcr2: pcr(0x22),
            pcr8: signer.map(pcr),
        }
    }

    fn policy(images: &[Measurements]) -> KeyPolicy {
        KeyPolicy {
            images: images.to_vec(),
            by_signer: false,
            principal: Some(HOST.to_owned()),
            owner: Some(OWNER.to_owned()),
            inside_only: false,
            anchors: Vec::new(),
        }
    }

    #[test]
    fn an_anchor_is_named_only_where_it_is_asked_for() {
        let mut policy = policy(&[measured(0xaa, None)]);
        assert!(!policy.document().unwrap().to_string().contains("nchor\":"));
        policy.anchors = vec![[0xab; 32]];
        assert_eq!(
            policy.statements().unwrap()[1]["Condition"],
            json!({ "StringEquals": { IMAGE: "aa".repeat(48), ANCHOR: "ab".repeat(32) } })
        );
        assert!(
            policy
                .terraform("x")
                .unwrap()
                .contains("\"anchorhold:Anchor\"")
        );
    }

    #[test]
    fn a_policy_admits_the_image_and_denies_the_host_outside_an_enclave() {
        let statements = policy(&[measured(0xaa, None)]).statements().unwrap();
        assert_eq!(statements[0]["Principal"]["AWS"], OWNER);
        assert_eq!(
            statements[1],
            json!({
                "Sid": "UseInsideTheMeasuredEnclaveOnly",
                "Effect": "Allow",
                "Principal": { "AWS": HOST },
                "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
                "Resource": "*",
                "Condition": { "StringEquals": { IMAGE: "aa".repeat(48) } },
            })
        );
        assert_eq!(statements[2]["Effect"], "Deny");
        assert_eq!(statements[2]["Principal"]["AWS"], HOST);
        assert_eq!(
            statements[2]["Condition"],
            json!({ "Null": { IMAGE: "true" } })
        );
    }

    #[test]
    fn rolling_over_admits_both_images_and_the_same_one_once() {
        let (new, old) = (measured(0xaa, None), measured(0xbb, None));
        let statements = policy(&[new, old, new]).statements().unwrap();
        assert_eq!(
            statements[1]["Condition"]["StringEquals"][IMAGE],
            json!(["aa".repeat(48), "bb".repeat(48)])
        );
    }

    #[test]
    fn a_signer_stands_in_the_image_s_place_and_an_unsigned_image_has_none() {
        let mut signed = policy(&[measured(0xaa, Some(0x88))]);
        signed.by_signer = true;
        let statements = signed.statements().unwrap();
        assert_eq!(
            statements[1]["Condition"]["StringEquals"],
            json!({ SIGNER: "88".repeat(48) })
        );
        signed.images.push(measured(0xbb, None));
        assert_eq!(signed.statements(), Err(PolicyError::Unsigned));
        assert_eq!(policy(&[]).statements(), Err(PolicyError::NoImage));
    }

    #[test]
    fn a_key_for_the_inside_alone_is_denied_to_everybody_outside_the_owner_too() {
        for principal in [Some("arn:aws:iam::111122223333:role/host".to_owned()), None] {
            let policy = KeyPolicy {
                inside_only: true,
                principal,
                ..policy(&[measured(0xaa, None)])
            };
            let statements = policy.statements().unwrap();
            let denied = &statements[2];
            assert_eq!(denied["Effect"], "Deny");
            assert_eq!(denied["Principal"]["AWS"], "*");
            assert_eq!(denied["Condition"], json!({ "Null": { IMAGE: "true" } }));
            let actions = denied["Action"].as_array().unwrap();
            assert!(actions.contains(&json!("kms:Encrypt")));
            assert!(actions.contains(&json!("kms:Decrypt")));
        }
    }

    #[test]
    fn whoever_is_the_owner_is_never_denied() {
        let mut anybody = policy(&[measured(0xaa, None)]);
        anybody.principal = None;
        let statements = anybody.statements().unwrap();
        assert_eq!(
            statements[2]["Condition"]["ArnNotEquals"],
            json!({ "aws:PrincipalArn": OWNER })
        );
        anybody.owner = None;
        assert_eq!(anybody.statements().unwrap().as_array().unwrap().len(), 1);
        let mut same = policy(&[measured(0xaa, None)]);
        same.principal = Some(OWNER.to_owned());
        assert_eq!(same.statements().unwrap().as_array().unwrap().len(), 2);
    }

    #[test]
    fn terraform_says_the_same_with_what_it_would_interpret_escaped() {
        let mut policy = policy(&[measured(0xaa, None), measured(0xbb, None)]);
        policy.principal = Some("arn:${x}\"%{y}".to_owned());
        let text = policy.terraform("cards").unwrap();
        assert!(text.starts_with("data \"aws_iam_policy_document\" \"cards\" {\n"));
        assert!(
            text.contains("identifiers = [\"arn:$${x}\\\"%%{y}\"]"),
            "{text}"
        );
        assert!(text.contains(&format!(
            "values   = [\"{}\", \"{}\"]",
            "aa".repeat(48),
            "bb".repeat(48)
        )));
        assert_eq!(text.matches("statement {").count(), 3);
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
