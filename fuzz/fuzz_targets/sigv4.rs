//! Any request as a signed one: verification must not panic, must not accept what was not signed,
//! and must accept what was.
//!
//! The input is text: a method, a target, then `name: value` lines up to an empty one, then the body.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use anchorhold_kms_wire::http::{self, request::Parts};
use anchorhold_kms_wire::sigv4::{Credentials, DEFAULT_MAX_SKEW, Expected, Presented, sign};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "a secret that no input can know";

fn request(bytes: &[u8]) -> Option<(Parts, &[u8])> {
    let (head, body) = match bytes.windows(2).position(|window| window == b"\n\n") {
        Some(end) => (&bytes[..end], &bytes[end + 2..]),
        None => (bytes, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut request = http::Request::builder()
        .method(lines.next()?)
        .uri(lines.next()?);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], &line[colon + 1..]);
    }
    Some((request.body(()).ok()?.into_parts().0, body))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((mut parts, body)) = request(bytes) else {
        return;
    };
    let now = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
    let expected = Expected {
        regions: &["us-east-1"],
        services: &["kms"],
        now,
        max_skew: DEFAULT_MAX_SKEW,
    };
    if let Ok(presented) = Presented::parse(&parts) {
        assert!(presented.verify(body, SECRET, &expected).is_err());
    }

    let credentials = Credentials::new("AKIDEXAMPLE", SECRET.to_owned());
    if sign(&mut parts, body, &credentials, "us-east-1", "kms", now).is_ok()
        // Signing does not make a request out of one that has a header twice, or a presigned query.
        && let Ok(presented) = Presented::parse(&parts)
    {
        assert!(presented.verify(body, SECRET, &expected).is_ok());
        let other = [body, b"x"].concat();
        let presented = Presented::parse(&parts).expect("it was parsed before");
        assert!(presented.verify(&other, SECRET, &expected).is_err());
    }
});
