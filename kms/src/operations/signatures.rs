//! Signatures, and public keys.

use super::{Answer, Call, Key, not_dry};
use crate::limits::Checks;
use crate::material::{
    Material, Message, SigningError, agreement_algorithms, encryption_algorithms,
    signing_algorithms, usages,
};
use crate::refusal::Refusal;
use crate::request::Shown;
use anchorhold_kms_wire::shapes::{
    Blob, GetPublicKeyRequest, GetPublicKeyResponse, KeyUsage, MessageType, SignRequest,
    SignResponse, SigningAlgorithm, VerifyRequest, VerifyResponse,
};
use std::sync::Arc;

/// What Sign and Verify have in common.
struct Ordered<'r> {
    operation: &'static str,
    key_id: &'r str,
    message: &'r [u8],
    message_type: Option<&'r MessageType>,
    algorithm: &'r SigningAlgorithm,
    grant_tokens: &'r [String],
    dry_run: Option<bool>,
}

impl Ordered<'_> {
    /// Everything up to the work.
    fn admit(&self, checks: Checks, call: &mut Call<'_>) -> Result<(Key, Arc<Material>), Refusal> {
        let mut checks = checks;
        checks.text("keyId", self.key_id, 1, 2048);
        checks.blob("message", self.message, 1, 4096);
        checks.optional_one_of("messageType", self.message_type);
        checks.grant_tokens(self.grant_tokens);
        checks.one_of("signingAlgorithm", self.algorithm);
        checks.done()?;
        call.check_tokens(self.grant_tokens)?;
        let key = call.key(self.key_id)?;
        let mut context = call.key_context(&key)?;
        context.put("kms:SigningAlgorithm", self.algorithm.as_str());
        let message_type = self.message_type.map_or("RAW", |t| t.as_str());
        context.put("kms:MessageType", message_type);
        call.authorize(&format!("kms:{}", self.operation), &key, &context)?;
        key.usable()?;
        key.is_for(&KeyUsage::SignVerify, self.operation)?;
        let record = &key.record;
        key.has(
            self.algorithm,
            signing_algorithms(&record.spec, &record.usage),
        )?;
        if self.message_type == Some(&MessageType::ExternalMu) {
            return Err(Refusal::unsupported(
                "MessageType EXTERNAL_MU is not supported by this service.",
            ));
        }
        not_dry(self.dry_run)?;
        let (_, material) = call.material(&key)?;
        Ok((key, material))
    }

    fn message(&self) -> Message<'_> {
        match self.message_type {
            Some(MessageType::Digest) => Message::Digest(self.message),
            _ => Message::Whole(self.message),
        }
    }

    fn refused(&self, error: SigningError) -> Refusal {
        match error {
            SigningError::DigestLength => Refusal::validation(format!(
                "Digest is invalid length for algorithm {}.",
                self.algorithm
            )),
            SigningError::Algorithm => Refusal::validation(format!(
                "MessageType {} is not valid for algorithm {}.",
                self.message_type.map_or("RAW", |t| t.as_str()),
                self.algorithm
            )),
            SigningError::Failed => Refusal::internal("signing failed"),
        }
    }

    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(self.key_id));
        shown.name("messageType", self.message_type);
        shown.name("signingAlgorithm", Some(self.algorithm));
        shown.set("dryRun", self.dry_run);
    }
}

macro_rules! ordered {
    ($r:expr, $operation:literal) => {
        Ordered {
            operation: $operation,
            key_id: &$r.key_id,
            message: $r.message.expose(),
            message_type: $r.message_type.as_ref(),
            algorithm: &$r.signing_algorithm,
            grant_tokens: &$r.grant_tokens,
            dry_run: $r.dry_run,
        }
    };
}

fn no_pair(key: &Key) -> Refusal {
    Refusal::internal(format!("{} is not a pair", key.arn))
}

impl Answer for SignRequest {
    fn show(&self, shown: &mut Shown) {
        ordered!(self, "Sign").show(shown);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<SignResponse, Refusal> {
        let ordered = ordered!(self, "Sign");
        let (key, material) = ordered.admit(Checks::new(), call)?;
        let pair = material.pair().ok_or_else(|| no_pair(&key))?;
        let signature = pair
            .sign(&self.signing_algorithm, ordered.message())
            .map_err(|error| ordered.refused(error))?;
        Ok(SignResponse {
            key_id: key.arn,
            signature: Blob(signature),
            signing_algorithm: self.signing_algorithm.clone(),
        })
    }
}

impl Answer for VerifyRequest {
    fn show(&self, shown: &mut Shown) {
        ordered!(self, "Verify").show(shown);
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<VerifyResponse, Refusal> {
        let ordered = ordered!(self, "Verify");
        let mut checks = Checks::new();
        checks.blob("signature", &self.signature.0, 1, 6144);
        let (key, material) = ordered.admit(checks, call)?;
        let pair = material.pair().ok_or_else(|| no_pair(&key))?;
        let is_right = pair
            .verify(
                &self.signing_algorithm,
                ordered.message(),
                &self.signature.0,
            )
            .map_err(|error| ordered.refused(error))?;
        if !is_right {
            return Err(Refusal::new("KMSInvalidSignatureException", "")
                .because("the signature does not belong to the message and the key"));
        }
        Ok(VerifyResponse {
            key_id: key.arn,
            signature_valid: true,
            signing_algorithm: self.signing_algorithm.clone(),
        })
    }
}

impl Answer for GetPublicKeyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GetPublicKeyResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.grant_tokens(&self.grant_tokens);
        checks.done()?;
        call.check_tokens(&self.grant_tokens)?;
        let key = call.key(&self.key_id)?;
        let context = call.key_context(&key)?;
        call.authorize("kms:GetPublicKey", &key, &context)?;
        let record = &key.record;
        let is_pair = usages(&record.spec)
            .iter()
            .any(|u| matches!(u, KeyUsage::SignVerify | KeyUsage::KeyAgreement));
        if !is_pair {
            return Err(Refusal::unsupported(format!(
                "{} key spec is {} which is not valid for this operation.",
                key.arn, record.spec
            )));
        }
        key.usable()?;
        let (_, material) = call.material(&key)?;
        let public_key = material.public_key().ok_or_else(|| no_pair(&key))?;
        let encryption = encryption_algorithms(&record.spec, &record.usage);
        let signing = signing_algorithms(&record.spec, &record.usage);
        Ok(GetPublicKeyResponse {
            public_key: Blob(public_key),
            customer_master_key_spec: Some(record.spec.clone()),
            key_spec: Some(record.spec.clone()),
            key_usage: Some(record.usage.clone()),
            encryption_algorithms: encryption.map(<[_]>::to_vec),
            signing_algorithms: signing.map(<[_]>::to_vec),
            key_agreement_algorithms: agreement_algorithms(&record.usage).map(<[_]>::to_vec),
            key_id: key.arn,
        })
    }
}
