//! STS `GetCallerIdentity`, which clients ask of whatever endpoint they are given: the query
//! protocol, a form as body and XML as answer (STS API version 2011-06-15).
//!
//! It tells callers who they are, and nobody else anything. Every other action of STS is refused.

use crate::policy::Principal;
use crate::refusal::Refusal;
use http::StatusCode;
use std::fmt::Write as _;
use uuid::Uuid;
use zeroize::Zeroizing;

/// The service's name in scopes.
pub(crate) const SERVICE: &str = "sts";
/// The only action that there is.
pub(crate) const OPERATION: &str = "GetCallerIdentity";
/// The media type of answers.
pub(crate) const CONTENT_TYPE: &str = "text/xml";

const FORM: &str = "application/x-www-form-urlencoded";
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Whether a request speaks the query protocol.
pub(crate) fn is_form(content_type: Option<&str>) -> bool {
    content_type.is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case(FORM)
    })
}

/// Checks that the body asks for the only action that there is.
pub(crate) fn check(body: &[u8]) -> Result<(), Refusal> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let mut actions = text
        .split('&')
        .filter_map(|pair| pair.strip_prefix("Action="));
    match (actions.next(), actions.next()) {
        (Some(OPERATION), None) => Ok(()),
        (None, _) => Err(Refusal::new(
            "MissingAction",
            "The request must name an Action.",
        )),
        _ => Err(Refusal::new(
            "InvalidAction",
            "GetCallerIdentity is the only action of STS that this service has.",
        )),
    }
}

pub(crate) fn answer(principal: &Principal, request_id: Uuid) -> Zeroizing<Vec<u8>> {
    let text = format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\"><GetCallerIdentityResult>\
         <Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>{request_id}</RequestId>\
         </ResponseMetadata></GetCallerIdentityResponse>",
        escaped(principal.arn()),
        escaped(&principal.user_id()),
        escaped(principal.account()),
    );
    Zeroizing::new(text.into_bytes())
}

/// The same error, under the name and status that STS has for it.
pub(crate) fn error(refusal: &Refusal, request_id: Uuid) -> (Zeroizing<Vec<u8>>, StatusCode) {
    let (code, status) = match refusal.kind {
        "UnrecognizedClientException" => ("InvalidClientTokenId", StatusCode::FORBIDDEN),
        "InvalidSignatureException" => ("SignatureDoesNotMatch", StatusCode::FORBIDDEN),
        "MissingAuthenticationTokenException" => {
            ("MissingAuthenticationToken", StatusCode::FORBIDDEN)
        }
        "IncompleteSignatureException" => ("IncompleteSignature", StatusCode::BAD_REQUEST),
        other => (other, refusal.status),
    };
    let side = if status.is_server_error() {
        "Receiver"
    } else {
        "Sender"
    };
    let text = format!(
        "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>{side}</Type><Code>{code}</Code>\
         <Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
        escaped(&refusal.message),
    );
    (Zeroizing::new(text.into_bytes()), status)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            c if c.is_control() => {
                let _ = write!(out, "\u{fffd}");
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_action_is_taken_and_only_once() {
        assert!(check(b"Action=GetCallerIdentity&Version=2011-06-15").is_ok());
        assert!(check(b"Version=2011-06-15&Action=GetCallerIdentity").is_ok());
        for (body, kind) in [
            (&b""[..], "MissingAction"),
            (b"Version=2011-06-15", "MissingAction"),
            (b"Action=AssumeRole", "InvalidAction"),
            (
                b"Action=GetCallerIdentity&Action=AssumeRole",
                "InvalidAction",
            ),
            (b"\xff\xfe", "MissingAction"),
        ] {
            assert_eq!(check(body).unwrap_err().kind, kind);
        }
    }

    #[test]
    fn nothing_that_a_caller_writes_becomes_markup() {
        let refusal = Refusal::validation("<a>&\"'\u{7}");
        let (body, _) = error(&refusal, Uuid::nil());
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.contains("<Message>&lt;a&gt;&amp;&quot;&apos;\u{fffd}</Message>"));
    }
}
