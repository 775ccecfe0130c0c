//! Key policies: read, replaced, listed.

use super::authority::put_bypass;
use super::keys::gone;
use super::pages::Wanted;
use super::{Answer, Call};
use crate::limits::Checks;
use crate::refusal::Refusal;
use crate::request::Shown;
use anchorhold_kms_wire::shapes::{
    GetKeyPolicyRequest, GetKeyPolicyResponse, ListKeyPoliciesRequest, ListKeyPoliciesResponse,
    PutKeyPolicyRequest, PutKeyPolicyResponse,
};

/// The only name that a key policy has.
const DEFAULT: &str = "default";

fn check_name(checks: &mut Checks, name: Option<&str>) {
    let Some(name) = name else { return };
    checks.text("policyName", name, 1, 128);
    let matches = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    checks.pattern("policyName", name, matches, "[\\w]+");
}

fn only_default(name: Option<&str>) -> Result<(), Refusal> {
    match name {
        None | Some(DEFAULT) => Ok(()),
        Some(_) => Err(Refusal::not_found("No such policy exists")),
    }
}

impl Answer for GetKeyPolicyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("policyName", self.policy_name.as_deref());
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<GetKeyPolicyResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        check_name(&mut checks, self.policy_name.as_deref());
        checks.done()?;
        let key = call.own_key(&self.key_id, "kms:GetKeyPolicy")?;
        let context = call.key_context(&key)?;
        call.authorize("kms:GetKeyPolicy", &key, &context)?;
        only_default(self.policy_name.as_deref())?;
        Ok(GetKeyPolicyResponse {
            policy: key.record.policy,
            policy_name: Some(DEFAULT.to_owned()),
        })
    }
}

impl Answer for PutKeyPolicyRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.text("policyName", self.policy_name.as_deref());
        shown.text("policy", Some(&self.policy));
        shown.set(
            "bypassPolicyLockoutSafetyCheck",
            self.bypass_policy_lockout_safety_check,
        );
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<PutKeyPolicyResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        check_name(&mut checks, self.policy_name.as_deref());
        checks.text("policy", &self.policy, 1, 131_072);
        checks.done()?;
        let key = call.own_key(&self.key_id, "kms:PutKeyPolicy")?;
        let bypass = self.bypass_policy_lockout_safety_check == Some(true);
        let mut context = call.key_context(&key)?;
        put_bypass(&mut context, self.bypass_policy_lockout_safety_check);
        call.authorize("kms:PutKeyPolicy", &key, &context)?;
        only_default(self.policy_name.as_deref())?;
        call.check_new_policy(&key, &self.policy, bypass)?;
        let policy = self.policy.clone();
        call.core.store.change(move |writing| {
            let mut record = writing
                .key(&key.record.region, key.record.uuid)?
                .ok_or_else(|| gone(&key.arn))?;
            record.policy = policy;
            Ok(writing.put_key(&record)?)
        })?;
        Ok(PutKeyPolicyResponse {})
    }
}

impl Answer for ListKeyPoliciesRequest {
    fn show(&self, shown: &mut Shown) {
        shown.text("keyId", Some(&self.key_id));
        shown.set("limit", self.limit);
        shown.text("marker", self.marker.as_deref());
    }

    fn is_slow(&self) -> bool {
        false
    }

    fn answer(&self, call: &mut Call<'_>) -> Result<ListKeyPoliciesResponse, Refusal> {
        let mut checks = Checks::new();
        checks.text("keyId", &self.key_id, 1, 2048);
        checks.page(self.limit, self.marker.as_deref());
        checks.done()?;
        let wanted = Wanted::new(self.limit, self.marker.as_deref(), 100, 1000)?;
        let key = call.own_key(&self.key_id, "kms:ListKeyPolicies")?;
        let context = call.key_context(&key)?;
        call.authorize("kms:ListKeyPolicies", &key, &context)?;
        let page = wanted.of(vec![DEFAULT.to_owned()], String::clone);
        Ok(ListKeyPoliciesResponse {
            policy_names: page.items,
            truncated: page.truncated,
            next_marker: None,
        })
    }
}
