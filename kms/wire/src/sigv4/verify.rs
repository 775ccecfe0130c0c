//! The service's half: reads what a request claims, and verifies it with the secret.
//!
//! Errors carry AWS's code and, where AWS's text is published, its text. They must not repeat a
//! signature or say how a right one would look.

use std::time::{Duration, SystemTime};

use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderName};
use http::request::Parts;
use zeroize::Zeroizing;

use super::{ALGORITHM, SigningKey, TERMINATOR, canonical, time};

/// What a request claims about its sender. Nothing in it is true until [`Presented::verify`] has
/// said so.
pub struct Presented {
    access_key_id: String,
    session_token: Option<Zeroizing<String>>,
    scope: Scope,
    /// Seconds since 1970, and the same as text.
    signed_at: u64,
    timestamp: String,
    signature: [u8; 32],
    /// The hash of the body that `X-Amz-Content-Sha256` names, where it is there.
    payload_hash: Option<String>,
    /// The canonical request, but for the hash of the body. Taken from the very request that was
    /// parsed, so that no other can be verified in its place.
    head: Zeroizing<Vec<u8>>,
}

struct Scope {
    date: String,
    region: String,
    service: String,
    terminator: String,
}

/// What a signature must have been made for.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The Regions that the service plays.
    pub regions: &'a [&'a str],
    /// The services' names in scopes: `kms`, and `sts` where its requests are answered too.
    pub services: &'a [&'a str],
    /// The time.
    pub now: SystemTime,
    /// How far the request's time may lie from `now`, to either side.
    pub max_skew: Duration,
}

/// A sender who has shown to know the secret of an access key. Made by verification only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    access_key_id: String,
    region: String,
    service: String,
    signed_at: u64,
}

impl Authenticated {
    /// The Region that was signed for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The service that was signed for.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The access key whose secret was shown to be known.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// When the request says it was signed, in seconds since 1970.
    pub fn signed_at(&self) -> u64 {
        self.signed_at
    }
}

impl Presented {
    /// Reads a request's `Authorization` header and all that goes with it.
    ///
    /// Refused are: signatures in the query, other algorithms, parts that are missing, unknown or
    /// repeated, a repeated `Host`, `X-Amz-*` or `Content-Type` header, and signatures that leave
    /// out one of those or the date.
    ///
    /// # Errors
    /// [`SigV4Error`].
    pub fn parse(parts: &Parts) -> Result<Self, SigV4Error> {
        refuse_presigned(parts)?;
        let Some(authorization) = single(parts, &AUTHORIZATION)? else {
            return Err(SigV4Error::MissingAuthenticationToken);
        };
        let Authorization {
            credential,
            signed_headers,
            signature,
        } = Authorization::parse(authorization, has_date(parts))?;
        let signed_headers = signed_header_names(signed_headers)?;
        let (access_key_id, scope) = Scope::parse(credential)?;
        let signature = signature_bytes(signature)?;
        check_signed(parts, &signed_headers)?;
        let (signed_at, date_header) = signing_time(parts)?;
        if !signed_headers.iter().any(|name| name == date_header) {
            return Err(SigV4Error::NotSigned {
                header: date_header.to_owned(),
            });
        }
        let session_token = single(parts, &HeaderName::from_static("x-amz-security-token"))?;
        let payload_hash = single(parts, &HeaderName::from_static("x-amz-content-sha256"))?;
        if payload_hash.is_some_and(|text| !is_sha256(text)) {
            return Err(SigV4Error::UnsignedPayload);
        }
        let head = canonical::head(parts, &signed_headers)
            .map_err(|canonical::BadQuery| SigV4Error::BadQuery)?;
        Ok(Self {
            access_key_id: access_key_id.to_owned(),
            session_token: session_token.map(|token| Zeroizing::new(token.to_owned())),
            scope,
            signed_at,
            timestamp: time::basic(signed_at),
            signature,
            payload_hash: payload_hash.map(str::to_owned),
            head: Zeroizing::new(head),
        })
    }

    /// The access key that the sender claims to hold, by which the service finds the secret.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The token of temporary credentials, covered by the signature. Whether it is the one which
    /// goes with the access key is the service's to check, in constant time.
    pub fn session_token(&self) -> Option<&str> {
        self.session_token.as_ref().map(|token| token.as_str())
    }

    /// The Region for which the sender claims to have signed.
    pub fn region(&self) -> &str {
        &self.scope.region
    }

    /// The service for which the sender claims to have signed.
    pub fn service(&self) -> &str {
        &self.scope.service
    }

    /// Whether a kept key is one for this day, Region and service.
    pub fn is_scope_of(&self, key: &SigningKey) -> bool {
        key.date == self.scope.date
            && key.region == self.scope.region
            && key.service == self.scope.service
    }

    /// The day for which the sender claims to have signed, `YYYYMMDD`: what a kept
    /// [`SigningKey`] is found by.
    pub fn date(&self) -> &str {
        &self.scope.date
    }

    /// Verifies scope, time and signature. `body` is the whole body; its hash is computed here.
    ///
    /// # Errors
    /// [`SigV4Error`]; for all that is wrong with the signature itself, [`SigV4Error::Mismatch`].
    pub fn verify(
        self,
        body: &[u8],
        secret_access_key: &str,
        expected: &Expected<'_>,
    ) -> Result<Authenticated, SigV4Error> {
        // First what costs nothing.
        self.check_scope_and_time(expected)?;
        let key = SigningKey::derive(
            secret_access_key,
            &self.scope.date,
            &self.scope.region,
            &self.scope.service,
        );
        self.verify_with_key(body, &key, expected)
    }

    /// As [`Presented::verify`], with a key that was derived before.
    ///
    /// # Errors
    /// As there. A key for another day, Region or service matches nothing.
    pub fn verify_with_key(
        self,
        body: &[u8],
        key: &SigningKey,
        expected: &Expected<'_>,
    ) -> Result<Authenticated, SigV4Error> {
        self.check_scope_and_time(expected)?;
        let is_other_payload = |named: &String| *named != canonical::sha256_hex(body);
        if self.payload_hash.as_ref().is_some_and(is_other_payload) {
            return Err(SigV4Error::PayloadHash);
        }
        let same_scope = self.is_scope_of(key);
        let request = Zeroizing::new(canonical::request(&self.head, body));
        if same_scope && key.signature_matches(&self.timestamp, &request, &self.signature) {
            Ok(Authenticated {
                access_key_id: self.access_key_id,
                region: self.scope.region,
                service: self.scope.service,
                signed_at: self.signed_at,
            })
        } else {
            Err(SigV4Error::Mismatch)
        }
    }

    /// What needs no secret: whether the scope is for this service, and the time is now. Part of
    /// [`Presented::verify`]; to be called before a secret is looked for.
    ///
    /// # Errors
    /// [`SigV4Error`].
    pub fn check_scope_and_time(&self, expected: &Expected<'_>) -> Result<(), SigV4Error> {
        if self.scope.terminator != TERMINATOR {
            return Err(SigV4Error::ScopeTerminator);
        }
        if !expected.services.contains(&self.scope.service.as_str()) {
            return Err(SigV4Error::ScopeService {
                expected: expected
                    .services
                    .first()
                    .copied()
                    .unwrap_or_default()
                    .to_owned(),
            });
        }
        if !expected.regions.contains(&self.scope.region.as_str()) {
            return Err(SigV4Error::ScopeRegion);
        }
        if self.scope.date != self.timestamp[..8] {
            return Err(SigV4Error::ScopeDate {
                scope: self.scope.date.clone(),
                timestamp: self.timestamp.clone(),
            });
        }
        let now = time::seconds(expected.now).ok_or(SigV4Error::ServiceClock)?;
        let skew = expected.max_skew.as_secs();
        let about = |bound: u64| SkewReport {
            signed: self.timestamp.clone(),
            bound: time::basic(bound),
            now: time::basic(now),
            minutes: skew / 60,
        };
        let (earliest, latest) = (now.saturating_sub(skew), now.saturating_add(skew));
        if self.signed_at < earliest {
            return Err(SigV4Error::Expired(about(earliest)));
        }
        if self.signed_at > latest {
            return Err(SigV4Error::NotYetCurrent(about(latest)));
        }
        Ok(())
    }
}

fn refuse_presigned(parts: &Parts) -> Result<(), SigV4Error> {
    const RESERVED: [&str; 4] = [
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-signature",
        "x-amz-signedheaders",
    ];
    let query = parts.uri.query().unwrap_or_default();
    if canonical::query_names(query).any(|name| {
        RESERVED
            .iter()
            .any(|reserved| name.eq_ignore_ascii_case(reserved))
    }) {
        return Err(SigV4Error::Presigned);
    }
    Ok(())
}

/// The value of a header that may come once.
fn single<'a>(parts: &'a Parts, name: &HeaderName) -> Result<Option<&'a str>, SigV4Error> {
    let mut values = parts.headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(SigV4Error::Repeated {
            header: name.to_string(),
        });
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| SigV4Error::Unreadable {
            header: name.to_string(),
        })
}

struct Authorization<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn parse(text: &'a str, has_date: bool) -> Result<Self, SigV4Error> {
        let (algorithm, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if algorithm != ALGORITHM {
            return Err(SigV4Error::UnsupportedAlgorithm);
        }
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        let parts = rest
            .split(',')
            .map(str::trim)
            .filter(|_| !rest.trim().is_empty());
        for part in parts {
            let (name, value) = part.split_once('=').ok_or(SigV4Error::UnknownPart)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(SigV4Error::UnknownPart),
            };
            if slot.replace(value).is_some() {
                return Err(SigV4Error::RepeatedPart);
            }
        }
        let present = |part: Option<&'a str>| part.filter(|value| !value.is_empty());
        match (
            present(credential),
            present(signed_headers),
            present(signature),
            has_date,
        ) {
            (Some(credential), Some(signed_headers), Some(signature), true) => Ok(Self {
                credential,
                signed_headers,
                signature,
            }),
            (credential, signed_headers, signature, date) => {
                Err(SigV4Error::Incomplete(MissingParts {
                    credential: credential.is_none(),
                    signature: signature.is_none(),
                    signed_headers: signed_headers.is_none(),
                    date: !date,
                }))
            }
        }
    }
}

fn has_date(parts: &Parts) -> bool {
    parts.headers.contains_key("x-amz-date") || parts.headers.contains_key(DATE)
}

impl Scope {
    fn parse(credential: &str) -> Result<(&str, Self), SigV4Error> {
        let elements: Vec<&str> = credential.split('/').collect();
        let &[access_key_id, date, region, service, terminator] = elements.as_slice() else {
            return Err(SigV4Error::Credential);
        };
        let name = |text: &str| {
            (1..=128).contains(&text.len())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        if ![access_key_id, date, region, service, terminator]
            .into_iter()
            .all(name)
        {
            return Err(SigV4Error::Credential);
        }
        let scope = Self {
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            terminator: terminator.to_owned(),
        };
        Ok((access_key_id, scope))
    }
}

/// The names, which must be in lower case, sorted, each once, as the rules for signing demand.
fn signed_header_names(text: &str) -> Result<Vec<String>, SigV4Error> {
    let names: Vec<String> = text.split(';').map(str::to_owned).collect();
    // http makes names of lower case and refuses what is none.
    let proper = names.iter().all(|name| {
        HeaderName::try_from(name.as_str()).is_ok_and(|parsed| parsed.as_str() == name)
    });
    if !proper || !names.is_sorted_by(|a, b| a < b) {
        return Err(SigV4Error::SignedHeaders);
    }
    Ok(names)
}

fn signature_bytes(text: &str) -> Result<[u8; 32], SigV4Error> {
    let mut bytes = [0; 32];
    // In lower case only, so that there is one way of writing a signature.
    if text.bytes().any(|byte| byte.is_ascii_uppercase())
        || hex::decode_to_slice(text, &mut bytes).is_err()
    {
        return Err(SigV4Error::SignatureFormat);
    }
    Ok(bytes)
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What must be signed: `Host`; `Content-Type` and each `X-Amz-*` header where present. And what
/// is said to be signed must be there.
fn check_signed(parts: &Parts, signed: &[String]) -> Result<(), SigV4Error> {
    if !signed.iter().any(|name| name == HOST.as_str()) {
        return Err(SigV4Error::NotSigned {
            header: HOST.to_string(),
        });
    }
    for name in parts.headers.keys() {
        if name == HOST || name == CONTENT_TYPE || name.as_str().starts_with("x-amz-") {
            if !signed.iter().any(|signed| signed == name.as_str()) {
                return Err(SigV4Error::NotSigned {
                    header: name.to_string(),
                });
            }
            if parts.headers.get_all(name).iter().nth(1).is_some() {
                return Err(SigV4Error::Repeated {
                    header: name.to_string(),
                });
            }
        }
    }
    match signed
        .iter()
        .find(|name| !parts.headers.contains_key(name.as_str()))
    {
        Some(name) => Err(SigV4Error::SignedButAbsent {
            header: name.clone(),
        }),
        None => Ok(()),
    }
}

/// When the request says it was signed, in seconds since 1970, and the header that says so.
fn signing_time(parts: &Parts) -> Result<(u64, &'static str), SigV4Error> {
    if let Some(text) = single(parts, &HeaderName::from_static("x-amz-date"))? {
        let seconds = time::parse_basic(text).ok_or(SigV4Error::Date)?;
        return Ok((seconds, "x-amz-date"));
    }
    let text = single(parts, &DATE)?.ok_or(SigV4Error::Date)?;
    let seconds = time::parse_basic(text)
        .or_else(|| time::parse_http(text))
        .ok_or(SigV4Error::Date)?;
    Ok((seconds, "date"))
}

/// Which parts an `Authorization` header lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each stands for one sentence of AWS's message"
)]
pub struct MissingParts {
    /// No `Credential`.
    pub credential: bool,
    /// No `Signature`.
    pub signature: bool,
    /// No `SignedHeaders`.
    pub signed_headers: bool,
    /// Neither `X-Amz-Date` nor `Date`.
    pub date: bool,
}

impl std::fmt::Display for MissingParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sentences = [
            (
                self.credential,
                "Authorization header requires 'Credential' parameter.",
            ),
            (
                self.signature,
                "Authorization header requires 'Signature' parameter.",
            ),
            (
                self.signed_headers,
                "Authorization header requires 'SignedHeaders' parameter.",
            ),
            (
                self.date,
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.",
            ),
        ];
        let missing: Vec<&str> = sentences
            .into_iter()
            .filter(|(missing, _)| *missing)
            .map(|(_, text)| text)
            .collect();
        f.write_str(&missing.join(" "))
    }
}

/// How a request's time lies beside the service's, each as `YYYYMMDDTHHMMSSZ`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkewReport {
    signed: String,
    bound: String,
    now: String,
    minutes: u64,
}

/// Why a request's sender is not known. [`SigV4Error::code`] is AWS's name of it, and `Display`
/// the message to answer with; the status is 400 for all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigV4Error {
    /// No `Authorization` header.
    #[error("Request is missing Authentication Token")]
    MissingAuthenticationToken,
    /// The signature stands in the query.
    #[error(
        "Signatures in the query are not accepted; sign the request in its Authorization header."
    )]
    Presigned,
    /// Not AWS4-HMAC-SHA256.
    #[error("Authorization header must begin with the algorithm AWS4-HMAC-SHA256.")]
    UnsupportedAlgorithm,
    /// Parts are missing.
    #[error("{0}")]
    Incomplete(MissingParts),
    /// A part that there should not be.
    #[error(
        "Authorization header accepts the parameters 'Credential', 'SignedHeaders' and 'Signature' only, each as Name=Value."
    )]
    UnknownPart,
    /// A part that comes twice.
    #[error("Authorization header must have each parameter once.")]
    RepeatedPart,
    /// The credential is not five elements.
    #[error(
        "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term."
    )]
    Credential,
    /// The signature is not 64 hex digits.
    #[error("Signature must be 64 hexadecimal digits in lower case.")]
    SignatureFormat,
    /// The names of the signed headers are not as they should be.
    #[error(
        "SignedHeaders must be header names in lower case, sorted, separated by semicolons, each once."
    )]
    SignedHeaders,
    /// A header comes twice which may come once.
    #[error("The header '{header}' must come once.")]
    Repeated {
        /// Its name.
        header: String,
    },
    /// A header has bytes that it must not have.
    #[error("The header '{header}' must be visible ASCII.")]
    Unreadable {
        /// Its name.
        header: String,
    },
    /// The date cannot be read.
    #[error("Date must be in ISO-8601 'basic format', e.g. 20150830T123600Z.")]
    Date,
    /// The query cannot be read.
    #[error("The query has a % that two hexadecimal digits do not follow.")]
    BadQuery,
    /// A header that must be signed is not.
    #[error("'{header}' must be a 'SignedHeader' in the AWS Authorization.")]
    NotSigned {
        /// Its name.
        header: String,
    },
    /// A header that is said to be signed is not there.
    #[error("The signed header '{header}' is not in the request.")]
    SignedButAbsent {
        /// Its name.
        header: String,
    },
    /// The body is not signed, or in chunks.
    #[error(
        "The header 'x-amz-content-sha256' must be the SHA-256 of the whole body, in lower-case hexadecimal; unsigned and chunked payloads are not accepted."
    )]
    UnsignedPayload,
    /// The header names another body's hash.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    PayloadHash,
    /// The scope does not end in `aws4_request`.
    #[error("Credential should be scoped with a valid terminator: 'aws4_request'.")]
    ScopeTerminator,
    /// Signed for another service.
    #[error("Credential should be scoped to correct service: '{expected}'. ")]
    ScopeService {
        /// The service's name.
        expected: String,
    },
    /// Signed for another Region.
    #[error("Credential should be scoped to a valid region. ")]
    ScopeRegion,
    /// The scope's day is not the day of the request's time.
    #[error("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{scope}' != '{}', from '{timestamp}'.", &.timestamp[..8])]
    ScopeDate {
        /// The scope's day.
        scope: String,
        /// The request's time.
        timestamp: String,
    },
    /// Signed too long ago.
    #[error("Signature expired: {} is now earlier than {} ({} - {} min.)", .0.signed, .0.bound, .0.now, .0.minutes)]
    Expired(SkewReport),
    /// Signed in the future.
    #[error("Signature not yet current: {} is still later than {} ({} + {} min.)", .0.signed, .0.bound, .0.now, .0.minutes)]
    NotYetCurrent(SkewReport),
    /// The service's own clock is before 1970 or after 9999.
    #[error("The service's clock is not set.")]
    ServiceClock,
    /// The signature is not the one that the secret makes.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

impl SigV4Error {
    /// AWS's name of the error, as it stands in `__type`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Self::Presigned
            | Self::UnsupportedAlgorithm
            | Self::Incomplete(_)
            | Self::UnknownPart
            | Self::RepeatedPart
            | Self::Credential
            | Self::SignatureFormat
            | Self::SignedHeaders
            | Self::Repeated { .. }
            | Self::Unreadable { .. }
            | Self::Date
            | Self::UnsignedPayload
            | Self::BadQuery => "IncompleteSignatureException",
            Self::NotSigned { .. }
            | Self::SignedButAbsent { .. }
            | Self::PayloadHash
            | Self::ScopeTerminator
            | Self::ScopeService { .. }
            | Self::ScopeRegion
            | Self::ScopeDate { .. }
            | Self::Expired(_)
            | Self::NotYetCurrent(_)
            | Self::Mismatch => "InvalidSignatureException",
            Self::ServiceClock => "KMSInternalException",
        }
    }
}
