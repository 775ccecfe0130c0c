//! Header fields that no client may bring: a job would take them for the word of a proxy in front of it. The client said
//! them, through TLS; the parent could add nothing. Who the peer is, only the parent would know, and it would lie. So
//! there is nobody whose word they could be.

use http::header::{EXPECT, FORWARDED, HeaderMap, HeaderName, VIA};

/// Besides `Forwarded`, `Via` and all that begins with `X-Forwarded-`.
const HEARSAY: [&str; 8] = [
    "client-ip",
    "true-client-ip",
    "x-client-cert",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];

/// Takes them out, and `Expect`, which is answered here. What belongs to one connection is the relay's to remove.
pub(crate) fn without_hearsay(headers: &mut HeaderMap) {
    let brought: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hearsay(name) || **name == EXPECT)
        .cloned()
        .collect();
    for name in brought {
        headers.remove(name);
    }
}

fn is_hearsay(name: &HeaderName) -> bool {
    *name == FORWARDED
        || *name == VIA
        || name.as_str().starts_with("x-forwarded-")
        || HEARSAY.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_client_cannot_speak_for_a_proxy() {
        let mut headers = HeaderMap::new();
        for name in [
            "forwarded",
            "via",
            "x-forwarded-for",
            "x-forwarded-anything",
            "x-real-ip",
            "true-client-ip",
            "expect",
            "accept",
            "cookie",
            "x-forward",
            "authorization",
        ] {
            headers.append(name, HeaderValue::from_static("one"));
            headers.append(name, HeaderValue::from_static("two"));
        }
        without_hearsay(&mut headers);
        let mut kept: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["accept", "authorization", "cookie", "x-forward"]);
        assert_eq!(headers.get_all("cookie").iter().count(), 2);
    }
}
