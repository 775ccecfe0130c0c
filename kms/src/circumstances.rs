//! The condition keys that every request has: who asks, from where, how and when.
//!
//! Only what the service has found out itself goes in. A key that does not fit the principal (such
//! as `aws:username` for a role) is left out, as at AWS.

use crate::identity::Caller;
use crate::policy::{Context, PrincipalKind};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// What surrounds a request.
pub(crate) struct Circumstances<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) now: SystemTime,
    pub(crate) source: IpAddr,
    pub(crate) is_tls: bool,
    pub(crate) region: &'a str,
    pub(crate) user_agent: Option<&'a str>,
}

impl Circumstances<'_> {
    pub(crate) fn context(&self) -> Context {
        let mut context = Context::new();
        self.caller.describe(&mut context);
        context.put("aws:SourceIp", self.source.to_canonical().to_string());
        context.put("aws:SecureTransport", self.is_tls.to_string());
        context.put("aws:RequestedRegion", self.region);
        context.put("aws:ViaAWSService", "false");
        context.put("aws:PrincipalIsAWSService", "false");
        if let Some(agent) = self.user_agent {
            context.put("aws:UserAgent", agent);
        }
        let seconds = seconds(self.now);
        context.put("aws:EpochTime", seconds.to_string());
        if let Ok(now) = jiff::Timestamp::from_second(seconds) {
            context.put("aws:CurrentTime", now.to_string());
        }
        context
    }
}

impl Caller {
    /// Adds what is known of the principal.
    pub(crate) fn describe(&self, context: &mut Context) {
        let principal = &self.principal;
        context.put("aws:PrincipalArn", principal.principal_arn());
        context.put("aws:PrincipalAccount", principal.account());
        context.put("kms:CallerAccount", principal.account());
        context.put("aws:userid", principal.user_id());
        let kind = match principal.kind() {
            PrincipalKind::Root => "Account",
            PrincipalKind::User => "User",
            PrincipalKind::Session { .. } => "AssumedRole",
        };
        context.put("aws:PrincipalType", kind);
        if let Some(name) = principal.user_name() {
            context.put("aws:username", name);
        }
        for (key, value) in &self.tags {
            context.put(&format!("aws:PrincipalTag/{key}"), value.as_str());
        }
        if let Some(issued) = self.issued
            && let Ok(issued) = jiff::Timestamp::from_second(seconds(issued))
        {
            context.put("aws:TokenIssueTime", issued.to_string());
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Permissions, Principal};
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    fn context(arn: &str, issued: Option<SystemTime>) -> Context {
        let caller = Caller {
            principal: Principal::from_arn(arn).unwrap(),
            policies: Permissions::default(),
            access_key_id: "AKIAEXAMPLE000000000".to_owned(),
            tags: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
            issued,
        };
        Circumstances {
            caller: &caller,
            now: UNIX_EPOCH + Duration::from_secs(1_440_938_160),
            source: Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
            is_tls: true,
            region: "eu-west-1",
            user_agent: None,
        }
        .context()
    }

    fn value<'a>(context: &'a Context, key: &str) -> Option<&'a str> {
        context.values(key).map(|v| v[0].as_str())
    }

    #[test]
    fn a_user_has_a_name_and_no_token() {
        let context = context("arn:aws:iam::111122223333:user/dept/alice", None);
        for (key, expected) in [
            ("aws:username", Some("alice")),
            (
                "aws:PrincipalArn",
                Some("arn:aws:iam::111122223333:user/dept/alice"),
            ),
            ("aws:PrincipalType", Some("User")),
            ("aws:PrincipalTag/Team", Some("blue")),
            ("kms:CallerAccount", Some("111122223333")),
            ("aws:SourceIp", Some("127.0.0.1")),
            ("aws:SecureTransport", Some("true")),
            ("aws:CurrentTime", Some("2015-08-30T12:36:00Z")),
            ("aws:EpochTime", Some("1440938160")),
            ("aws:RequestedRegion", Some("eu-west-1")),
            ("aws:TokenIssueTime", None),
            ("aws:UserAgent", None),
            ("aws:MultiFactorAuthPresent", None),
            ("kms:ViaService", None),
        ] {
            assert_eq!(value(&context, key), expected, "{key}");
        }
        assert!(value(&context, "aws:userid").unwrap().starts_with("AIDA"));
    }

    #[test]
    fn a_session_has_its_role_s_arn_and_no_user_name() {
        let issued = UNIX_EPOCH + Duration::from_secs(1_440_938_000);
        let context = context(
            "arn:aws:sts::111122223333:assumed-role/Host/i-01",
            Some(issued),
        );
        for (key, expected) in [
            ("aws:username", None),
            (
                "aws:PrincipalArn",
                Some("arn:aws:iam::111122223333:role/Host"),
            ),
            ("aws:PrincipalType", Some("AssumedRole")),
            ("aws:TokenIssueTime", Some("2015-08-30T12:33:20Z")),
        ] {
            assert_eq!(value(&context, key), expected, "{key}");
        }
        let id = value(&context, "aws:userid").unwrap();
        assert!(id.starts_with("AROA") && id.ends_with(":i-01"), "{id}");
    }
}
