//! The first bytes of a connection to an ingress for HTTP: a head is never waited for beyond its bound.
#![no_main]

use anchorhold_parent::window::ingress::{Look, look};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (most, bytes) = (usize::from(input.0), input.1);
    let looked = look(bytes, most);
    assert!(looked != Look::More || bytes.len() < most);
    // More bytes behind a whole head change nothing.
    if looked == Look::Whole {
        assert_eq!(look(&[bytes, b"\0\xff"].concat(), most), Look::Whole);
    }
});
