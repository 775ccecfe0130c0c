use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Request;
use http::request::Parts;
use proptest::prelude::*;

use super::*;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2015-08-30T12:36:00Z
const THEN: u64 = 1_440_938_160;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn credentials() -> Credentials {
    Credentials::new(ID, SECRET.to_owned())
}

fn expected(service: &'static str) -> Expected<'static> {
    Expected {
        regions: &["us-east-1"],
        services: match service {
            "kms" => &["kms"],
            _ => &["service"],
        },
        now: at(THEN),
        max_skew: DEFAULT_MAX_SKEW,
    }
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// A request as the service would see one, signed by hand-written `Authorization`.
fn kms_request(authorization: &str) -> Parts {
    request(
        "POST",
        "/",
        &[
            ("host", "kms.us-east-1.amazonaws.com"),
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", "TrentService.DescribeKey"),
            ("x-amz-date", "20150830T123600Z"),
            ("authorization", authorization),
        ],
    )
}

const BODY: &[u8] = br#"{"KeyId":"alias/cards"}"#;
const SIGNED: &str = "content-type;host;x-amz-date;x-amz-target";
const SIGNATURE: &str = "ecfd34b9c3ec6f3d1f2aceefc97263b68e03b80ea83cf55038819a59833998e4";

fn authorization(scope: &str, signed: &str, signature: &str) -> String {
    format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={signature}")
}

fn good_authorization() -> String {
    authorization(
        "AKIDEXAMPLE/20150830/us-east-1/kms/aws4_request",
        SIGNED,
        SIGNATURE,
    )
}

fn verified(
    parts: &Parts,
    body: &[u8],
    expected: &Expected<'_>,
) -> Result<Authenticated, SigV4Error> {
    Presented::parse(parts)?.verify(body, SECRET, expected)
}

/// Signatures made by botocore 1.44.5. The last two requests, and so their signatures, are also
/// in the test suite that AWS publishes for this protocol (get-vanilla, get-vanilla-query-order).
#[test]
fn signatures_equal_those_of_another_implementation() {
    struct Vector {
        method: &'static str,
        url: &'static str,
        headers: &'static [(&'static str, &'static str)],
        body: &'static [u8],
        token: Option<&'static str>,
        region: &'static str,
        service: &'static str,
        time: u64,
        signed: &'static str,
        signature: &'static str,
    }
    let vectors = [
        Vector {
            method: "POST",
            url: "https://kms.us-east-1.amazonaws.com/",
            headers: &[
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amz-target", "TrentService.DescribeKey"),
            ],
            body: BODY,
            token: None,
            region: "us-east-1",
            service: "kms",
            time: THEN,
            signed: SIGNED,
            signature: SIGNATURE,
        },
        Vector {
            method: "POST",
            url: "https://127.0.0.1:8443/",
            headers: &[
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amz-target", "TrentService.GenerateRandom"),
                ("user-agent", "x"),
            ],
            body: br#"{"NumberOfBytes":32}"#,
            token: Some("IQoJb3JpZ2luX2VjEXAMPLE//token=="),
            region: "eu-central-1",
            service: "kms",
            time: 1_772_323_199,
            signed: "content-type;host;x-amz-date;x-amz-security-token;x-amz-target",
            signature: "41a40d505bf05b66c6cd8facfc53a960e39a1cd0a1ec153acbb99752e732460e",
        },
        Vector {
            method: "GET",
            url: "https://example.amazonaws.com/a%20b/./c//?Param2=value2&Param1=value1",
            headers: &[("my-header", "  a   b  ")],
            body: b"",
            token: None,
            region: "us-east-1",
            service: "service",
            time: THEN,
            signed: "host;my-header;x-amz-date",
            signature: "3166b58e48c28631961856c8e6aa57fc59d1f5b575a95b8ef457ce0fbe84fe06",
        },
        Vector {
            method: "GET",
            url: "https://example.amazonaws.com/",
            headers: &[],
            body: b"",
            token: None,
            region: "us-east-1",
            service: "service",
            time: THEN,
            signed: "host;x-amz-date",
            signature: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        },
        Vector {
            method: "GET",
            url: "https://example.amazonaws.com/?Param2=value2&Param1=value1",
            headers: &[],
            body: b"",
            token: None,
            region: "us-east-1",
            service: "service",
            time: THEN,
            signed: "host;x-amz-date",
            signature: "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        },
    ];
    for vector in vectors {
        let mut parts = request(vector.method, vector.url, vector.headers);
        let mut credentials = credentials();
        credentials.session_token = vector.token.map(|token| Zeroizing::new(token.to_owned()));
        sign(
            &mut parts,
            vector.body,
            &credentials,
            vector.region,
            vector.service,
            at(vector.time),
        )
        .unwrap();
        let date = &time::basic(vector.time)[..8];
        let scope = format!(
            "{ID}/{date}/{}/{}/aws4_request",
            vector.region, vector.service
        );
        assert_eq!(
            parts.headers["authorization"],
            authorization(&scope, vector.signed, vector.signature),
            "{}",
            vector.url
        );
        assert_eq!(
            parts
                .headers
                .get("x-amz-security-token")
                .map(|token| token.to_str().unwrap()),
            vector.token
        );

        let expected = Expected {
            regions: &["other-region-1", vector.region],
            services: &["other", vector.service],
            now: at(vector.time),
            max_skew: DEFAULT_MAX_SKEW,
        };
        let presented = Presented::parse(&parts).unwrap();
        assert_eq!(presented.access_key_id(), ID);
        assert_eq!(presented.session_token(), vector.token);
        assert_eq!(
            (presented.region(), presented.date()),
            (vector.region, date)
        );
        let authenticated = presented.verify(vector.body, SECRET, &expected).unwrap();
        assert_eq!(
            (authenticated.access_key_id(), authenticated.signed_at()),
            (ID, vector.time)
        );
    }
}

#[test]
fn a_date_header_serves_where_there_is_no_x_amz_date() {
    // botocore 1.44.5
    let signature = "7680771e48fa28c7db272da980f990fa8ee39dee61905c4203f5da9d3d48ac86";
    let authorization = authorization(
        "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request",
        "date;host",
        signature,
    );
    let date = "Sun, 30 Aug 2015 12:36:00 -0000";
    let headers = [
        ("host", "example.amazonaws.com"),
        ("date", date),
        ("authorization", &authorization),
    ];
    verified(&request("GET", "/", &headers), b"", &expected("service")).unwrap();
    // A date that is not signed is no date.
    let unsigned = self::authorization(
        "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request",
        "host",
        signature,
    );
    let headers = [
        ("host", "example.amazonaws.com"),
        ("date", date),
        ("authorization", &unsigned),
    ];
    assert_eq!(
        verified(&request("GET", "/", &headers), b"", &expected("service")),
        Err(SigV4Error::NotSigned {
            header: "date".to_owned()
        })
    );
}

#[test]
fn a_kept_key_verifies_its_own_scope_and_no_other() {
    let parts = kms_request(&good_authorization());
    let verify = |date: &str, region: &str, service: &str, secret: &str| {
        let key = SigningKey::derive(secret, date, region, service);
        Presented::parse(&parts)
            .unwrap()
            .verify_with_key(BODY, &key, &expected("kms"))
            .map(|_| ())
    };
    assert_eq!(verify("20150830", "us-east-1", "kms", SECRET), Ok(()));
    assert_eq!(
        verify("20150831", "us-east-1", "kms", SECRET),
        Err(SigV4Error::Mismatch)
    );
    assert_eq!(
        verify("20150830", "us-east-2", "kms", SECRET),
        Err(SigV4Error::Mismatch)
    );
    assert_eq!(
        verify("20150830", "us-east-1", "sts", SECRET),
        Err(SigV4Error::Mismatch)
    );
    assert_eq!(
        verify("20150830", "us-east-1", "kms", "another"),
        Err(SigV4Error::Mismatch)
    );
}

#[test]
fn authorization_headers_are_read_strictly() {
    let credential = "Credential=AKIDEXAMPLE/20150830/us-east-1/kms/aws4_request";
    let signed = format!("SignedHeaders={SIGNED}");
    let signature = format!("Signature={SIGNATURE}");
    let accepted = [
        format!("AWS4-HMAC-SHA256 {credential}, {signed}, {signature}"),
        format!("AWS4-HMAC-SHA256 {credential},{signed},{signature}"),
        format!("AWS4-HMAC-SHA256 {signature}, {credential}, {signed}"),
    ];
    for authorization in &accepted {
        assert!(
            verified(&kms_request(authorization), BODY, &expected("kms")).is_ok(),
            "{authorization}"
        );
    }
    let incomplete = |credential, signed_headers, signature| {
        SigV4Error::Incomplete(MissingParts {
            credential,
            signature,
            signed_headers,
            date: false,
        })
    };
    for (authorization, error) in [
        (
            format!("AWS4-HMAC-SHA256 {signed}, {signature}"),
            incomplete(true, false, false),
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential}, {signature}"),
            incomplete(false, true, false),
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential}, {signed}"),
            incomplete(false, false, true),
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential}, {signed}, Signature="),
            incomplete(false, false, true),
        ),
        ("AWS4-HMAC-SHA256".to_owned(), incomplete(true, true, true)),
        (
            format!("AWS4-HMAC-SHA256 {credential}, {signed}, {signature}, {signature}"),
            SigV4Error::RepeatedPart,
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential}, {credential}, {signed}, {signature}"),
            SigV4Error::RepeatedPart,
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential}, {signed}, {signature},"),
            SigV4Error::UnknownPart,
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential}, {signed}, {signature}, X=1"),
            SigV4Error::UnknownPart,
        ),
        (
            format!("AWS4-HMAC-SHA256 {credential} {signed} {signature}"),
            incomplete(false, true, true),
        ),
        (
            format!("AWS4-HMAC-SHA512 {credential}, {signed}, {signature}"),
            SigV4Error::UnsupportedAlgorithm,
        ),
        (
            format!("AWS4-ECDSA-P256-SHA256 {credential}, {signed}, {signature}"),
            SigV4Error::UnsupportedAlgorithm,
        ),
        (
            format!("{credential}, {signed}, {signature}"),
            SigV4Error::UnsupportedAlgorithm,
        ),
        (
            "Basic QUtJRDpzZWNyZXQ=".to_owned(),
            SigV4Error::UnsupportedAlgorithm,
        ),
        (String::new(), SigV4Error::UnsupportedAlgorithm),
        (
            good_authorization().replace("/aws4_request", ""),
            SigV4Error::Credential,
        ),
        (
            good_authorization().replace("/aws4_request", "/aws4_request/x"),
            SigV4Error::Credential,
        ),
        (
            good_authorization().replace("AKIDEXAMPLE/", "/"),
            SigV4Error::Credential,
        ),
        (
            good_authorization().replace("AKIDEXAMPLE/", "AKID EXAMPLE/"),
            SigV4Error::Credential,
        ),
        (
            good_authorization().replace(SIGNATURE, &SIGNATURE[1..]),
            SigV4Error::SignatureFormat,
        ),
        (
            good_authorization().replace(SIGNATURE, &SIGNATURE.to_uppercase()),
            SigV4Error::SignatureFormat,
        ),
        (
            good_authorization().replace(SIGNATURE, &"g".repeat(64)),
            SigV4Error::SignatureFormat,
        ),
        (
            good_authorization().replace("host;", "Host;"),
            SigV4Error::SignedHeaders,
        ),
        (
            good_authorization().replace("content-type;host", "host;content-type"),
            SigV4Error::SignedHeaders,
        ),
        (
            good_authorization().replace("host;", "host;host;"),
            SigV4Error::SignedHeaders,
        ),
        (
            good_authorization().replace("host;", ";host;"),
            SigV4Error::SignedHeaders,
        ),
    ] {
        assert_eq!(
            verified(&kms_request(&authorization), BODY, &expected("kms")),
            Err(error),
            "{authorization}"
        );
    }
}

#[test]
fn requests_without_a_token_are_told_so() {
    let mut parts = kms_request(&good_authorization());
    parts.headers.remove("authorization");
    let error = verified(&parts, BODY, &expected("kms")).unwrap_err();
    assert_eq!(error.code(), "MissingAuthenticationTokenException");
    assert_eq!(error.to_string(), "Request is missing Authentication Token");
}

#[test]
fn signatures_in_the_query_are_refused_with_and_without_a_header() {
    let query = "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x&X-Amz-SignedHeaders=host&X-Amz-Signature=00";
    for uri in [
        query,
        "/?x-amz-signature=1",
        "/?a=b&X%2DAmz%2DSignature=1",
        "/?X-Amz-Credential",
    ] {
        let mut parts = kms_request(&good_authorization());
        parts.uri = uri.parse().unwrap();
        assert_eq!(
            verified(&parts, BODY, &expected("kms")),
            Err(SigV4Error::Presigned),
            "{uri}"
        );
        parts.headers.remove("authorization");
        assert_eq!(
            verified(&parts, BODY, &expected("kms")),
            Err(SigV4Error::Presigned),
            "{uri}"
        );
    }
}

#[test]
fn headers_that_matter_must_be_signed() {
    for (without, header) in [
        ("content-type;x-amz-date;x-amz-target", "host"),
        ("host;x-amz-date;x-amz-target", "content-type"),
        ("content-type;host;x-amz-date", "x-amz-target"),
        ("content-type;host;x-amz-target", "x-amz-date"),
    ] {
        let parts = kms_request(&good_authorization().replace(SIGNED, without));
        let error = verified(&parts, BODY, &expected("kms")).unwrap_err();
        assert_eq!(
            error,
            SigV4Error::NotSigned {
                header: header.to_owned()
            }
        );
        assert_eq!(error.code(), "InvalidSignatureException");
    }
    // A token slipped in beside a good signature.
    let mut parts = kms_request(&good_authorization());
    parts
        .headers
        .insert("x-amz-security-token", "token".parse().unwrap());
    assert_eq!(
        verified(&parts, BODY, &expected("kms")),
        Err(SigV4Error::NotSigned {
            header: "x-amz-security-token".to_owned()
        })
    );
    // And one that is signed but not there.
    let parts = kms_request(&good_authorization().replace(
        SIGNED,
        "content-type;host;x-amz-date;x-amz-nothing;x-amz-target",
    ));
    assert_eq!(
        verified(&parts, BODY, &expected("kms")),
        Err(SigV4Error::SignedButAbsent {
            header: "x-amz-nothing".to_owned()
        })
    );
}

#[test]
fn headers_that_matter_come_once() {
    for name in [
        "authorization",
        "host",
        "content-type",
        "x-amz-date",
        "x-amz-target",
    ] {
        let mut parts = kms_request(&good_authorization());
        let value = parts.headers[name].clone();
        parts
            .headers
            .append(http::HeaderName::from_static(name), value);
        assert_eq!(
            verified(&parts, BODY, &expected("kms")),
            Err(SigV4Error::Repeated {
                header: name.to_owned()
            })
        );
    }
}

#[test]
fn a_payload_hash_in_a_header_is_not_trusted() {
    // Signed by the holder of the secret, with a header that names this hash.
    let asked = |hash: &str, body: &[u8]| {
        let mut parts = request(
            "POST",
            "https://kms.us-east-1.amazonaws.com/",
            &[
                ("x-amz-content-sha256", hash),
                ("x-amz-target", "TrentService.DescribeKey"),
            ],
        );
        let (id, now) = (credentials(), at(THEN));
        sign(&mut parts, BODY, &id, "us-east-1", "kms", now).unwrap();
        verified(&parts, body, &expected("kms")).map(|_| ())
    };
    let right = canonical::sha256_hex(BODY);
    assert_eq!(asked(&right, BODY), Ok(()));
    assert_eq!(asked(&right, b"{}"), Err(SigV4Error::PayloadHash));
    let other = canonical::sha256_hex(b"{}");
    assert_eq!(asked(&other, BODY), Err(SigV4Error::PayloadHash));
    assert_eq!(asked(&other, b"{}"), Err(SigV4Error::Mismatch));
    for hash in [
        "UNSIGNED-PAYLOAD",
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "",
        &right.to_uppercase(),
        &right[1..],
    ] {
        assert_eq!(
            asked(hash, BODY),
            Err(SigV4Error::UnsignedPayload),
            "{hash}"
        );
    }
}

#[test]
fn a_request_is_for_one_of_the_regions_and_services() {
    let parts = kms_request(&good_authorization());
    let verify = |regions: &[&str], services: &[&str]| {
        let expected = Expected {
            regions,
            services,
            now: at(THEN),
            max_skew: DEFAULT_MAX_SKEW,
        };
        verified(&parts, BODY, &expected)
            .map(|who| (who.region().to_owned(), who.service().to_owned()))
    };
    assert_eq!(
        verify(&["eu-west-1", "us-east-1"], &["kms", "sts"]),
        Ok(("us-east-1".to_owned(), "kms".to_owned()))
    );
    assert_eq!(
        verify(&["eu-west-1"], &["kms"]),
        Err(SigV4Error::ScopeRegion)
    );
    assert_eq!(verify(&[], &["kms"]), Err(SigV4Error::ScopeRegion));
    for services in [&["sts"][..], &[]] {
        assert!(matches!(
            verify(&["us-east-1"], services),
            Err(SigV4Error::ScopeService { .. })
        ));
    }
}

#[test]
fn the_scope_is_checked_in_each_part() {
    for (scope, code, message) in [
        (
            "AKIDEXAMPLE/20150830/us-east-1/kms/aws5_request",
            "InvalidSignatureException",
            "Credential should be scoped with a valid terminator: 'aws4_request'.",
        ),
        (
            "AKIDEXAMPLE/20150830/us-east-1/s3/aws4_request",
            "InvalidSignatureException",
            "Credential should be scoped to correct service: 'kms'. ",
        ),
        (
            "AKIDEXAMPLE/20150830/eu-west-1/kms/aws4_request",
            "InvalidSignatureException",
            "Credential should be scoped to a valid region. ",
        ),
        (
            "AKIDEXAMPLE/20150829/us-east-1/kms/aws4_request",
            "InvalidSignatureException",
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20150829' != '20150830', from '20150830T123600Z'.",
        ),
    ] {
        let parts = kms_request(&authorization(scope, SIGNED, SIGNATURE));
        let error = verified(&parts, BODY, &expected("kms")).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, message));
    }
}

#[test]
fn requests_live_for_five_minutes_to_either_side() {
    let parts = kms_request(&good_authorization());
    let verify = |now: u64| {
        verified(
            &parts,
            BODY,
            &Expected {
                now: at(now),
                ..expected("kms")
            },
        )
        .map(|_| ())
    };
    assert_eq!(verify(THEN + 300), Ok(()));
    assert_eq!(verify(THEN - 300), Ok(()));
    let expired = verify(THEN + 301).unwrap_err();
    assert_eq!(
        expired.to_string(),
        "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T124101Z - 5 min.)"
    );
    let early = verify(THEN - 301).unwrap_err();
    assert_eq!(
        early.to_string(),
        "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T123059Z + 5 min.)"
    );
    assert_eq!(
        (expired.code(), early.code()),
        ("InvalidSignatureException", "InvalidSignatureException")
    );
}

#[test]
fn dates_that_cannot_be_read_are_refused() {
    for date in ["2015-08-30T12:36:00Z", "20150230T123600Z", "", "now"] {
        let mut parts = kms_request(&good_authorization());
        parts.headers.insert("x-amz-date", date.parse().unwrap());
        assert_eq!(
            verified(&parts, BODY, &expected("kms")),
            Err(SigV4Error::Date),
            "{date}"
        );
    }
    let mut parts = kms_request(&good_authorization());
    parts.headers.remove("x-amz-date");
    let error = verified(&parts, BODY, &expected("kms")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
    );
    assert_eq!(error.code(), "IncompleteSignatureException");
}

#[test]
fn credentials_that_cannot_stand_in_a_header_are_refused_without_repeating_them() {
    let mut parts = request("GET", "https://h/", &[]);
    let credentials = Credentials {
        session_token: Some(Zeroizing::new("a\nb".to_owned())),
        ..self::credentials()
    };
    let error = sign(&mut parts, b"", &credentials, "r", "s", at(THEN)).unwrap_err();
    assert_eq!(
        error,
        SignError::NotAHeader {
            what: "session token"
        }
    );
    let mut parts = request("GET", "/", &[]);
    assert_eq!(
        sign(&mut parts, b"", &self::credentials(), "r", "s", at(THEN)),
        Err(SignError::NoHost)
    );
}

#[test]
fn signing_again_replaces_what_was_signed_before() {
    let mut parts = request(
        "POST",
        "https://kms.us-east-1.amazonaws.com/",
        &[("x-amz-target", "TrentService.Decrypt")],
    );
    let temporary = Credentials {
        session_token: Some(Zeroizing::new("old".to_owned())),
        ..credentials()
    };
    sign(
        &mut parts,
        BODY,
        &temporary,
        "us-east-1",
        "kms",
        at(THEN - 4000),
    )
    .unwrap();
    sign(
        &mut parts,
        BODY,
        &credentials(),
        "us-east-1",
        "kms",
        at(THEN),
    )
    .unwrap();
    assert!(!parts.headers.contains_key("x-amz-security-token"));
    assert!(verified(&parts, BODY, &expected("kms")).is_ok());
}

#[test]
fn credentials_come_from_the_usual_variables() {
    let of = |pairs: &'static [(&str, &str)]| {
        Credentials::from_variables(move |name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    };
    let Ok(credentials) = of(&[
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_SESSION_TOKEN", ""),
    ]) else {
        panic!("these are credentials")
    };
    assert_eq!(credentials.access_key_id, "a");
    assert_eq!(credentials.secret_access_key.as_str(), "s");
    assert!(credentials.session_token.is_none());
    assert!(matches!(
        of(&[("AWS_ACCESS_KEY_ID", "a")]),
        Err(CredentialsError::Unset {
            name: "AWS_SECRET_ACCESS_KEY"
        })
    ));
    assert!(matches!(
        of(&[]),
        Err(CredentialsError::Unset {
            name: "AWS_ACCESS_KEY_ID"
        })
    ));
}

fn word() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.~-]{0,5}[A-Za-z0-9]"
}

#[derive(Debug, Clone)]
enum Change {
    Method,
    Path,
    Query,
    Header(prop::sample::Index, prop::sample::Index),
    AddedAmzHeader,
    Body(prop::sample::Index, u8),
    LongerBody(u8),
    Signature(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Method),
        Just(Change::Path),
        Just(Change::Query),
        any::<(prop::sample::Index, prop::sample::Index)>()
            .prop_map(|(header, byte)| Change::Header(header, byte)),
        Just(Change::AddedAmzHeader),
        (any::<prop::sample::Index>(), 1_u8..).prop_map(|(at, change)| Change::Body(at, change)),
        any::<u8>().prop_map(Change::LongerBody),
        any::<prop::sample::Index>().prop_map(Change::Signature),
    ]
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_any_change_fails(
        segments in prop::collection::vec(word(), 0..3),
        query in prop::collection::vec((word(), word()), 0..3),
        names in prop::collection::btree_set("[a-z]{3,8}", 0..4),
        body: Vec<u8>,
        token in prop::option::of("[!-~]{1,40}"),
        skew in -300_i64..=300,
        change in change(),
    ) {
        let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let uri = format!("https://service.test:8443/{}?{}", segments.join("/"), query.join("&"));
        let headers: Vec<(String, String)> = names.into_iter().map(|name| (format!("x-{name}"), format!("value of {name}"))).collect();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut parts = request("POST", &uri, &headers);
        let credentials = Credentials { session_token: token.map(Zeroizing::new), ..credentials() };
        let signed_at = THEN.checked_add_signed(skew).unwrap();
        sign(&mut parts, &body, &credentials, "us-east-1", "kms", at(signed_at)).unwrap();
        // The day may be another than the service's.
        prop_assert!(verified(&parts, &body, &expected("kms")).is_ok());

        let mut body = body;
        match change {
            Change::Method => parts.method = http::Method::PUT,
            Change::Path => parts.uri = format!("/x{}?{}", parts.uri.path(), query.join("&")).parse().unwrap(),
            Change::Query => parts.uri = format!("{}?z=1&{}", parts.uri.path(), query.join("&")).parse().unwrap(),
            Change::Header(header, byte) => {
                let names: Vec<_> = parts.headers.keys().filter(|name| *name != "authorization").cloned().collect();
                let name = header.get(&names);
                let mut value = parts.headers[name].as_bytes().to_vec();
                let byte = byte.index(value.len());
                value[byte] = if value[byte] == b'0' { b'1' } else { b'0' };
                parts.headers.insert(name, value.as_slice().try_into().unwrap());
            }
            Change::AddedAmzHeader => {
                parts.headers.insert("x-amz-grant", "all".parse().unwrap());
            }
            Change::Body(at, change) if !body.is_empty() => {
                let at = at.index(body.len());
                body[at] ^= change;
            }
            Change::Body(..) => body.push(0),
            Change::LongerBody(byte) => body.push(byte),
            Change::Signature(at) => {
                let mut value = parts.headers["authorization"].as_bytes().to_vec();
                let at = value.len() - 64 + at.index(64);
                value[at] = if value[at] == b'0' { b'1' } else { b'0' };
                parts.headers.insert("authorization", value.as_slice().try_into().unwrap());
            }
        }
        prop_assert!(verified(&parts, &body, &expected("kms")).is_err());
    }

    #[test]
    fn no_authorization_header_makes_parsing_panic(text in "(AWS4-HMAC-SHA256 )?[ -~]{0,200}") {
        let _ = Presented::parse(&kms_request(&text));
    }
}
