//! The parent hands the owner something else in the place of the result.

use crate::common::Who;
use crate::hostile_parent::HostileParent;
use crate::sealed_parts::SealedParts;
use crate::stage::{KEY, LINES, Stage, header, text};

#[test]
fn the_result_of_another_request_is_refused() {
    let stage = Stage::new();
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    // Alike but for what they hold, as yesterday's and today's are.
    let yesterday = stage.sealed(b"{\"n\":0}\n", &["--context", "purpose=echo"]);
    let today = stage.sealed(LINES, &["--context", "purpose=echo"]);
    let old = enclave.call(&yesterday).expect("an honest call");
    let new = enclave.call(&today).expect("an honest call");
    let request = stage.house.write("today", &today);
    let of_today = ["--context", "purpose=echo", "--result-of", text(&request)];
    assert_eq!(stage.opened(&new, &of_today), LINES);

    let said = stage.not_opened(&old, &of_today);
    assert!(said.contains("anchorhold:request"), "{said}");
    // The request itself, which the owner could open.
    let said = stage.not_opened(&today, &of_today);
    assert!(
        said.contains("anchorhold:kind is missing")
            || said.contains("anchorhold:request is missing"),
        "{said}"
    );
    // The old result with today's name on it.
    let mut renamed = SealedParts::parse(&old);
    renamed.context.insert(
        "anchorhold:request".to_owned(),
        hex::encode(header(&today).message_id()),
    );
    let said = stage.not_opened(&renamed.bytes(), &of_today);
    assert!(said.contains("InvalidCiphertextException"), "{said}");
    // Today's result without its end, and with yesterday's last frame.
    let said = stage.not_opened(&new[..new.len() - 1], &of_today);
    assert!(said.contains("cut off"), "{said}");
    let mut spliced = SealedParts::parse(&new);
    spliced.frames = SealedParts::parse(&old).frames;
    let said = stage.not_opened(&spliced.bytes(), &of_today);
    assert!(said.contains("belongs to another message"), "{said}");
}

#[test]
fn a_result_that_the_parent_has_sealed_itself_is_refused() {
    let stage = Stage::new();
    // A key that the owner may use, and the host as well: the one thing that it can seal under.
    let statement = |who: Who| serde_json::json!({ "Effect": "Allow", "Principal": { "AWS": who.arn() }, "Action": "kms:*", "Resource": "*" });
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [statement(Who::Owner), statement(Who::Host)],
    });
    stage.house.key(
        "alias/free",
        &stage.house.write("free.json", policy.to_string()),
    );
    let enclave = HostileParent::start(&stage.house, "odd", &stage.image);
    let input = stage.sealed(LINES, &["--context", "purpose=echo"]);
    let request = stage.house.write("request", &input);
    let request = text(&request);
    let result = enclave.call(&input).expect("an honest call");
    assert_eq!(
        stage.opened(&result, &["--key", KEY, "--result-of", request]),
        LINES
    );
    assert_eq!(stage.opened(&result, &["--result-of", request]), LINES);

    let forged = forged_result(&stage, &input);
    // It is a good message, that its owner may open; but no result of the enclave's.
    assert_eq!(stage.opened(&forged, &[]), b"{\"n\":\"forged\"}\n");
    let said = stage.not_opened(&forged, &["--key", KEY, "--result-of", request]);
    assert!(said.contains("IncorrectKeyException"), "{said}");
    // Its request says under which key a result must be, even where its owner does not.
    let said = stage.not_opened(&forged, &["--result-of", request]);
    assert!(
        said.contains("IncorrectKeyException") || said.contains("sealed under"),
        "{said}"
    );
}

/// A message with a result's context, sealed by the host.
fn forged_result(stage: &Stage, input: &[u8]) -> Vec<u8> {
    use anchorhold_envelope::{DataKey, EncryptedDataKey, SealOptions, new_message_id};
    use anchorhold_kms_wire::shapes::{DataKeySpec, GenerateDataKeyRequest};

    let header = header(input);
    let mut context = header.context().clone();
    context.insert("anchorhold:kind".to_owned(), "result".to_owned());
    context.insert(
        "anchorhold:request".to_owned(),
        hex::encode(header.message_id()),
    );
    let answer = stage
        .ask(
            Who::Host,
            &GenerateDataKeyRequest {
                key_id: "alias/free".to_owned(),
                encryption_context: context.clone(),
                key_spec: Some(DataKeySpec::Aes256),
                ..GenerateDataKeyRequest::default()
            },
        )
        .expect("a data key");
    let key =
        DataKey::from_vec(answer.plaintext.expect("a plaintext").into_inner()).expect("32 bytes");
    let encrypted = EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: answer.key_id,
        ciphertext: answer.ciphertext_blob.0,
    };
    let mut message = Vec::new();
    let options = SealOptions::new(context, vec![encrypted]);
    let id = new_message_id().expect("randomness");
    anchorhold_envelope::seal(
        &b"{\"n\":\"forged\"}\n"[..],
        &mut message,
        options,
        None,
        key,
        id,
    )
    .expect("a message");
    message
}
