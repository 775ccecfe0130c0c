//! The test suite for signatures that AWS publishes, against our verification and our signing.
//!
//! The suite is not ours to copy: `tests/clients/setup DIR` fetches it, and `ANCHORHOLD_CLIENTS` names that folder.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anchorhold_kms_wire::http::Request;
use anchorhold_kms_wire::http::request::Parts;
use anchorhold_kms_wire::sigv4::{DEFAULT_MAX_SKEW, Expected, Presented, SigV4Error};
use serde_json::Value;

/// Cases that are not about requests which this service could get, and why.
const NOT_HERE: [(&str, &str); 4] = [
    (
        "get-header-value-multiline",
        "a header over several lines is no HTTP/1.1 any more",
    ),
    ("get-space-normalized", "a space within the path is no HTTP"),
    ("get-utf8", "letters beyond ASCII in the path are no HTTP"),
    (
        "get-vanilla-utf8-query",
        "letters beyond ASCII in the query are no HTTP",
    ),
];

fn suite() -> PathBuf {
    let folder = std::env::var_os("ANCHORHOLD_CLIENTS")
        .expect("ANCHORHOLD_CLIENTS names the folder that tests/clients/setup made");
    Path::new(&folder).join("sigv4")
}

/// A request as the suite writes it: a line, headers, an empty line, a body.
fn request(text: &str) -> (Parts, Vec<u8>) {
    let text = text.replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let mut lines = head.lines();
    let line = lines.next().unwrap();
    let (method, rest) = line.split_once(' ').unwrap();
    let (target, _) = rest.rsplit_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(target);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        request = request.header(name, value);
    }
    (
        request.body(()).unwrap().into_parts().0,
        body.as_bytes().to_vec(),
    )
}

/// `2015-08-30T12:36:00Z`, the only time in the suite.
fn time(context: &Value) -> SystemTime {
    assert_eq!(context["timestamp"], "2015-08-30T12:36:00Z");
    UNIX_EPOCH + Duration::from_secs(1_440_938_160)
}

#[test]
fn every_request_of_awss_suite_is_verified_and_no_changed_one() {
    let mut verified = Vec::new();
    for entry in std::fs::read_dir(suite()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
        // Two are in an older form, the packer's own.
        if !folder.join("context.json").exists() {
            continue;
        }
        let context: Value = serde_json::from_str(&read("context.json")).unwrap();
        // S3's own rule for paths, which no other service has.
        if context["normalize"] == false {
            continue;
        }
        if NOT_HERE.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let (parts, body) = request(&read("header-signed-request.txt"));
        let secret = context["credentials"]["secret_access_key"]
            .as_str()
            .unwrap();
        let region = context["region"].as_str().unwrap();
        let service = context["service"].as_str().unwrap();
        let expected = Expected {
            regions: &[region],
            services: &[service],
            now: time(&context),
            max_skew: DEFAULT_MAX_SKEW,
        };
        let judge = |parts: &Parts, body: &[u8]| {
            Presented::parse(parts).and_then(|presented| presented.verify(body, secret, &expected))
        };
        // A token that is sent but not signed: AWS says that some services take it. This one does not.
        if context["omit_session_token"] == true {
            assert!(
                matches!(judge(&parts, &body), Err(SigV4Error::NotSigned { .. })),
                "{name}"
            );
            continue;
        }
        let who = judge(&parts, &body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(who.access_key_id(), "AKIDEXAMPLE");
        let longer = [body.as_slice(), b"x"].concat();
        assert!(judge(&parts, &longer).is_err(), "{name}");
        let mut moved = parts.clone();
        moved.uri = "/another".parse().unwrap();
        assert!(judge(&moved, &body).is_err(), "{name}");
        verified.push(name);
    }
    assert!(verified.len() >= 18, "{verified:?}");
}
