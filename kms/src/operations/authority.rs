//! Whether it may be done: the values that conditions compare with, the question to the policies
//! and grants, and the lock-out check.
//!
//! Only what the service has verified itself becomes a value.

use super::{Call, Key};
use crate::circumstances::Circumstances;
use crate::identity::Caller;
use crate::policy::{
    Context, Decision, Grant, GrantConstraints, Kind, MAX_POLICY_BYTES, Outcome, Policy,
    PrincipalName, Question, decide,
};
use crate::recipient::Recipient;
use crate::refusal::Refusal;
use crate::store::{GrantRecord, Part};
use anchorhold_kms_wire::shapes::{EncryptionAlgorithm, EncryptionContext};
use std::sync::Arc;

impl Call<'_> {
    /// The condition keys that every request has.
    pub(super) fn context(&self) -> Context {
        Circumstances {
            caller: self.caller,
            now: self.now,
            source: self.source,
            is_tls: self.is_tls,
            region: self.region,
            user_agent: self.user_agent,
        }
        .context()
    }

    pub(super) fn key_context(&self, key: &Key) -> Result<Context, Refusal> {
        let record = &key.record;
        let mut context = self.context();
        context.put("aws:ResourceAccount", record.account.as_str());
        context.put("kms:KeySpec", record.spec.as_str());
        context.put("kms:CustomerMasterKeySpec", record.spec.as_str());
        context.put("kms:KeyUsage", record.usage.as_str());
        context.put("kms:CustomerMasterKeyUsage", record.usage.as_str());
        context.put("kms:KeyOrigin", record.origin.as_str());
        context.put("kms:MultiRegion", record.multi_region.is_some().to_string());
        if let Some(part) = record.multi_region {
            context.put("kms:MultiRegionKeyType", part_name(part));
        }
        for (name, value) in &record.tags {
            context.put(&format!("aws:ResourceTag/{name}"), value.as_str());
        }
        context.put_all("kms:ResourceAliases", self.core.store.aliases_of(record)?);
        if let Some(alias) = &key.alias {
            context.put("kms:RequestAlias", alias.as_str());
        }
        Ok(context)
    }

    /// For operations with an encryption context.
    pub(super) fn cryptographic_context(
        &self,
        key: &Key,
        algorithm: &EncryptionAlgorithm,
        pairs: &EncryptionContext,
    ) -> Result<Context, Refusal> {
        let mut context = self.key_context(key)?;
        context.put("kms:EncryptionAlgorithm", algorithm.as_str());
        put_pairs(&mut context, pairs);
        Ok(context)
    }

    pub(super) fn authorize(
        &mut self,
        action: &str,
        key: &Key,
        context: &Context,
    ) -> Result<(), Refusal> {
        self.authorize_with(action, key, context, None)
    }

    pub(super) fn authorize_with(
        &mut self,
        action: &str,
        key: &Key,
        context: &Context,
        recipient: Option<&Recipient>,
    ) -> Result<(), Refusal> {
        let grants = self.core.store.all_grants_of(&key.record)?;
        self.authorize_by(action, key, context, recipient, &grants)
    }

    /// With these grants only.
    pub(super) fn authorize_by(
        &mut self,
        action: &str,
        key: &Key,
        context: &Context,
        recipient: Option<&Recipient>,
        grants: &[GrantRecord],
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
        let grants: Vec<Grant> = grants.iter().filter_map(as_judged).collect();
        let caller = self.caller;
        let question = question(caller, action, &key.arn, &key.record.account, context);
        let decision = decide(&question, Some(policy.as_ref()), &caller.policies, &grants);
        self.conclude(&question, &decision, recipient)
    }

    pub(super) fn authorize_without_key(
        &mut self,
        action: &str,
        resource: &str,
        context: &Context,
        recipient: Option<&Recipient>,
    ) -> Result<(), Refusal> {
        let caller = self.caller;
        let account = caller.principal.account();
        let question = question(caller, action, resource, account, context);
        let decision = decide(&question, None, &caller.policies, &[]);
        self.conclude(&question, &decision, recipient)
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

    pub(super) fn check_new_policy(
        &self,
        key: &Key,
        text: &str,
        bypass: bool,
    ) -> Result<(), Refusal> {
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
        let context = self.key_context(key)?;
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
}

/// A grant as the policies' judge sees it. One whose principal is not readable counts for nobody.
fn as_judged(record: &GrantRecord) -> Option<Grant> {
    Some(Grant {
        id: record.id.clone(),
        grantee: PrincipalName::of_grant(&record.grantee)?,
        retiring: match &record.retiring {
            None => None,
            Some(text) => Some(PrincipalName::of_grant(text)?),
        },
        issuing_account: record.issuing_account.clone(),
        operations: record
            .operations
            .iter()
            .map(|operation| operation.as_str().to_owned())
            .collect(),
        constraints: GrantConstraints {
            encryption_context_equals: record.context_equals.clone(),
            encryption_context_subset: record.context_subset.clone(),
        },
    })
}

pub(super) fn part_name(part: Part) -> &'static str {
    match part {
        Part::Primary => "PRIMARY",
        Part::Replica => "REPLICA",
    }
}

/// The condition keys of an encryption context.
pub(super) fn put_pairs(context: &mut Context, pairs: &EncryptionContext) {
    for (name, value) in pairs {
        context.put(&format!("kms:EncryptionContext:{name}"), value.as_str());
    }
    context.put_all("kms:EncryptionContextKeys", pairs.keys().cloned());
}

/// The condition key of a request to pass over the lock-out check. As at AWS it is there where the request
/// has it, whatever it says.
pub(super) fn put_bypass(context: &mut Context, bypass: Option<bool>) {
    if let Some(bypass) = bypass {
        context.put("kms:BypassPolicyLockoutSafetyCheck", bypass.to_string());
    }
}

/// The condition keys of a recipient.
pub(super) fn describe(recipient: Option<&Recipient>, context: &mut Context) {
    if let Some(recipient) = recipient {
        recipient.describe(context);
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
