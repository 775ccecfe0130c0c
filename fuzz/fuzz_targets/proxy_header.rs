//! The first bytes of a connection to an ingress, from anybody: a PROXY header is found within them or not, the same with more
//! bytes behind it, and each part of one may still become one.
#![no_main]

use anchorhold_parent::window::ingress::{ProxyVersion, Read, proxy_header, read_proxy_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match read_proxy_header(bytes) {
        Read::Whole(passed) => {
            assert!(passed.length <= bytes.len());
            let header = &bytes[..passed.length];
            assert_eq!(read_proxy_header(header), Read::Whole(passed));
            for end in 0..header.len() {
                assert_eq!(read_proxy_header(&header[..end]), Read::More);
            }
            for version in [ProxyVersion::V1, ProxyVersion::V2] {
                let written = proxy_header(version, passed.client, passed.client);
                assert!(matches!(
                    read_proxy_header(&written),
                    Read::Whole(_) | Read::Wrong
                ));
            }
        }
        Read::More => assert!(bytes.len() < 4096),
        Read::Wrong => {
            let mut more = bytes.to_vec();
            more.extend(b"\r\n");
            assert_eq!(read_proxy_header(&more), Read::Wrong);
        }
    }
});
