//! What the service makes and hands out: data keys, pairs of them, random bytes.

use super::authority::describe;
use super::{Answer, Call, Key, check_context, hand_out, not_dry, random};
use crate::limits::Checks;
use crate::material::Pair;
use crate::recipient::Recipient;
use crate::refusal::Refusal;
use crate::request::Shown;
use anchorhold_kms_wire::shapes::{
    Blob, DataKeyPairSpec, DataKeySpec, EncryptionAlgorithm, EncryptionContext,
    GenerateDataKeyPairRequest, GenerateDataKeyPairResponse,
    GenerateDataKeyPairWithoutPlaintextRequest, GenerateDataKeyPairWithoutPlaintextResponse,
    GenerateDataKeyRequest, GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse, GenerateRandomRequest, GenerateRandomResponse,
    KeySpec, KeyUsage, Origin, RecipientInfo,
};
use zeroize::Zeroizing;

/// What the four operations that make data keys have in common.
struct Ordered<'r> {
    operation: &'static str,
    key_id: &'r str,
    context: &'r EncryptionContext,
    grant_tokens: &'r [String],
    recipient: Option<&'r RecipientInfo>,
    dry_run: Option<bool>,
    /// For a pair.
    pair_spec: Option<&'r DataKeyPairSpec>,
}

impl Ordered<'_> {
    /// Everything up to the work.
    fn admit(
        &self,
        checks: Checks,
        call: &mut Call<'_>,
    ) -> Result<(Key, Option<Recipient>), Refusal> {
        let mut checks = checks;
        checks.text("keyId", self.key_id, 1, 2048);
        checks.grant_tokens(self.grant_tokens);
        checks.done()?;
        check_context(self.context)?;
        call.check_tokens(self.grant_tokens)?;
        let key = call.key(self.key_id)?;
        let recipient = call.recipient(self.recipient)?;
        let algorithm = EncryptionAlgorithm::SymmetricDefault;
        let mut context = call.cryptographic_context(&key, &algorithm, self.context)?;
        if let Some(spec) = self.pair_spec {
            context.put("kms:DataKeyPairSpec", spec.as_str());
        }
        describe(recipient.as_ref(), &mut context);
        let action = format!("kms:{}", self.operation);
        call.authorize_with(&action, &key, &context, recipient.as_ref())?;
        key.usable()?;
        key.is_for(&KeyUsage::EncryptDecrypt, self.operation)?;
        if key.record.spec != KeySpec::SymmetricDefault {
            return Err(Refusal::new(
                "InvalidKeyUsageException",
                format!(
                    "{} key spec is {} which is not valid for {}.",
                    key.arn, key.record.spec, self.operation
                ),
            ));
        }
        if self.pair_spec.is_some() && key.record.custom_key_store.is_some() {
            key.has_origin(&Origin::AwsKms)?;
        }
        Ok((key, recipient))
    }

    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(self.key_id));
        shown.context("encryptionContext", self.context);
        shown.name("keyPairSpec", self.pair_spec);
        shown.set("dryRun", self.dry_run);
        shown.recipient(self.recipient);
    }
}

fn length_of(spec: Option<&DataKeySpec>, bytes: Option<i32>) -> Result<usize, Refusal> {
    let mut checks = Checks::new();
    checks.optional_one_of("keySpec", spec);
    checks.optional_number("numberOfBytes", bytes, 1, 1024);
    checks.done()?;
    match (spec, bytes.map(usize::try_from)) {
        (Some(DataKeySpec::Aes256), None) => Ok(32),
        (Some(DataKeySpec::Aes128), None) => Ok(16),
        (None, Some(Ok(length))) => Ok(length),
        _ => Err(Refusal::validation(
            "Please specify either number of bytes or key spec.",
        )),
    }
}

/// A new pair for its asker: SPKI of the public half, PKCS#8 of the private one.
fn new_pair(spec: &DataKeyPairSpec) -> Result<(Blob, Zeroizing<Vec<u8>>), Refusal> {
    let pair = Pair::generate(&KeySpec::from(spec.as_str()))?;
    let public = pair
        .public_key()
        .ok_or_else(|| Refusal::internal("a new pair has no public key"))?;
    Ok((Blob(public), pair.into_pkcs8()))
}

fn check_pair_spec(spec: &DataKeyPairSpec) -> Result<Checks, Refusal> {
    let mut checks = Checks::new();
    checks.one_of("keyPairSpec", spec);
    match spec {
        DataKeyPairSpec::Sm2
        | DataKeyPairSpec::MlKem512
        | DataKeyPairSpec::MlKem768
        | DataKeyPairSpec::MlKem1024 => Err(Refusal::unsupported(format!(
            "KeyPairSpec {spec} is not supported by this service."
        ))),
        _ => Ok(checks),
    }
}

macro_rules! ordered {
    ($r:expr, $operation:literal, $pair_spec:expr, $recipient:expr) => {
        Ordered {
            operation: $operation,
            key_id: &$r.key_id,
            context: &$r.encryption_context,
            grant_tokens: &$r.grant_tokens,
            recipient: $recipient,
            dry_run: $r.dry_run,
            pair_spec: $pair_spec,
        }
    };
}

impl Answer for GenerateDataKeyRequest {
    fn show(&self, shown: &mut Shown) {
        ordered!(self, "GenerateDataKey", None, self.recipient.as_ref()).show(shown);
        shown.name("keySpec", self.key_spec.as_ref());
        shown.set("numberOfBytes", self.number_of_bytes);
    }

    fn is_slow(&self) -> bool {
        self.recipient.is_some()
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GenerateDataKeyResponse, Refusal> {
        let length = length_of(self.key_spec.as_ref(), self.number_of_bytes)?;
        let ordered = ordered!(self, "GenerateDataKey", None, self.recipient.as_ref());
        let (key, recipient) = ordered.admit(Checks::new(), call)?;
        not_dry(self.dry_run)?;
        let data_key = random(length)?;
        let (blob, material) = call.seal(&key, &self.encryption_context, &data_key)?;
        let (open, sealed) = hand_out(data_key, recipient.as_ref())?;
        Ok(GenerateDataKeyResponse {
            ciphertext_blob: blob,
            plaintext: open,
            key_material_id: key.shown_material(material, recipient.as_ref()),
            key_id: key.arn,
            ciphertext_for_recipient: sealed,
        })
    }
}

impl Answer for GenerateDataKeyWithoutPlaintextRequest {
    fn show(&self, shown: &mut Shown) {
        ordered!(self, "GenerateDataKeyWithoutPlaintext", None, None).show(shown);
        shown.name("keySpec", self.key_spec.as_ref());
        shown.set("numberOfBytes", self.number_of_bytes);
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn answer(
        &self,
        call: &mut Call<'_>,
    ) -> Result<GenerateDataKeyWithoutPlaintextResponse, Refusal> {
        let length = length_of(self.key_spec.as_ref(), self.number_of_bytes)?;
        let ordered = ordered!(self, "GenerateDataKeyWithoutPlaintext", None, None);
        let (key, _) = ordered.admit(Checks::new(), call)?;
        not_dry(self.dry_run)?;
        let data_key = random(length)?;
        let (blob, material) = call.seal(&key, &self.encryption_context, &data_key)?;
        Ok(GenerateDataKeyWithoutPlaintextResponse {
            ciphertext_blob: blob,
            key_material_id: key.shown_material(material, None),
            key_id: key.arn,
        })
    }
}

impl Answer for GenerateDataKeyPairRequest {
    fn show(&self, shown: &mut Shown) {
        let spec = Some(&self.key_pair_spec);
        ordered!(self, "GenerateDataKeyPair", spec, self.recipient.as_ref()).show(shown);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GenerateDataKeyPairResponse, Refusal> {
        let spec = Some(&self.key_pair_spec);
        let checks = check_pair_spec(&self.key_pair_spec)?;
        let ordered = ordered!(self, "GenerateDataKeyPair", spec, self.recipient.as_ref());
        let (key, recipient) = ordered.admit(checks, call)?;
        not_dry(self.dry_run)?;
        let (public_key, private_key) = new_pair(&self.key_pair_spec)?;
        let (blob, material) = call.seal(&key, &self.encryption_context, &private_key)?;
        let (open, sealed) = hand_out(private_key, recipient.as_ref())?;
        Ok(GenerateDataKeyPairResponse {
            private_key_ciphertext_blob: blob,
            private_key_plaintext: open,
            public_key,
            key_material_id: key.shown_material(material, None),
            key_id: key.arn,
            key_pair_spec: self.key_pair_spec.clone(),
            ciphertext_for_recipient: sealed,
        })
    }
}

impl Answer for GenerateDataKeyPairWithoutPlaintextRequest {
    fn show(&self, shown: &mut Shown) {
        let spec = Some(&self.key_pair_spec);
        ordered!(self, "GenerateDataKeyPairWithoutPlaintext", spec, None).show(shown);
    }

    fn answer(
        &self,
        call: &mut Call<'_>,
    ) -> Result<GenerateDataKeyPairWithoutPlaintextResponse, Refusal> {
        let spec = Some(&self.key_pair_spec);
        let checks = check_pair_spec(&self.key_pair_spec)?;
        let ordered = ordered!(self, "GenerateDataKeyPairWithoutPlaintext", spec, None);
        let (key, _) = ordered.admit(checks, call)?;
        not_dry(self.dry_run)?;
        let (public_key, private_key) = new_pair(&self.key_pair_spec)?;
        let (blob, material) = call.seal(&key, &self.encryption_context, &private_key)?;
        Ok(GenerateDataKeyPairWithoutPlaintextResponse {
            private_key_ciphertext_blob: blob,
            public_key,
            key_material_id: key.shown_material(material, None),
            key_id: key.arn,
            key_pair_spec: self.key_pair_spec.clone(),
        })
    }
}

impl Answer for GenerateRandomRequest {
    fn show(&self, shown: &mut Shown) {
        shown.set("numberOfBytes", self.number_of_bytes);
        shown.text("customKeyStoreId", self.custom_key_store_id.as_deref());
        shown.recipient(self.recipient.as_ref());
    }

    fn is_slow(&self) -> bool {
        self.recipient.is_some() || self.custom_key_store_id.is_some()
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GenerateRandomResponse, Refusal> {
        let mut checks = Checks::new();
        checks.optional_number("numberOfBytes", self.number_of_bytes, 1, 1024);
        let store = self.custom_key_store_id.as_deref();
        checks.optional_text("customKeyStoreId", store, 1, 64);
        checks.done()?;
        let length = self
            .number_of_bytes
            .and_then(|length| usize::try_from(length).ok())
            .ok_or_else(|| Refusal::validation("NumberOfBytes is required."))?;
        let recipient = call.recipient(self.recipient.as_ref())?;
        let mut context = call.context();
        describe(recipient.as_ref(), &mut context);
        call.authorize_without_key("kms:GenerateRandom", "*", &context, recipient.as_ref())?;
        let bytes = match store {
            None => random(length)?,
            Some(id) => call.random_of(id, length)?,
        };
        let (plaintext, sealed) = hand_out(bytes, recipient.as_ref())?;
        Ok(GenerateRandomResponse {
            plaintext,
            ciphertext_for_recipient: sealed,
        })
    }
}
