//! The parent puts another message's wrapped key, of the same key and context, into a message.

use crate::hostile_parent::HostileParent;
use crate::sealed_parts::SealedParts;
use crate::stage::{LINES, Stage};

#[test]
fn the_wrapped_key_of_another_message_opens_nothing() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let context = ["--context", "purpose=echo"];
    let one = stage.sealed(LINES, &context);
    let other = stage.sealed(b"{\"n\":7}\n", &context);
    assert_eq!(stage.honest_call(enclave.folder(), &one), LINES);
    assert_eq!(stage.honest_call(enclave.folder(), &other), b"{\"n\":7}\n");
    let (one, other) = (SealedParts::parse(&one), SealedParts::parse(&other));

    // The key service unwraps it gladly: it is a good key of this context. The message has committed to another.
    let mut swapped = one.clone();
    swapped.data_keys.clone_from(&other.data_keys);
    let refused = "not the one that this message was sealed under";
    let seen = stage.house.audit().len();
    enclave.must_refuse(&swapped.bytes(), &[refused]);
    let granted = stage
        .house
        .audit()
        .into_iter()
        .skip(seen)
        .find(|line| line["eventName"] == "Decrypt");
    assert!(
        granted.expect("a Decrypt")["errorCode"].is_null(),
        "the key service itself refused"
    );

    // With the commitment as well: it was made for another message id.
    swapped.commitment.clone_from(&other.commitment);
    enclave.must_refuse(&swapped.bytes(), &[refused]);
    // With the id as well, the header is wholly the other's but for its tag …
    swapped.message_id.clone_from(&other.message_id);
    let mut tagless = swapped.clone();
    tagless.header_tag[0] ^= 1;
    enclave.must_refuse(&tagless.bytes(), &["header was changed"]);
    // … and with that the frames are of another message.
    swapped.header_tag.clone_from(&other.header_tag);
    enclave.must_refuse(
        &swapped.bytes(),
        &["frame 1 was changed, or belongs to another message"],
    );

    // Both keys, the wrong one first: the first that the key service unwraps is the one that counts.
    let mut both = one.clone();
    both.data_keys.insert(0, other.data_keys[0].clone());
    enclave.must_refuse(&both.bytes(), &[refused, "header was changed"]);

    assert_eq!(stage.honest_call(enclave.folder(), &one.bytes()), LINES);
}
