//! Material that owners bring along: the key to encrypt it to, its arrival, its removal.
//!
//! The private half of the wrapping key stands in the import token, sealed, and nowhere else: the
//! service keeps nothing between the two requests.

use super::keys::gone;
use super::lifecycle::forget_import;
use super::{Answer, Call, Key};
use crate::ciphertext::MaterialId;
use crate::limits::Checks;
use crate::material::{Material, NotMaterial, WrappingKey, is_wrapping_supported};
use crate::refusal::Refusal;
use crate::request::Shown;
use crate::store::{Imported, KeyRecord, MaterialRecord, Part};
use anchorhold_kms_wire::shapes::{
    Blob, DeleteImportedKeyMaterialRequest, DeleteImportedKeyMaterialResponse, ExpirationModel,
    GetParametersForImportRequest, GetParametersForImportResponse, ImportKeyMaterialRequest,
    ImportKeyMaterialResponse, ImportType, KeySpec, KeyState, Timestamp, WrappingAlgorithm,
    WrappingKeySpec,
};
use zeroize::Zeroizing;

const TOKEN_PURPOSE: &str = "anchorhold-kms import token v1";
/// Token and public key are good for this long.
const VALID_MS: i64 = 24 * 3600 * 1000;
/// The farthest that an expiry may be.
const LONGEST_VALID_MS: i64 = 365 * 86_400_000;

/// What an import token says.
struct Token {
    valid_to_ms: i64,
    algorithm: WrappingAlgorithm,
    key: WrappingKey,
}

impl Call<'_> {
    fn import_token(
        &self,
        key: &Key,
        valid_to_ms: i64,
        r: &GetParametersForImportRequest,
        private: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let header = format!(
            "{valid_to_ms} {} {} ",
            r.wrapping_algorithm, r.wrapping_key_spec
        );
        let mut text = Zeroizing::new(Vec::with_capacity(header.len() + private.len()));
        text.extend_from_slice(header.as_bytes());
        text.extend_from_slice(private);
        let tokens = self.core.store.tokens();
        Ok(tokens.seal(TOKEN_PURPOSE, key.arn.as_bytes(), &text)?)
    }

    /// `None` for whatever is not a token of this service for this key.
    fn read_import_token(&self, key: &Key, sealed: &[u8]) -> Option<Token> {
        let tokens = self.core.store.tokens();
        let text = tokens.open(TOKEN_PURPOSE, key.arn.as_bytes(), sealed)?;
        let mut parts = text.splitn(4, |byte| *byte == b' ');
        let valid_to_ms = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let algorithm = WrappingAlgorithm::from(std::str::from_utf8(parts.next()?).ok()?);
        let spec = WrappingKeySpec::from(std::str::from_utf8(parts.next()?).ok()?);
        Some(Token {
            valid_to_ms,
            algorithm,
            key: WrappingKey::read(&spec, parts.next()?)?,
        })
    }

    fn import_key(&mut self, checks: Checks, name: &str, action: &str) -> Result<Key, Refusal> {
        let mut checks = checks;
        checks.text("keyId", name, 1, 2048);
        checks.done()?;
        self.own_key(name, action)
    }
}

impl Answer for GetParametersForImportRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.name("wrappingAlgorithm", Some(&self.wrapping_algorithm));
        shown.name("wrappingKeySpec", Some(&self.wrapping_key_spec));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GetParametersForImportResponse, Refusal> {
        let mut checks = Checks::new();
        checks.one_of("wrappingAlgorithm", &self.wrapping_algorithm);
        checks.one_of("wrappingKeySpec", &self.wrapping_key_spec);
        let action = "kms:GetParametersForImport";
        let key = call.import_key(checks, &self.key_id, action)?;
        let mut context = call.key_context(&key)?;
        context.put("kms:WrappingAlgorithm", self.wrapping_algorithm.as_str());
        context.put("kms:WrappingKeySpec", self.wrapping_key_spec.as_str());
        call.authorize(action, &key, &context)?;
        key.is_imported()?;
        key.not_pending_deletion()?;
        if !is_wrapping_supported(&self.wrapping_algorithm) {
            return Err(Refusal::unsupported(format!(
                "WrappingAlgorithm {} is not supported by this service.",
                self.wrapping_algorithm
            )));
        }
        let wrapping = WrappingKey::generate(&self.wrapping_key_spec).ok_or_else(|| {
            Refusal::unsupported(format!(
                "WrappingKeySpec {} is not supported by this service.",
                self.wrapping_key_spec
            ))
        })??;
        let public_key = wrapping
            .public_key()
            .ok_or_else(|| Refusal::internal("a new wrapping key has no public key"))?;
        let valid_to_ms = call.now_ms() + VALID_MS;
        let token = call.import_token(&key, valid_to_ms, self, &wrapping.into_pkcs8())?;
        Ok(GetParametersForImportResponse {
            key_id: key.arn,
            import_token: Blob(token),
            public_key: Blob(public_key),
            parameters_valid_to: Timestamp::from_millis(valid_to_ms),
        })
    }
}

/// When the material is to expire.
fn expiry(r: &ImportKeyMaterialRequest, now_ms: i64) -> Result<Option<i64>, Refusal> {
    match (&r.expiration_model, r.valid_to) {
        (Some(ExpirationModel::DoesNotExpire), None) => Ok(None),
        (Some(ExpirationModel::DoesNotExpire), Some(_)) => Err(Refusal::validation(
            "A validTo date must not be set if the ExpirationModel is KEY_MATERIAL_DOES_NOT_EXPIRE",
        )),
        (_, None) => Err(Refusal::validation(
            "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES",
        )),
        (_, Some(at)) if at.millis <= now_ms || at.millis > now_ms + LONGEST_VALID_MS => Err(
            Refusal::validation("The validTo date must be in the future, within 365 days."),
        ),
        (_, Some(at)) => Ok(Some(at.millis)),
    }
}

fn incorrect(why: &str) -> Refusal {
    Refusal::new(
        "IncorrectKeyMaterialException",
        "The key material in the request is not identical to the key material that was previously imported into this KMS key.",
    )
    .because(why)
}

impl Answer for ImportKeyMaterialRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.name("expirationModel", self.expiration_model.as_ref());
        shown.set(
            "validTo",
            self.valid_to.map(|at| at.millis.div_euclid(1000)),
        );
        shown.name("importType", self.import_type.as_ref());
        shown.text(
            "keyMaterialDescription",
            self.key_material_description.as_deref(),
        );
        shown.text("keyMaterialId", self.key_material_id.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ImportKeyMaterialResponse, Refusal> {
        let mut checks = Checks::new();
        checks.blob("importToken", &self.import_token.0, 1, 6144);
        let wrapped = &self.encrypted_key_material.0;
        checks.blob("encryptedKeyMaterial", wrapped, 1, 6144);
        checks.optional_one_of("expirationModel", self.expiration_model.as_ref());
        checks.optional_one_of("importType", self.import_type.as_ref());
        let description = self.key_material_description.as_deref();
        checks.optional_text("keyMaterialDescription", description, 0, 256);
        check_material_id(&mut checks, self.key_material_id.as_deref());
        let action = "kms:ImportKeyMaterial";
        let key = call.import_key(checks, &self.key_id, action)?;
        let valid_to_ms = expiry(self, call.now_ms())?;
        let mut context = call.key_context(&key)?;
        let model = match valid_to_ms {
            Some(_) => ExpirationModel::Expires,
            None => ExpirationModel::DoesNotExpire,
        };
        context.put("kms:ExpirationModel", model.as_str());
        if let Some(at) = valid_to_ms {
            context.put("kms:ValidTo", at.div_euclid(1000).to_string());
        }
        call.authorize(action, &key, &context)?;
        key.is_imported()?;
        key.takes_material()?;
        let token = call
            .read_import_token(&key, &self.import_token.0)
            .ok_or_else(|| {
                Refusal::new(
                    "InvalidImportTokenException",
                    "The import token is not valid, or belongs to another KMS key.",
                )
            })?;
        if token.valid_to_ms <= call.now_ms() {
            return Err(Refusal::new(
                "ExpiredImportTokenException",
                "The import token has expired. Use GetParametersForImport to get a new one.",
            ));
        }
        let material = token
            .key
            .unwrap(&token.algorithm, wrapped)
            .ok_or_else(|| Refusal::invalid_ciphertext("the wrapped material does not unwrap"))?;
        Material::read(&key.record.spec, &material)
            .map_err(|NotMaterial| incorrect("the bytes are no material of the key's spec"))?;
        let id = call.core.store.material_id(key.record.uuid, &material);
        if self
            .key_material_id
            .as_ref()
            .is_some_and(|asked| *asked != id.to_string())
        {
            return Err(incorrect("it is not the material of the id in the request"));
        }
        let arriving = Arriving {
            id,
            kind: self.import_type.clone(),
            description: self.key_material_description.clone(),
            valid_to_ms,
        };
        let (region, of, arn) = (key.record.region.clone(), key.record.uuid, key.arn.clone());
        call.core.store.change(move |writing| {
            let record = writing.key(&region, of)?.ok_or_else(|| gone(&arn))?;
            let now = Key {
                record: record.clone(),
                arn,
                alias: None,
                unavailable: false,
            };
            now.takes_material()?;
            let record = arriving.into_record(record)?;
            writing.put_material(&record, &id, &material)?;
            writing.put_key(&record)?;
            // Replicas learn which material they are to be given.
            if record.multi_region == Some(Part::Primary) {
                for mut replica in writing.family(of)? {
                    if replica.region != record.region && replica.material_record(&id).is_none() {
                        let expected = record.material_record(&id).cloned();
                        replica.materials.extend(expected.map(absent));
                        if replica.material.is_none() {
                            replica.material = record.material;
                        }
                        writing.put_key(&replica)?;
                    }
                }
            }
            Ok(())
        })?;
        Ok(ImportKeyMaterialResponse {
            key_id: Some(key.arn),
            key_material_id: Some(id.to_string()),
        })
    }
}

/// The same material, where it was not imported yet.
pub(super) fn absent(material: MaterialRecord) -> MaterialRecord {
    MaterialRecord {
        imported: material.imported.map(|imported| Imported {
            present: false,
            valid_to_ms: None,
            ..imported
        }),
        ..material
    }
}

/// Material that has been unwrapped.
struct Arriving {
    id: MaterialId,
    kind: Option<ImportType>,
    description: Option<String>,
    valid_to_ms: Option<i64>,
}

impl Arriving {
    /// The key's record with it; refuses what is not the key's.
    fn into_record(self, mut record: KeyRecord) -> Result<KeyRecord, Refusal> {
        let imported = Imported {
            present: true,
            valid_to_ms: self.valid_to_ms,
            description: self.description,
        };
        let known = record.material_record(&self.id).is_some();
        let is_first = record.materials.is_empty();
        let is_replica = record.multi_region == Some(Part::Replica);
        let may_be_new =
            is_first || (record.spec == KeySpec::SymmetricDefault && !record.is_waiting());
        match (known, &self.kind) {
            (true, Some(ImportType::NewKeyMaterial)) => {
                return Err(Refusal::validation(
                    "The key material has been imported before. Use the ImportType EXISTING_KEY_MATERIAL.",
                ));
            }
            (true, _) => {
                let Some(old) = record.material_record_mut(&self.id) else {
                    return Err(Refusal::internal("known material is not there"));
                };
                let description = imported.description.clone();
                let before = old.imported.take().and_then(|i| i.description);
                old.imported = Some(Imported {
                    description: description.or(before),
                    ..imported
                });
            }
            (false, Some(ImportType::ExistingKeyMaterial)) => {
                return Err(incorrect("it was never imported into this key"));
            }
            (false, kind) => {
                let asks_for_new = *kind == Some(ImportType::NewKeyMaterial);
                if is_replica || !may_be_new || (!is_first && !asks_for_new) {
                    return Err(incorrect("the key has other material already"));
                }
                record.materials.push(MaterialRecord {
                    awaits_rotation: !is_first,
                    imported: Some(imported),
                    ..MaterialRecord::first(self.id)
                });
                if is_first {
                    record.material = Some(self.id);
                }
            }
        }
        let complete = record
            .materials
            .iter()
            .all(|m| m.awaits_rotation || m.is_present());
        if record.state == KeyState::PendingImport && complete {
            record.state = KeyState::Enabled;
        }
        Ok(record)
    }
}

impl KeyRecord {
    /// Whether new material waits for its rotation already: there is room for one.
    fn is_waiting(&self) -> bool {
        self.materials.iter().any(|m| m.awaits_rotation)
    }
}

fn check_material_id(checks: &mut Checks, id: Option<&str>) {
    let Some(id) = id else { return };
    checks.text("keyMaterialId", id, 64, 64);
    let matches = id.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    checks.pattern("keyMaterialId", id, matches, "^[a-f0-9]+$");
}

impl Answer for DeleteImportedKeyMaterialRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("keyMaterialId", self.key_material_id.as_deref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DeleteImportedKeyMaterialResponse, Refusal> {
        let mut checks = Checks::new();
        check_material_id(&mut checks, self.key_material_id.as_deref());
        let action = "kms:DeleteImportedKeyMaterial";
        let key = call.import_key(checks, &self.key_id, action)?;
        let context = call.key_context(&key)?;
        call.authorize(action, &key, &context)?;
        key.is_imported()?;
        let asked = self.key_material_id.clone();
        let (region, of, arn) = (key.record.region.clone(), key.record.uuid, key.arn.clone());
        let removed = call.core.store.change(move |writing| {
            let mut record = writing.key(&region, of)?.ok_or_else(|| gone(&arn))?;
            let id = match asked {
                None => record.material,
                Some(asked) => {
                    let found = record.materials.iter().find(|m| m.id.to_string() == asked);
                    let found = found.ok_or_else(|| {
                        Refusal::not_found(format!("Key material '{asked}' does not exist"))
                    })?;
                    Some(found.id)
                }
            };
            if let Some(id) = id {
                writing.remove_material(&record, &id)?;
                forget_import(&mut record, &id);
                writing.put_key(&record)?;
            }
            Ok(id)
        })?;
        Ok(DeleteImportedKeyMaterialResponse {
            key_id: Some(key.arn),
            key_material_id: removed.map(|id| id.to_string()),
        })
    }
}
