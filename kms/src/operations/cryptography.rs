//! Encryption under a key: Encrypt, Decrypt, ReEncrypt.

use super::authority::describe;
use super::{Answer, Call, Key, check_context, hand_out, not_dry};
use crate::ciphertext::{self, Ciphertext, MaterialId};
use crate::limits::Checks;
use crate::material::{Material, Oaep, encryption_algorithms};
use crate::refusal::Refusal;
use crate::request::Shown;
use anchorhold_kms_wire::shapes::{
    Blob, DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, EncryptionAlgorithm,
    EncryptionContext, KeyUsage, ReEncryptRequest, ReEncryptResponse,
};
use zeroize::Zeroizing;

const SYMMETRIC: EncryptionAlgorithm = EncryptionAlgorithm::SymmetricDefault;

fn or_symmetric(algorithm: Option<&EncryptionAlgorithm>) -> EncryptionAlgorithm {
    algorithm.cloned().unwrap_or(SYMMETRIC)
}

/// A plaintext, and the material that brought it out.
struct Opened {
    plaintext: Zeroizing<Vec<u8>>,
    /// For symmetric keys.
    material: Option<MaterialId>,
}

impl Key {
    /// Whether the key encrypts in this way.
    fn encrypts(&self, algorithm: &EncryptionAlgorithm) -> Result<(), Refusal> {
        let record = &self.record;
        self.has(
            algorithm,
            encryption_algorithms(&record.spec, &record.usage),
        )
    }
}

/// An encryption context belongs to symmetric encryption alone.
fn no_pairs(algorithm: &EncryptionAlgorithm, pairs: &EncryptionContext) -> Result<(), Refusal> {
    if *algorithm != SYMMETRIC && !pairs.is_empty() {
        return Err(Refusal::validation(format!(
            "An encryption context cannot be used with the algorithm {algorithm}."
        )));
    }
    Ok(())
}

impl Call<'_> {
    /// Encrypts under a symmetric key's present material.
    pub(super) fn seal(
        &self,
        key: &Key,
        pairs: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<(Blob, MaterialId), Refusal> {
        let (id, material) = self.material(key)?;
        let of = key.record.uuid;
        let blob = match material.as_ref() {
            Material::Symmetric(secret) => ciphertext::seal(of, &id, secret, pairs, plaintext)?,
            Material::InToken(token) => ciphertext::seal_in_token(of, &id, token, pairs, plaintext)
                .map_err(|trouble| trouble.refusal(&key.arn))?,
            Material::Mac(_) | Material::Pair(_) => {
                return Err(Refusal::internal(format!("{} is not symmetric", key.arn)));
            }
        };
        Ok((Blob(blob), id))
    }

    /// Encrypts as the algorithm says.
    fn encrypt(
        &self,
        key: &Key,
        algorithm: &EncryptionAlgorithm,
        pairs: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<(Blob, Option<MaterialId>), Refusal> {
        let Some(oaep) = Oaep::of(algorithm) else {
            let (blob, id) = self.seal(key, pairs, plaintext)?;
            return Ok((blob, Some(id)));
        };
        let (_, material) = self.material(key)?;
        let no_rsa = || Refusal::internal(format!("{} is not an RSA key", key.arn));
        let pair = material.pair().ok_or_else(no_rsa)?;
        let longest = oaep.longest(pair.modulus_len().ok_or_else(no_rsa)?);
        if plaintext.len() > longest {
            return Err(Refusal::validation(format!(
                "Algorithm {algorithm} and key spec {} cannot encrypt data larger than {longest} bytes.",
                key.record.spec
            )));
        }
        let blob = pair
            .encrypt(&oaep, plaintext)
            .ok_or_else(|| Refusal::internal("RSA encryption failed"))?;
        Ok((Blob(blob), None))
    }

    /// The key that a request or its ciphertext names.
    fn source(
        &mut self,
        name: Option<&str>,
        algorithm: &EncryptionAlgorithm,
        ciphertext: Option<&Ciphertext<'_>>,
    ) -> Result<Key, Refusal> {
        match (name, ciphertext) {
            (Some(name), _) => self.key(name),
            (None, _) if *algorithm != SYMMETRIC => Err(Refusal::validation(
                "The KeyId is required for ciphertexts of asymmetric keys.",
            )),
            (None, None) => Err(not_ours()),
            (None, Some(ciphertext)) => self.key_of(ciphertext),
        }
    }

    /// The key that a ciphertext says it was made under.
    fn key_of(&mut self, ciphertext: &Ciphertext<'_>) -> Result<Key, Refusal> {
        match self.record(ciphertext.key)? {
            Some(record) => self.named(record, None),
            None => Err(Refusal::new(
                "AccessDeniedException",
                "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.",
            )
            .because(format!(
                "the ciphertext names key {}, which does not exist here",
                ciphertext.key
            ))),
        }
    }

    /// Decrypts; the key is authorized and usable.
    fn open(
        &self,
        key: &Key,
        algorithm: &EncryptionAlgorithm,
        pairs: &EncryptionContext,
        blob: &[u8],
    ) -> Result<Opened, Refusal> {
        if let Some(oaep) = Oaep::of(algorithm) {
            let (_, material) = self.material(key)?;
            let plaintext = material.pair().and_then(|pair| pair.decrypt(&oaep, blob));
            let plaintext = plaintext.ok_or_else(|| {
                Refusal::invalid_ciphertext("the ciphertext does not decrypt under this RSA key")
            })?;
            return Ok(Opened {
                plaintext,
                material: None,
            });
        }
        let ciphertext = Ciphertext::parse(blob).ok_or_else(not_ours)?;
        let material = self
            .material_of(key, &ciphertext.material)?
            .ok_or_else(|| {
                Refusal::invalid_ciphertext(
                    "the ciphertext names material that the key does not have",
                )
            })?;
        let opened = match material.as_ref() {
            Material::Symmetric(secret) => ciphertext.open(secret, pairs),
            Material::InToken(token) => ciphertext
                .open_in_token(token, pairs)
                .map_err(|trouble| trouble.refusal(&key.arn))?,
            Material::Mac(_) | Material::Pair(_) => None,
        };
        let plaintext = opened.ok_or_else(|| {
            Refusal::invalid_ciphertext(
                "the ciphertext was changed, or was made with another encryption context",
            )
        })?;
        Ok(Opened {
            plaintext,
            material: Some(ciphertext.material),
        })
    }
}

fn not_ours() -> Refusal {
    Refusal::invalid_ciphertext("the ciphertext is not one of this service's")
}

/// A symmetric ciphertext must be the named key's.
fn belongs(key: &Key, ciphertext: Option<&Ciphertext<'_>>) -> Result<(), Refusal> {
    match ciphertext {
        Some(ciphertext) if ciphertext.key != key.record.uuid => Err(Refusal::new(
            "IncorrectKeyException",
            "The key ID in the request does not identify a CMK that can perform this operation.",
        )
        .because(format!(
            "the ciphertext was made under key {}, and the request names key {}",
            ciphertext.key,
            key.record.id()
        ))),
        _ => Ok(()),
    }
}

/// A dry run may leave the ciphertext out, if it says so and names the key.
fn ignores_ciphertext(
    dry_run: Option<bool>,
    modifiers: &[String],
    key: Option<&str>,
) -> Result<bool, Refusal> {
    if modifiers.is_empty() {
        return Ok(false);
    }
    if modifiers.iter().any(|m| m != "IGNORE_CIPHERTEXT") {
        let mut shown: Vec<String> = modifiers.to_vec();
        shown.truncate(8);
        return Err(Refusal::validation(format!(
            "1 validation error detected: Value '[{}]' at 'dryRunModifiers' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [IGNORE_CIPHERTEXT]]",
            shown.join(", ").chars().take(1024).collect::<String>()
        )));
    }
    if dry_run != Some(true) || key.is_none() {
        return Err(Refusal::validation(
            "DryRunModifiers can be used with DryRun and a KeyId only.",
        ));
    }
    Ok(true)
}

fn missing(member: &str) -> Refusal {
    Refusal::validation(format!(
        "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
    ))
}

impl Answer for EncryptRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.context("encryptionContext", &self.encryption_context);
        let algorithm = or_symmetric(self.encryption_algorithm.as_ref());
        shown.name("encryptionAlgorithm", Some(&algorithm));
        shown.set("dryRun", self.dry_run);
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<EncryptResponse, Refusal> {
        let plaintext = self.plaintext.expose();
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.blob("plaintext", plaintext, 1, 4096);
        checks.grant_tokens(&self.grant_tokens);
        checks.optional_one_of("encryptionAlgorithm", self.encryption_algorithm.as_ref());
        checks.done()?;
        check_context(&self.encryption_context)?;
        call.check_tokens(&self.grant_tokens)?;
        let algorithm = or_symmetric(self.encryption_algorithm.as_ref());
        let key = call.key(&self.key_id)?;
        let context = call.cryptographic_context(&key, &algorithm, &self.encryption_context)?;
        call.authorize("kms:Encrypt", &key, &context)?;
        key.usable()?;
        key.is_for(&KeyUsage::EncryptDecrypt, "Encrypt")?;
        key.encrypts(&algorithm)?;
        no_pairs(&algorithm, &self.encryption_context)?;
        not_dry(self.dry_run)?;
        let (blob, _) = call.encrypt(&key, &algorithm, &self.encryption_context, plaintext)?;
        Ok(EncryptResponse {
            ciphertext_blob: blob,
            key_id: key.arn,
            encryption_algorithm: algorithm,
        })
    }
}

impl Answer for DecryptRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", self.key_id.as_deref());
        shown.context("encryptionContext", &self.encryption_context);
        let algorithm = or_symmetric(self.encryption_algorithm.as_ref());
        shown.name("encryptionAlgorithm", Some(&algorithm));
        shown.set("dryRun", self.dry_run);
        shown.list("dryRunModifiers", &self.dry_run_modifiers);
        shown.recipient(self.recipient.as_ref());
    }

    /// With a document, or under RSA.
    fn is_slow(&self) -> bool {
        self.recipient.is_some() || or_symmetric(self.encryption_algorithm.as_ref()) != SYMMETRIC
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DecryptResponse, Refusal> {
        let ignores = ignores_ciphertext(
            self.dry_run,
            &self.dry_run_modifiers,
            self.key_id.as_deref(),
        )?;
        let mut checks = Checks::new();
        if let Some(blob) = &self.ciphertext_blob {
            checks.blob("ciphertextBlob", &blob.0, 1, 6144);
        }
        checks.grant_tokens(&self.grant_tokens);
        checks.optional_text("keyId", self.key_id.as_deref(), 1, 2048);
        checks.optional_one_of("encryptionAlgorithm", self.encryption_algorithm.as_ref());
        checks.done()?;
        check_context(&self.encryption_context)?;
        call.check_tokens(&self.grant_tokens)?;
        let blob = match &self.ciphertext_blob {
            Some(blob) => blob.0.as_slice(),
            None if ignores => &[],
            None => return Err(missing("ciphertextBlob")),
        };
        let algorithm = or_symmetric(self.encryption_algorithm.as_ref());
        let ciphertext = if algorithm == SYMMETRIC && !ignores {
            Ciphertext::parse(blob)
        } else {
            None
        };
        let key = call.source(self.key_id.as_deref(), &algorithm, ciphertext.as_ref())?;
        let recipient = call.recipient(self.recipient.as_ref())?;
        let mut context = call.cryptographic_context(&key, &algorithm, &self.encryption_context)?;
        describe(recipient.as_ref(), &mut context);
        call.authorize_with("kms:Decrypt", &key, &context, recipient.as_ref())?;
        key.usable()?;
        belongs(&key, ciphertext.as_ref())?;
        key.is_for(&KeyUsage::EncryptDecrypt, "Decrypt")?;
        key.encrypts(&algorithm)?;
        no_pairs(&algorithm, &self.encryption_context)?;
        if ignores {
            not_dry(self.dry_run)?;
        }
        let opened = call.open(&key, &algorithm, &self.encryption_context, blob)?;
        not_dry(self.dry_run)?;
        let (open, sealed) = hand_out(opened.plaintext, recipient.as_ref())?;
        let material = opened.material;
        Ok(DecryptResponse {
            key_material_id: material.and_then(|id| key.shown_material(id, recipient.as_ref())),
            key_id: key.arn,
            plaintext: open,
            encryption_algorithm: Some(algorithm),
            ciphertext_for_recipient: sealed,
        })
    }
}

impl Answer for ReEncryptRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("sourceKeyId", self.source_key_id.as_deref());
        shown.context("sourceEncryptionContext", &self.source_encryption_context);
        let algorithm = or_symmetric(self.source_encryption_algorithm.as_ref());
        shown.name("sourceEncryptionAlgorithm", Some(&algorithm));
        shown.text("destinationKeyId", Some(&self.destination_key_id));
        shown.context(
            "destinationEncryptionContext",
            &self.destination_encryption_context,
        );
        let algorithm = or_symmetric(self.destination_encryption_algorithm.as_ref());
        shown.name("destinationEncryptionAlgorithm", Some(&algorithm));
        shown.set("dryRun", self.dry_run);
        shown.list("dryRunModifiers", &self.dry_run_modifiers);
    }

    /// Under RSA.
    fn is_slow(&self) -> bool {
        or_symmetric(self.source_encryption_algorithm.as_ref()) != SYMMETRIC
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ReEncryptResponse, Refusal> {
        let ignores = ignores_ciphertext(
            self.dry_run,
            &self.dry_run_modifiers,
            self.source_key_id.as_deref(),
        )?;
        let mut checks = Checks::new();
        if let Some(blob) = &self.ciphertext_blob {
            checks.blob("ciphertextBlob", &blob.0, 1, 6144);
        }
        checks.optional_text("sourceKeyId", self.source_key_id.as_deref(), 1, 2048);
        checks.text("destinationKeyId", &self.destination_key_id, 1, 2048);
        checks.optional_one_of(
            "sourceEncryptionAlgorithm",
            self.source_encryption_algorithm.as_ref(),
        );
        checks.optional_one_of(
            "destinationEncryptionAlgorithm",
            self.destination_encryption_algorithm.as_ref(),
        );
        checks.grant_tokens(&self.grant_tokens);
        checks.done()?;
        check_context(&self.source_encryption_context)?;
        check_context(&self.destination_encryption_context)?;
        call.check_tokens(&self.grant_tokens)?;
        let blob = match &self.ciphertext_blob {
            Some(blob) => blob.0.as_slice(),
            None if ignores => &[],
            None => return Err(missing("ciphertextBlob")),
        };
        let from = or_symmetric(self.source_encryption_algorithm.as_ref());
        let to = or_symmetric(self.destination_encryption_algorithm.as_ref());
        let ciphertext = if from == SYMMETRIC && !ignores {
            Ciphertext::parse(blob)
        } else {
            None
        };
        let source = call.source(self.source_key_id.as_deref(), &from, ciphertext.as_ref())?;
        let destination = call.key(&self.destination_key_id)?;
        let same = (source.record.uuid == destination.record.uuid).to_string();
        let mut context =
            call.cryptographic_context(&source, &from, &self.source_encryption_context)?;
        context.put("kms:ReEncryptOnSameKey", same.as_str());
        call.authorize("kms:ReEncryptFrom", &source, &context)?;
        let mut context =
            call.cryptographic_context(&destination, &to, &self.destination_encryption_context)?;
        context.put("kms:ReEncryptOnSameKey", same);
        call.authorize("kms:ReEncryptTo", &destination, &context)?;
        source.usable()?;
        destination.usable()?;
        belongs(&source, ciphertext.as_ref())?;
        for (key, algorithm, pairs) in [
            (&source, &from, &self.source_encryption_context),
            (&destination, &to, &self.destination_encryption_context),
        ] {
            key.is_for(&KeyUsage::EncryptDecrypt, "ReEncrypt")?;
            key.encrypts(algorithm)?;
            no_pairs(algorithm, pairs)?;
        }
        if ignores {
            not_dry(self.dry_run)?;
        }
        let opened = call.open(&source, &from, &self.source_encryption_context, blob)?;
        not_dry(self.dry_run)?;
        let (blob, material) = call.encrypt(
            &destination,
            &to,
            &self.destination_encryption_context,
            &opened.plaintext,
        )?;
        Ok(ReEncryptResponse {
            ciphertext_blob: blob,
            source_key_material_id: opened
                .material
                .and_then(|id| source.shown_material(id, None)),
            destination_key_material_id: material
                .and_then(|id| destination.shown_material(id, None)),
            key_id: destination.arn,
            source_key_id: Some(source.arn),
            source_encryption_algorithm: Some(from),
            destination_encryption_algorithm: Some(to),
        })
    }
}
