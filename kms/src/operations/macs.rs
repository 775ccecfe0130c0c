//! Message authentication codes.

use super::{Answer, Call, Key, not_dry};
use crate::limits::Checks;
use crate::material::{Material, mac_algorithms};
use crate::refusal::Refusal;
use crate::request::Shown;
use anchorhold_kms_wire::shapes::{
    Blob, GenerateMacRequest, GenerateMacResponse, KeyUsage, MacAlgorithm, VerifyMacRequest,
    VerifyMacResponse,
};
use std::sync::Arc;

/// What both operations have in common.
struct Ordered<'r> {
    operation: &'static str,
    key_id: &'r str,
    message: &'r [u8],
    algorithm: &'r MacAlgorithm,
    grant_tokens: &'r [String],
    dry_run: Option<bool>,
}

impl Ordered<'_> {
    /// Everything up to the work.
    fn admit(&self, checks: Checks, call: &mut Call<'_>) -> Result<(Key, Arc<Material>), Refusal> {
        let mut checks = checks;
        checks.blob("message", self.message, 1, 4096);
        checks.text("keyId", self.key_id, 1, 2048);
        checks.one_of("macAlgorithm", self.algorithm);
        checks.grant_tokens(self.grant_tokens);
        checks.done()?;
        call.check_tokens(self.grant_tokens)?;
        let key = call.key(self.key_id)?;
        let mut context = call.key_context(&key)?;
        context.put("kms:MacAlgorithm", self.algorithm.as_str());
        call.authorize(&format!("kms:{}", self.operation), &key, &context)?;
        key.usable()?;
        key.is_for(&KeyUsage::GenerateVerifyMac, self.operation)?;
        key.has(self.algorithm, mac_algorithms(&key.record.spec))?;
        not_dry(self.dry_run)?;
        let (_, material) = call.material(&key)?;
        Ok((key, material))
    }

    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(self.key_id));
        shown.name("macAlgorithm", Some(self.algorithm));
        shown.set("dryRun", self.dry_run);
    }
}

macro_rules! ordered {
    ($r:expr, $operation:literal) => {
        Ordered {
            operation: $operation,
            key_id: &$r.key_id,
            message: $r.message.expose(),
            algorithm: &$r.mac_algorithm,
            grant_tokens: &$r.grant_tokens,
            dry_run: $r.dry_run,
        }
    };
}

fn no_mac(key: &Key) -> Refusal {
    Refusal::internal(format!("{} is not for HMAC", key.arn))
}

impl Answer for GenerateMacRequest {
    fn show(&self, shown: &mut Shown) {
        ordered!(self, "GenerateMac").show(shown);
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GenerateMacResponse, Refusal> {
        let (key, material) = ordered!(self, "GenerateMac").admit(Checks::new(), call)?;
        let mac = material.mac(&self.mac_algorithm, self.message.expose());
        Ok(GenerateMacResponse {
            mac: Blob(mac.ok_or_else(|| no_mac(&key))?),
            mac_algorithm: self.mac_algorithm.clone(),
            key_id: key.arn,
        })
    }
}

impl Answer for VerifyMacRequest {
    fn show(&self, shown: &mut Shown) {
        ordered!(self, "VerifyMac").show(shown);
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<VerifyMacResponse, Refusal> {
        let mut checks = Checks::new();
        checks.blob("mac", &self.mac.0, 1, 6144);
        let (key, material) = ordered!(self, "VerifyMac").admit(checks, call)?;
        let (algorithm, message) = (&self.mac_algorithm, self.message.expose());
        match material.verify_mac(algorithm, message, &self.mac.0) {
            None => Err(no_mac(&key)),
            Some(false) => Err(Refusal::new("KMSInvalidMacException", "")
                .because("the code does not belong to the message and the key")),
            Some(true) => Ok(VerifyMacResponse {
                key_id: key.arn,
                mac_valid: true,
                mac_algorithm: self.mac_algorithm.clone(),
            }),
        }
    }
}
