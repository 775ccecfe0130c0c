//! Secrets that two agree on.

use super::authority::describe;
use super::{Answer, Call, hand_out, not_dry};
use crate::limits::Checks;
use crate::refusal::Refusal;
use crate::request::Shown;
use anchorhold_kms_wire::shapes::{
    DeriveSharedSecretRequest, DeriveSharedSecretResponse, KeyUsage,
};

impl Answer for DeriveSharedSecretRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.name("keyAgreementAlgorithm", Some(&self.key_agreement_algorithm));
        shown.set("dryRun", self.dry_run);
        shown.recipient(self.recipient.as_ref());
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<DeriveSharedSecretResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.one_of("keyAgreementAlgorithm", &self.key_agreement_algorithm);
        checks.blob("publicKey", &self.public_key.0, 1, 8192);
        checks.grant_tokens(&self.grant_tokens);
        checks.done()?;
        call.check_tokens(&self.grant_tokens)?;
        let key = call.key(&self.key_id)?;
        let recipient = call.recipient(self.recipient.as_ref())?;
        let mut context = call.key_context(&key)?;
        context.put(
            "kms:KeyAgreementAlgorithm",
            self.key_agreement_algorithm.as_str(),
        );
        describe(recipient.as_ref(), &mut context);
        let action = "kms:DeriveSharedSecret";
        call.authorize_with(action, &key, &context, recipient.as_ref())?;
        key.usable()?;
        key.is_for(&KeyUsage::KeyAgreement, "DeriveSharedSecret")?;
        let (_, material) = call.material(&key)?;
        let secret = material
            .pair()
            .and_then(|pair| pair.agree(&key.record.spec, &self.public_key.0))
            .ok_or_else(|| {
                Refusal::validation(format!(
                    "The public key must be the DER of a SubjectPublicKeyInfo, an uncompressed point on the curve of {}.",
                    key.record.spec
                ))
            })?;
        not_dry(self.dry_run)?;
        let (open, sealed) = hand_out(secret, recipient.as_ref())?;
        Ok(DeriveSharedSecretResponse {
            key_id: key.arn,
            shared_secret: open,
            ciphertext_for_recipient: sealed,
            key_agreement_algorithm: Some(self.key_agreement_algorithm.clone()),
            key_origin: Some(key.record.origin),
        })
    }
}
