//! The client's half: adds the headers of a signature to a request.

use std::time::SystemTime;

use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use zeroize::Zeroizing;

use super::{ALGORITHM, Credentials, SigningKey, canonical, time};

/// Headers that whoever carries the request may change or add, and so are not signed.
const NOT_SIGNED: [&str; 9] = [
    "authorization",
    "connection",
    "expect",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "user-agent",
    "x-amzn-trace-id",
];

/// Why a request cannot be signed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// No host in the URI, and no `Host` header.
    #[error("the request has no host to sign: give its URI an authority or set its Host header")]
    NoHost,
    /// The query's percent-encoding is broken.
    #[error("the request's query has a % that two hex digits do not follow")]
    Query,
    /// The access key id or the token cannot stand in a header.
    #[error("the {what} has characters that cannot stand in a header; check the credentials")]
    NotAHeader {
        /// Which of them.
        what: &'static str,
    },
    /// The clock is before 1970 or after 9999.
    #[error("the time is before 1970 or after 9999; set the clock")]
    Time,
}

/// Signs a request: sets `Host` where it is missing, `X-Amz-Date`, for temporary credentials
/// `X-Amz-Security-Token`, and `Authorization`. All headers present are signed, except those which
/// a carrier may change; so set what is to be signed before.
///
/// # Errors
/// [`SignError`]; the request is then of no use.
pub fn sign(
    parts: &mut Parts,
    body: &[u8],
    credentials: &Credentials,
    region: &str,
    service: &str,
    time: SystemTime,
) -> Result<(), SignError> {
    let timestamp = time::basic(time::seconds(time).ok_or(SignError::Time)?);
    parts.headers.remove(AUTHORIZATION);
    parts.headers.remove("x-amz-security-token");
    if !parts.headers.contains_key(HOST) {
        let authority = parts.uri.authority().ok_or(SignError::NoHost)?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| SignError::NoHost)?;
        parts.headers.insert(HOST, host);
    }
    let date = HeaderValue::from_str(&timestamp).map_err(|_| SignError::Time)?;
    parts
        .headers
        .insert(HeaderName::from_static("x-amz-date"), date);
    if let Some(token) = &credentials.session_token {
        let mut token = HeaderValue::from_str(token).map_err(|_| SignError::NotAHeader {
            what: "session token",
        })?;
        token.set_sensitive(true);
        parts
            .headers
            .insert(HeaderName::from_static("x-amz-security-token"), token);
    }

    let mut signed: Vec<String> = parts
        .headers
        .keys()
        .map(|name| name.as_str().to_owned())
        .filter(|name| !NOT_SIGNED.contains(&name.as_str()))
        .collect();
    signed.sort();
    let head = Zeroizing::new(
        canonical::head(parts, &signed).map_err(|canonical::BadQuery| SignError::Query)?,
    );
    let request = Zeroizing::new(canonical::request(&head, body));
    let key = SigningKey::derive(
        &credentials.secret_access_key,
        &timestamp[..8],
        region,
        service,
    );
    let authorization = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={}",
        credentials.access_key_id,
        key.scope(),
        signed.join(";"),
        key.signature(&timestamp, &request),
    );
    let mut authorization =
        HeaderValue::from_str(&authorization).map_err(|_| SignError::NotAHeader {
            what: "access key id",
        })?;
    authorization.set_sensitive(true);
    parts.headers.insert(AUTHORIZATION, authorization);
    Ok(())
}
