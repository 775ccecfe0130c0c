//! What each operation does, in the order that all share: shape and limits, the key, the
//! recipient's document, the policies, the key's state, and only then the work.
//!
//! Nothing here answers in the open where a Recipient was named, and nothing touches key
//! material before the policies have allowed it.

use crate::ciphertext::{self, Ciphertext};
use crate::circumstances::Circumstances;
use crate::identity::Caller;
use crate::key_name::{KeyName, alias_arn, is_alias, key_arn};
use crate::policy::{Context, Decision, Kind, MAX_POLICY_BYTES, Outcome, Policy, Question, decide};
use crate::recipient::Recipient;
use crate::refusal::Refusal;
use crate::request::{MAX_CONTEXT_LENGTH, Request, context_length};
use crate::sealing::{Secret, fill_random};
use crate::service::Core;
use crate::store::{KeyRecord, StoreError};
use anchorhold_kms_wire::shapes::{
    Blob, CreateAliasRequest, CreateAliasResponse, CreateKeyRequest, CreateKeyResponse,
    DataKeySpec, DecryptRequest, DecryptResponse, DescribeKeyRequest, DescribeKeyResponse,
    EncryptRequest, EncryptResponse, EncryptionAlgorithm, EncryptionContext,
    GenerateDataKeyRequest, GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse, GenerateRandomRequest, GenerateRandomResponse,
    GetKeyPolicyRequest, GetKeyPolicyResponse, KeyManager, KeyMetadata, KeySpec, KeyState,
    KeyUsage, Operation, Origin, PutKeyPolicyRequest, PutKeyPolicyResponse, RecipientInfo,
    SecretBlob, Timestamp,
};
use serde_json::Value;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;
use zeroize::Zeroizing;

/// One authenticated request being answered.
pub(crate) struct Call<'a> {
    pub(crate) core: &'a Core,
    pub(crate) caller: &'a Caller,
    pub(crate) now: SystemTime,
    pub(crate) source: IpAddr,
    pub(crate) is_tls: bool,
    pub(crate) user_agent: Option<&'a str>,
    /// What the audit log is to know beside the outcome.
    pub(crate) note: &'a mut Note,
}

/// What came to light while a request was answered.
#[derive(Debug, Default)]
pub(crate) struct Note {
    /// Account and ARN of what was touched or asked for.
    pub(crate) resources: Vec<(String, String)>,
    /// The recipient's document, once verified.
    pub(crate) recipient: Option<Value>,
    /// The statements that allowed it.
    pub(crate) allowed_by: Option<String>,
}

/// A key that the request names.
struct Key {
    record: KeyRecord,
    arn: String,
    /// The alias by which it was named.
    alias: Option<String>,
}

const SYMMETRIC: EncryptionAlgorithm = EncryptionAlgorithm::SymmetricDefault;

impl Call<'_> {
    /// Answers with the encoded response.
    pub(crate) fn answer(&mut self, request: Request) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        fn encoded<O: Operation>(response: &O::Response) -> Zeroizing<Vec<u8>> {
            O::encode_response(response)
        }
        match request {
            Request::CreateKey(r) => self.create_key(*r).map(|r| encoded::<CreateKeyRequest>(&r)),
            Request::DescribeKey(r) => self
                .describe_key(&r)
                .map(|r| encoded::<DescribeKeyRequest>(&r)),
            Request::GetKeyPolicy(r) => self
                .get_key_policy(&r)
                .map(|r| encoded::<GetKeyPolicyRequest>(&r)),
            Request::PutKeyPolicy(r) => self
                .put_key_policy(r)
                .map(|r| encoded::<PutKeyPolicyRequest>(&r)),
            Request::CreateAlias(r) => self
                .create_alias(&r)
                .map(|r| encoded::<CreateAliasRequest>(&r)),
            Request::Encrypt(r) => self.encrypt(&r).map(|r| encoded::<EncryptRequest>(&r)),
            Request::Decrypt(r) => self.decrypt(&r).map(|r| encoded::<DecryptRequest>(&r)),
            Request::GenerateDataKey(r) => self
                .generate_data_key(&r)
                .map(|r| encoded::<GenerateDataKeyRequest>(&r)),
            Request::GenerateDataKeyWithoutPlaintext(r) => self
                .generate_data_key_without_plaintext(&r)
                .map(|r| encoded::<GenerateDataKeyWithoutPlaintextRequest>(&r)),
            Request::GenerateRandom(r) => self
                .generate_random(&r)
                .map(|r| encoded::<GenerateRandomRequest>(&r)),
        }
    }

    fn create_key(&mut self, r: CreateKeyRequest) -> Result<CreateKeyResponse, Refusal> {
        let spec = match (r.key_spec, r.customer_master_key_spec) {
            (Some(_), Some(_)) => {
                return Err(Refusal::validation(
                    "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. CustomerMasterKeySpec is deprecated.",
                ));
            }
            (Some(spec), None) | (None, Some(spec)) => spec,
            (None, None) => KeySpec::SymmetricDefault,
        };
        let usage = r.key_usage.unwrap_or(KeyUsage::EncryptDecrypt);
        let origin = r.origin.unwrap_or(Origin::AwsKms);
        one_of("keySpec", spec.as_str(), spec.is_known())?;
        one_of("keyUsage", usage.as_str(), usage.is_known())?;
        one_of("origin", origin.as_str(), origin.is_known())?;
        let unsupported = if spec != KeySpec::SymmetricDefault {
            Some(format!("KeySpec {spec} is not supported by this service."))
        } else if usage != KeyUsage::EncryptDecrypt {
            return Err(Refusal::validation(format!(
                "KeyUsage {usage} is not compatible with KeySpec {spec}"
            )));
        } else if origin != Origin::AwsKms {
            Some(format!("Origin {origin} is not supported by this service."))
        } else if r.multi_region == Some(true) {
            Some("Multi-Region keys are not supported by this service.".to_owned())
        } else if !r.tags.is_empty() {
            Some("Tags are not supported by this service.".to_owned())
        } else if r.custom_key_store_id.is_some() || r.xks_key_id.is_some() {
            Some("Custom key stores are not supported by this service.".to_owned())
        } else {
            None
        };
        if let Some(message) = unsupported {
            return Err(Refusal::unsupported(message));
        }
        let description = r.description.unwrap_or_default();
        if description.chars().count() > 8192 {
            return Err(Refusal::constraint(
                "description",
                "Member must have length less than or equal to 8192",
            ));
        }
        let account = self.caller.principal.account().to_owned();
        let mut context = self.context();
        context.put("kms:KeySpec", spec.as_str());
        context.put("kms:CustomerMasterKeySpec", spec.as_str());
        context.put("kms:KeyUsage", usage.as_str());
        context.put("kms:CustomerMasterKeyUsage", usage.as_str());
        context.put("kms:KeyOrigin", origin.as_str());
        context.put("kms:MultiRegion", "false");
        let bypass = r.bypass_policy_lockout_safety_check;
        context.put("kms:BypassPolicyLockoutSafetyCheck", bypass.to_string());
        self.authorize_without_key("kms:CreateKey", "*", &account, &context)?;

        let policy = r.policy.unwrap_or_else(|| default_policy(&account));
        let id = Uuid::new_v4();
        let mut material_id = [0; 32];
        fill_random(&mut material_id)?;
        let record = KeyRecord {
            id,
            region: self.core.region.clone(),
            account,
            created_ms: self.now_ms(),
            description,
            state: KeyState::Enabled,
            usage,
            spec,
            origin,
            multi_region: false,
            policy,
            material: material_id,
        };
        let key = self.named(record, None);
        self.check_new_policy(&key, &key.record.policy, bypass)?;
        self.core
            .store
            .add_key(key.record.clone(), &Secret::random()?)?;
        Ok(CreateKeyResponse {
            key_metadata: metadata(&key),
        })
    }

    fn describe_key(&mut self, r: &DescribeKeyRequest) -> Result<DescribeKeyResponse, Refusal> {
        no_grants(&r.grant_tokens)?;
        let key = self.key(&r.key_id)?;
        let context = self.key_context(&key)?;
        self.authorize("kms:DescribeKey", &key, &context)?;
        Ok(DescribeKeyResponse {
            key_metadata: metadata(&key),
        })
    }

    fn get_key_policy(&mut self, r: &GetKeyPolicyRequest) -> Result<GetKeyPolicyResponse, Refusal> {
        let key = self.key_without_alias(&r.key_id)?;
        let context = self.key_context(&key)?;
        self.authorize("kms:GetKeyPolicy", &key, &context)?;
        only_default_policy(r.policy_name.as_deref())?;
        Ok(GetKeyPolicyResponse {
            policy: key.record.policy,
            policy_name: Some("default".to_owned()),
        })
    }

    fn put_key_policy(&mut self, r: PutKeyPolicyRequest) -> Result<PutKeyPolicyResponse, Refusal> {
        let key = self.key_without_alias(&r.key_id)?;
        let bypass = r.bypass_policy_lockout_safety_check;
        let mut context = self.key_context(&key)?;
        context.put("kms:BypassPolicyLockoutSafetyCheck", bypass.to_string());
        self.authorize("kms:PutKeyPolicy", &key, &context)?;
        only_default_policy(r.policy_name.as_deref())?;
        self.check_new_policy(&key, &r.policy, bypass)?;
        self.core
            .store
            .change_key(key.record.id, move |record| record.policy = r.policy)?;
        Ok(PutKeyPolicyResponse {})
    }

    fn create_alias(&mut self, r: &CreateAliasRequest) -> Result<CreateAliasResponse, Refusal> {
        let name = r.alias_name.as_str();
        if name.is_empty() || name.len() > 256 {
            return Err(Refusal::constraint(
                "aliasName",
                "Member must have length between 1 and 256, inclusive",
            ));
        }
        if !name.starts_with("alias/") {
            return Err(Refusal::new(
                "InvalidAliasNameException",
                "Alias must start with the prefix \"alias/\". Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html",
            ));
        }
        if !is_alias(name) {
            return Err(Refusal::constraint(
                "aliasName",
                "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$",
            ));
        }
        if name.starts_with("alias/aws/") {
            return Err(Refusal::new(
                "NotAuthorizedException",
                "The alias prefix \"alias/aws/\" is reserved.",
            ));
        }
        if is_alias(&r.target_key_id) {
            return Err(Refusal::validation(
                "Aliases must refer to keys. Not aliases",
            ));
        }
        let key = self.key_without_alias(&r.target_key_id)?;
        let account = self.caller.principal.account().to_owned();
        if key.record.account != account {
            return Err(Refusal::not_found(format!(
                "Key '{}' does not exist",
                key.arn
            )));
        }
        let arn = alias_arn(&self.core.region, &account, name);
        // The alias by the caller's own policies, the key by its policy.
        let context = self.context();
        self.authorize_without_key("kms:CreateAlias", &arn, &account, &context)?;
        let mut context = self.key_context(&key)?;
        context.put("kms:RequestAlias", name);
        self.authorize("kms:CreateAlias", &key, &context)?;
        self.note.resources.push((account, arn.clone()));
        match self.core.store.add_alias(key.record.id, name) {
            Ok(()) => Ok(CreateAliasResponse {}),
            Err(StoreError::AliasExists) => Err(Refusal::new(
                "AlreadyExistsException",
                format!("An alias with the name {arn} already exists"),
            )),
            Err(error) => Err(error.into()),
        }
    }

    fn encrypt(&mut self, r: &EncryptRequest) -> Result<EncryptResponse, Refusal> {
        no_grants(&r.grant_tokens)?;
        symmetric_only(r.encryption_algorithm.as_ref())?;
        check_context(&r.encryption_context)?;
        let plaintext = r.plaintext.expose();
        if !(1..=4096).contains(&plaintext.len()) {
            return Err(Refusal::constraint(
                "plaintext",
                "Member must have length between 1 and 4096, inclusive",
            ));
        }
        let key = self.key(&r.key_id)?;
        let context = self.cryptographic_context(&key, &r.encryption_context)?;
        self.authorize("kms:Encrypt", &key, &context)?;
        usable(&key)?;
        not_dry(r.dry_run)?;
        Ok(EncryptResponse {
            ciphertext_blob: self.seal(&key, &r.encryption_context, plaintext)?,
            key_id: key.arn,
            encryption_algorithm: SYMMETRIC,
        })
    }

    fn decrypt(&mut self, r: &DecryptRequest) -> Result<DecryptResponse, Refusal> {
        no_grants(&r.grant_tokens)?;
        if !r.dry_run_modifiers.is_empty() {
            return Err(Refusal::unsupported(
                "DryRunModifiers are not supported by this service.",
            ));
        }
        symmetric_only(r.encryption_algorithm.as_ref())?;
        check_context(&r.encryption_context)?;
        let blob = r
            .ciphertext_blob
            .as_ref()
            .ok_or_else(|| null("ciphertextBlob"))?;
        if !(1..=6144).contains(&blob.0.len()) {
            return Err(Refusal::constraint(
                "ciphertextBlob",
                "Member must have length between 1 and 6144, inclusive",
            ));
        }
        let no_ciphertext =
            || Refusal::invalid_ciphertext("the ciphertext is not one of this service's");
        let ciphertext = Ciphertext::parse(&blob.0);
        let key = match (&r.key_id, &ciphertext) {
            (Some(name), _) => self.key(name)?,
            (None, None) => return Err(no_ciphertext()),
            (None, Some(ciphertext)) => self.key_of(ciphertext)?,
        };
        let recipient = self.recipient(r.recipient.as_ref())?;
        let mut context = self.cryptographic_context(&key, &r.encryption_context)?;
        describe(recipient.as_ref(), &mut context);
        self.authorize_with("kms:Decrypt", &key, &context, recipient.as_ref())?;
        usable(&key)?;
        let ciphertext = ciphertext.ok_or_else(no_ciphertext)?;
        if ciphertext.key != key.record.id {
            return Err(Refusal::new(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
            .because(format!(
                "the ciphertext was made under key {}, and the request names key {}",
                ciphertext.key, key.record.id
            )));
        }
        let material = self
            .core
            .store
            .material(key.record.id, &ciphertext.material)?
            .ok_or_else(|| {
                Refusal::invalid_ciphertext("the ciphertext names material that the key never had")
            })?;
        let plaintext = ciphertext
            .open(&material, &r.encryption_context)
            .ok_or_else(|| {
                Refusal::invalid_ciphertext(
                    "the ciphertext was changed, or was made with another encryption context",
                )
            })?;
        not_dry(r.dry_run)?;
        let (open, sealed) = hand_out(plaintext, recipient.as_ref())?;
        Ok(DecryptResponse {
            key_id: key.arn,
            plaintext: open,
            encryption_algorithm: Some(SYMMETRIC),
            ciphertext_for_recipient: sealed,
            key_material_id: Some(hex::encode(ciphertext.material)),
        })
    }

    fn generate_data_key(
        &mut self,
        r: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, Refusal> {
        no_grants(&r.grant_tokens)?;
        check_context(&r.encryption_context)?;
        let length = data_key_length(r.key_spec.as_ref(), r.number_of_bytes)?;
        let key = self.key(&r.key_id)?;
        let recipient = self.recipient(r.recipient.as_ref())?;
        let mut context = self.cryptographic_context(&key, &r.encryption_context)?;
        describe(recipient.as_ref(), &mut context);
        self.authorize_with("kms:GenerateDataKey", &key, &context, recipient.as_ref())?;
        usable(&key)?;
        not_dry(r.dry_run)?;
        let data_key = random(length)?;
        let ciphertext_blob = self.seal(&key, &r.encryption_context, &data_key)?;
        let (open, sealed) = hand_out(data_key, recipient.as_ref())?;
        Ok(GenerateDataKeyResponse {
            ciphertext_blob,
            plaintext: open,
            key_id: key.arn,
            ciphertext_for_recipient: sealed,
            key_material_id: Some(hex::encode(key.record.material)),
        })
    }

    fn generate_data_key_without_plaintext(
        &mut self,
        r: &GenerateDataKeyWithoutPlaintextRequest,
    ) -> Result<GenerateDataKeyWithoutPlaintextResponse, Refusal> {
        no_grants(&r.grant_tokens)?;
        check_context(&r.encryption_context)?;
        let length = data_key_length(r.key_spec.as_ref(), r.number_of_bytes)?;
        let key = self.key(&r.key_id)?;
        let context = self.cryptographic_context(&key, &r.encryption_context)?;
        self.authorize("kms:GenerateDataKeyWithoutPlaintext", &key, &context)?;
        usable(&key)?;
        not_dry(r.dry_run)?;
        let data_key = random(length)?;
        Ok(GenerateDataKeyWithoutPlaintextResponse {
            ciphertext_blob: self.seal(&key, &r.encryption_context, &data_key)?,
            key_id: key.arn,
            key_material_id: Some(hex::encode(key.record.material)),
        })
    }

    fn generate_random(
        &mut self,
        r: &GenerateRandomRequest,
    ) -> Result<GenerateRandomResponse, Refusal> {
        if r.custom_key_store_id.is_some() {
            return Err(Refusal::unsupported(
                "Custom key stores are not supported by this service.",
            ));
        }
        let length = r.number_of_bytes.ok_or_else(|| null("numberOfBytes"))?;
        let length = byte_count(length)?;
        let recipient = self.recipient(r.recipient.as_ref())?;
        let mut context = self.context();
        describe(recipient.as_ref(), &mut context);
        let caller = self.caller;
        let account = caller.principal.account();
        let question = question(caller, "kms:GenerateRandom", "*", account, &context);
        let decision = decide(&question, None, &caller.policies, &[]);
        self.conclude(&question, &decision, recipient.as_ref())?;
        let (plaintext, sealed) = hand_out(random(length)?, recipient.as_ref())?;
        Ok(GenerateRandomResponse {
            plaintext,
            ciphertext_for_recipient: sealed,
        })
    }

    /// The key that a request names in one of the four ways.
    fn key(&mut self, name: &str) -> Result<Key, Refusal> {
        let own = self.caller.principal.account();
        let region = &self.core.region;
        let parsed = KeyName::parse(name, region)?;
        let (account, id, alias) = match parsed {
            KeyName::Id(id) => (own, id, None),
            KeyName::Arn { account, id } => (account, id, None),
            KeyName::Alias(alias) => (own, self.alias(own, alias)?, Some(alias.to_owned())),
            KeyName::AliasArn { account, alias } => {
                (account, self.alias(account, alias)?, Some(alias.to_owned()))
            }
        };
        let found = self.core.store.key(id)?;
        match found.filter(|r| r.account == account && r.region == *region) {
            Some(record) => Ok(self.named(record, alias)),
            None => Err(Refusal::not_found(format!(
                "Key '{}' does not exist",
                key_arn(region, account, id)
            ))),
        }
    }

    fn alias(&self, account: &str, alias: &str) -> Result<Uuid, Refusal> {
        let region = &self.core.region;
        self.core
            .store
            .alias(region, account, alias)?
            .ok_or_else(|| {
                Refusal::not_found(format!(
                    "Alias {} is not found.",
                    alias_arn(region, account, alias)
                ))
            })
    }

    /// For operations that take a key's id or ARN only.
    fn key_without_alias(&mut self, name: &str) -> Result<Key, Refusal> {
        match KeyName::parse(name, &self.core.region)? {
            KeyName::Alias(_) => Err(Refusal::not_found(format!("Invalid keyId '{name}'"))),
            KeyName::AliasArn { .. } => Err(Refusal::new(
                "InvalidArnException",
                format!("{name} is not the ARN of a key"),
            )),
            KeyName::Id(_) | KeyName::Arn { .. } => self.key(name),
        }
    }

    /// The key that a ciphertext says it was made under.
    fn key_of(&mut self, ciphertext: &Ciphertext<'_>) -> Result<Key, Refusal> {
        let found = self.core.store.key(ciphertext.key)?;
        match found.filter(|r| r.region == self.core.region) {
            Some(record) => Ok(self.named(record, None)),
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

    fn named(&mut self, record: KeyRecord, alias: Option<String>) -> Key {
        let arn = key_arn(&record.region, &record.account, record.id);
        self.note
            .resources
            .push((record.account.clone(), arn.clone()));
        Key { record, arn, alias }
    }

    /// Checks the document, where there is one.
    fn recipient(&mut self, info: Option<&RecipientInfo>) -> Result<Option<Recipient>, Refusal> {
        let Some(info) = info else { return Ok(None) };
        let recipient = self.core.rules.check(info, self.now)?;
        self.note.recipient = Some(recipient.audited());
        Ok(Some(recipient))
    }

    fn seal(
        &self,
        key: &Key,
        context: &EncryptionContext,
        plaintext: &[u8],
    ) -> Result<Blob, Refusal> {
        let (id, material_id) = (key.record.id, &key.record.material);
        let material = self
            .core
            .store
            .material(id, material_id)?
            .ok_or_else(|| Refusal::internal(format!("the material of key {id} is missing")))?;
        let blob = ciphertext::seal(id, material_id, &material, context, plaintext)?;
        Ok(Blob(blob))
    }

    /// The condition keys that every request has.
    fn context(&self) -> Context {
        Circumstances {
            caller: self.caller,
            now: self.now,
            source: self.source,
            is_tls: self.is_tls,
            region: &self.core.region,
            user_agent: self.user_agent,
        }
        .context()
    }

    fn key_context(&self, key: &Key) -> Result<Context, Refusal> {
        let record = &key.record;
        let mut context = self.context();
        context.put("aws:ResourceAccount", record.account.as_str());
        context.put("kms:KeySpec", record.spec.as_str());
        context.put("kms:CustomerMasterKeySpec", record.spec.as_str());
        context.put("kms:KeyUsage", record.usage.as_str());
        context.put("kms:CustomerMasterKeyUsage", record.usage.as_str());
        context.put("kms:KeyOrigin", record.origin.as_str());
        context.put("kms:MultiRegion", record.multi_region.to_string());
        context.put_all("kms:ResourceAliases", self.core.store.aliases_of(record)?);
        if let Some(alias) = &key.alias {
            context.put("kms:RequestAlias", alias.as_str());
        }
        Ok(context)
    }

    /// For operations with an encryption context.
    fn cryptographic_context(
        &self,
        key: &Key,
        pairs: &EncryptionContext,
    ) -> Result<Context, Refusal> {
        let mut context = self.key_context(key)?;
        context.put("kms:EncryptionAlgorithm", SYMMETRIC.as_str());
        for (name, value) in pairs {
            context.put(&format!("kms:EncryptionContext:{name}"), value.as_str());
        }
        context.put_all("kms:EncryptionContextKeys", pairs.keys().cloned());
        Ok(context)
    }

    fn authorize(&mut self, action: &str, key: &Key, context: &Context) -> Result<(), Refusal> {
        self.authorize_with(action, key, context, None)
    }

    fn authorize_with(
        &mut self,
        action: &str,
        key: &Key,
        context: &Context,
        recipient: Option<&Recipient>,
    ) -> Result<(), Refusal> {
        // The text alone says what a policy is: there is no generation to it.
        let text = key.record.policy.as_str();
        let policy = self.core.policies.get_or(text, 0, || {
            Policy::parse(text, Kind::Key)
                .map(Arc::new)
                .map_err(|error| {
                    Refusal::internal(format!(
                        "the stored policy of {} is not readable: {error}",
                        key.arn
                    ))
                })
        })?;
        let caller = self.caller;
        let question = question(caller, action, &key.arn, &key.record.account, context);
        let decision = decide(&question, Some(policy.as_ref()), &caller.policies, &[]);
        self.conclude(&question, &decision, recipient)
    }

    fn authorize_without_key(
        &mut self,
        action: &str,
        resource: &str,
        account: &str,
        context: &Context,
    ) -> Result<(), Refusal> {
        let caller = self.caller;
        let question = question(caller, action, resource, account, context);
        let decision = decide(&question, None, &caller.policies, &[]);
        self.conclude(&question, &decision, None)
    }

    /// Notes who allowed it, or refuses: AWS's text for the caller, the trace for the audit log.
    fn conclude(
        &mut self,
        question: &Question<'_>,
        decision: &Decision,
        recipient: Option<&Recipient>,
    ) -> Result<(), Refusal> {
        if decision.outcome() == Outcome::Allowed {
            self.note.allowed_by = Some(decision.reason().to_owned());
            return Ok(());
        }
        let mut reason = decision.reason().to_owned();
        let lacks_measurement = decision.trace().iter().any(|statement| {
            statement.conditions.iter().any(|c| {
                c.found.is_none()
                    && c.key
                        .to_ascii_lowercase()
                        .starts_with("kms:recipientattestation:")
            })
        });
        if lacks_measurement {
            match recipient {
                None => reason.push_str("; the request carried no attestation document"),
                Some(recipient) if recipient.is_uncounted() => reason.push_str(
                    "; the enclave runs in debug mode, so that its measurements count as absent",
                ),
                Some(_) => {}
            }
        }
        Err(
            Refusal::new("AccessDeniedException", decision.message(question))
                .because(reason)
                .with_trace(decision.trace().to_vec()),
        )
    }

    fn check_new_policy(&self, key: &Key, text: &str, bypass: bool) -> Result<(), Refusal> {
        if text.is_empty() || text.chars().count() > 131_072 {
            return Err(Refusal::constraint(
                "policy",
                "Member must have length between 1 and 131072, inclusive",
            ));
        }
        if text.len() > MAX_POLICY_BYTES {
            return Err(Refusal::new(
                "LimitExceededException",
                format!("The key policy must not be longer than {MAX_POLICY_BYTES} bytes."),
            ));
        }
        let malformed = |why: String| Refusal::new("MalformedPolicyDocumentException", why);
        let policy = Policy::parse(text, Kind::Key)
            .map_err(|error| malformed(error.message()).because(error.to_string()))?;
        if bypass {
            return Ok(());
        }
        let mut context = self.key_context(key)?;
        context.put("kms:BypassPolicyLockoutSafetyCheck", "false");
        let caller = self.caller;
        let account = &key.record.account;
        let question = question(caller, "kms:PutKeyPolicy", &key.arn, account, &context);
        let decision = decide(&question, Some(&policy), &caller.policies, &[]);
        if decision.is_allowed() {
            Ok(())
        } else {
            Err(malformed(
                "The new key policy will not allow you to update the key policy in the future."
                    .to_owned(),
            )
            .because(format!(
                "the new key policy would lock the caller out: {}",
                decision.reason()
            ))
            .with_trace(decision.trace().to_vec()))
        }
    }

    fn now_ms(&self) -> i64 {
        self.now
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .unwrap_or(0)
    }
}

fn question<'q>(
    caller: &'q Caller,
    action: &'q str,
    resource: &'q str,
    resource_account: &'q str,
    context: &'q Context,
) -> Question<'q> {
    Question {
        principal: &caller.principal,
        action,
        resource,
        resource_account,
        context,
    }
}

fn describe(recipient: Option<&Recipient>, context: &mut Context) {
    if let Some(recipient) = recipient {
        recipient.describe(context);
    }
}

/// In the open, or in the recipient's envelope: never both.
fn hand_out(
    plaintext: Zeroizing<Vec<u8>>,
    recipient: Option<&Recipient>,
) -> Result<(Option<SecretBlob>, Option<Blob>), Refusal> {
    match recipient {
        None => Ok((Some(SecretBlob::new(plaintext)), None)),
        Some(recipient) => Ok((None, Some(recipient.seal(&plaintext)?))),
    }
}

fn random(length: usize) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    fill_random(&mut bytes)?;
    Ok(bytes)
}

fn metadata(key: &Key) -> KeyMetadata {
    let record = &key.record;
    KeyMetadata {
        aws_account_id: Some(record.account.clone()),
        key_id: record.id.to_string(),
        arn: Some(key.arn.clone()),
        creation_date: Some(Timestamp::from_millis(record.created_ms)),
        enabled: record.state == KeyState::Enabled,
        description: record.description.clone(),
        key_usage: Some(record.usage.clone()),
        key_state: Some(record.state.clone()),
        origin: Some(record.origin.clone()),
        key_manager: Some(KeyManager::Customer),
        customer_master_key_spec: Some(record.spec.clone()),
        key_spec: Some(record.spec.clone()),
        encryption_algorithms: Some(vec![SYMMETRIC]),
        multi_region: Some(record.multi_region),
        current_key_material_id: Some(hex::encode(record.material)),
        ..KeyMetadata::default()
    }
}

/// AWS's default: everything is left to the account's own policies.
fn default_policy(account: &str) -> String {
    format!(
        r#"{{
  "Version" : "2012-10-17",
  "Id" : "key-default-1",
  "Statement" : [ {{
    "Sid" : "Enable IAM User Permissions",
    "Effect" : "Allow",
    "Principal" : {{
      "AWS" : "arn:aws:iam::{account}:root"
    }},
    "Action" : "kms:*",
    "Resource" : "*"
  }} ]
}}"#
    )
}

fn usable(key: &Key) -> Result<(), Refusal> {
    match &key.record.state {
        KeyState::Enabled => Ok(()),
        KeyState::Disabled => Err(Refusal::new(
            "DisabledException",
            format!("{} is disabled.", key.arn),
        )),
        other => Err(Refusal::new(
            "KMSInvalidStateException",
            format!("{} is in the state {other}.", key.arn),
        )),
    }
}

fn not_dry(dry_run: Option<bool>) -> Result<(), Refusal> {
    if dry_run == Some(true) {
        return Err(Refusal::new(
            "DryRunOperationException",
            "The request would have succeeded, but the DryRun option is set.",
        ));
    }
    Ok(())
}

fn no_grants(tokens: &[String]) -> Result<(), Refusal> {
    if tokens.len() > 10 {
        return Err(Refusal::constraint(
            "grantTokens",
            "Member must have length less than or equal to 10",
        ));
    }
    if tokens.is_empty() {
        Ok(())
    } else {
        Err(Refusal::new(
            "InvalidGrantTokenException",
            "No grant of this service has such a token.",
        ))
    }
}

fn symmetric_only(algorithm: Option<&EncryptionAlgorithm>) -> Result<(), Refusal> {
    let Some(algorithm) = algorithm else {
        return Ok(());
    };
    one_of(
        "encryptionAlgorithm",
        algorithm.as_str(),
        algorithm.is_known(),
    )?;
    if *algorithm == SYMMETRIC {
        Ok(())
    } else {
        Err(Refusal::new(
            "InvalidKeyUsageException",
            format!(
                "The algorithm {algorithm} is incompatible with a key of the spec SYMMETRIC_DEFAULT."
            ),
        ))
    }
}

fn check_context(context: &EncryptionContext) -> Result<(), Refusal> {
    if context_length(context) > MAX_CONTEXT_LENGTH {
        return Err(Refusal::validation(format!(
            "The encryption context must not have more than {MAX_CONTEXT_LENGTH} characters."
        )));
    }
    // Condition keys ignore case: two values for one key would be ambiguous for every policy.
    let mut names: Vec<String> = context.keys().map(|k| k.to_lowercase()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Refusal::validation(
            "The encryption context must not have keys that differ in case only.",
        ));
    }
    Ok(())
}

fn data_key_length(spec: Option<&DataKeySpec>, bytes: Option<i32>) -> Result<usize, Refusal> {
    match (spec, bytes) {
        (Some(DataKeySpec::Aes256), None) => Ok(32),
        (Some(DataKeySpec::Aes128), None) => Ok(16),
        (Some(other), None) => {
            one_of("keySpec", other.as_str(), other.is_known())?;
            Err(Refusal::unsupported(format!(
                "KeySpec {other} is not supported by this service."
            )))
        }
        (None, Some(count)) => byte_count(count),
        (Some(_), Some(_)) | (None, None) => Err(Refusal::validation(
            "Please specify either number of bytes or key spec.",
        )),
    }
}

fn byte_count(count: i32) -> Result<usize, Refusal> {
    match usize::try_from(count) {
        Ok(length @ 1..=1024) => Ok(length),
        _ => Err(Refusal::constraint(
            "numberOfBytes",
            "Member must have value between 1 and 1024, inclusive",
        )),
    }
}

fn only_default_policy(name: Option<&str>) -> Result<(), Refusal> {
    match name {
        None | Some("default") => Ok(()),
        Some(_) => Err(Refusal::not_found("No such policy exists")),
    }
}

/// A name that is in none of AWS's sets.
fn one_of(member: &str, value: &str, is_known: bool) -> Result<(), Refusal> {
    if is_known {
        return Ok(());
    }
    let shown: String = value.chars().take(64).collect();
    Err(Refusal::validation(format!(
        "1 validation error detected: Value '{shown}' at '{member}' failed to satisfy constraint: Member must satisfy enum value set"
    )))
}

fn null(member: &str) -> Refusal {
    Refusal::validation(format!(
        "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
    ))
}
