//! AWS's SDK for Rust, unmodified, against the key service: `kms-rust CA POLICY DOCUMENT ENVELOPE`.
//!
//! The endpoint is in `AWS_ENDPOINT_URL_KMS`, the credentials in AWS's usual variables. Under a key of that policy a
//! secret is decrypted for the recipient of that attestation document; its envelope is written for who can open it.
//! Ends with an error at the first surprise.

use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::error::ProvideErrorMetadata;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{
    DataKeySpec, GrantOperation, KeyEncryptionMechanism, KeySpec, KeyState, KeyUsageType,
    MacAlgorithmSpec, RecipientInfo, SigningAlgorithmSpec, Tag,
};
use aws_sdk_kms::{Client, Config};
use aws_smithy_http_client::{Builder, tls};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [ca, policy, document, envelope] = arguments.as_slice() else {
        return Err("kms-rust CA POLICY DOCUMENT ENVELOPE".into());
    };
    let kms = client(ca)?;
    keys(&kms).await?;
    signatures(&kms).await?;
    recipient(&kms, policy, document, envelope).await?;
    println!("all passed");
    Ok(())
}

fn client(ca: &str) -> Outcome<Client> {
    let trusted = tls::TrustStore::empty().with_pem_certificate(std::fs::read(ca)?);
    let context = tls::TlsContext::builder()
        .with_trust_store(trusted)
        .build()?;
    let http = Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .tls_context(context)
        .build_https();
    let of = |name| std::env::var(name);
    let credentials = Credentials::new(
        of("AWS_ACCESS_KEY_ID")?,
        of("AWS_SECRET_ACCESS_KEY")?,
        None,
        None,
        "environment",
    );
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(of("AWS_REGION")?))
        .endpoint_url(of("AWS_ENDPOINT_URL_KMS")?)
        .credentials_provider(credentials)
        .http_client(http)
        .build();
    Ok(Client::from_conf(config))
}

fn holds(what: &str, is_so: bool) -> Outcome<()> {
    if is_so { Ok(()) } else { Err(what.into()) }
}

/// An error of this name.
fn fails<T, E: ProvideErrorMetadata>(what: &str, kind: &str, answer: Result<T, E>) -> Outcome<()> {
    match answer {
        Ok(_) => Err(format!("{what}: no error").into()),
        Err(error) if error.code() == Some(kind) => Ok(()),
        Err(error) => Err(format!("{what}: {:?}: {:?}", error.code(), error.message()).into()),
    }
}

async fn keys(kms: &Client) -> Outcome<()> {
    let tag = Tag::builder().tag_key("a").tag_value("b").build()?;
    let made = kms
        .create_key()
        .description("by the SDK")
        .tags(tag)
        .send()
        .await?;
    let made = made.key_metadata.ok_or("no metadata")?;
    let key = made.key_id();
    holds("enabled", made.key_state() == Some(&KeyState::Enabled))?;
    holds("dated", made.creation_date().is_some())?;
    let alias = format!("alias/rust-{}", &key[..8]);
    kms.create_alias()
        .alias_name(&alias)
        .target_key_id(key)
        .send()
        .await?;
    let again = kms.create_alias().alias_name(&alias).target_key_id(key);
    fails("alias twice", "AlreadyExistsException", again.send().await)?;
    let described = kms.describe_key().key_id(&alias).send().await?;
    holds(
        "described by its alias",
        described
            .key_metadata
            .is_some_and(|found| found.key_id() == key),
    )?;

    let sealed = kms
        .encrypt()
        .key_id(&alias)
        .plaintext(Blob::new("hello"))
        .encryption_context("purpose", "test")
        .send()
        .await?;
    let blob = sealed.ciphertext_blob.ok_or("no ciphertext")?;
    let opened = kms
        .decrypt()
        .ciphertext_blob(blob.clone())
        .encryption_context("purpose", "test")
        .send()
        .await?;
    holds(
        "decrypt",
        opened
            .plaintext
            .is_some_and(|found| found.as_ref() == b"hello"),
    )?;
    let without = kms.decrypt().ciphertext_blob(blob.clone()).send().await;
    fails("another context", "InvalidCiphertextException", without)?;
    let data_key = kms
        .generate_data_key()
        .key_id(key)
        .key_spec(DataKeySpec::Aes256)
        .send()
        .await?;
    holds(
        "generate_data_key",
        data_key
            .plaintext
            .is_some_and(|found| found.as_ref().len() == 32),
    )?;
    let moved = kms
        .re_encrypt()
        .ciphertext_blob(blob)
        .source_encryption_context("purpose", "test")
        .destination_key_id(key)
        .send()
        .await?;
    holds("re_encrypt", moved.ciphertext_blob.is_some())?;
    let random = kms.generate_random().number_of_bytes(16).send().await?;
    holds(
        "generate_random",
        random
            .plaintext
            .is_some_and(|found| found.as_ref().len() == 16),
    )?;

    let granted = kms
        .create_grant()
        .key_id(key)
        .grantee_principal("arn:aws:iam::111122223333:user/host")
        .operations(GrantOperation::Decrypt)
        .send()
        .await?;
    kms.revoke_grant()
        .key_id(key)
        .grant_id(granted.grant_id.ok_or("no grant")?)
        .send()
        .await?;
    let mut listed = 0;
    let mut pages = kms.list_keys().limit(1).into_paginator().send();
    while let Some(page) = pages.next().await {
        listed += page?.keys().len();
    }
    holds("list_keys", listed >= 1)?;
    kms.enable_key_rotation()
        .key_id(key)
        .rotation_period_in_days(90)
        .send()
        .await?;
    kms.disable_key().key_id(key).send().await?;
    let disabled = kms
        .encrypt()
        .key_id(key)
        .plaintext(Blob::new("x"))
        .send()
        .await;
    fails("disabled", "DisabledException", disabled)?;
    kms.schedule_key_deletion()
        .key_id(key)
        .pending_window_in_days(7)
        .send()
        .await?;
    let pending = kms.enable_key().key_id(key).send().await;
    fails("pending deletion", "KMSInvalidStateException", pending)?;
    let absent = kms.describe_key().key_id("alias/none").send().await;
    fails("absent", "NotFoundException", absent)?;
    Ok(())
}

async fn signatures(kms: &Client) -> Outcome<()> {
    let made = kms
        .create_key()
        .key_spec(KeySpec::EccNistP256)
        .key_usage(KeyUsageType::SignVerify)
        .send()
        .await?;
    let metadata = made.key_metadata.ok_or("no metadata")?;
    let key = metadata.key_id();
    let algorithm = SigningAlgorithmSpec::EcdsaSha256;
    let signed = kms
        .sign()
        .key_id(key)
        .message(Blob::new("message"))
        .signing_algorithm(algorithm.clone())
        .send()
        .await?;
    let signature = signed.signature.ok_or("no signature")?;
    let check = |message: &str| {
        kms.verify()
            .key_id(key)
            .message(Blob::new(message))
            .signature(signature.clone())
            .signing_algorithm(algorithm.clone())
    };
    holds("verify", check("message").send().await?.signature_valid)?;
    let wrong = check("massage").send().await;
    fails("another message", "KMSInvalidSignatureException", wrong)?;
    holds(
        "get_public_key",
        kms.get_public_key()
            .key_id(key)
            .send()
            .await?
            .public_key
            .is_some(),
    )?;
    let made = kms
        .create_key()
        .key_spec(KeySpec::Hmac256)
        .key_usage(KeyUsageType::GenerateVerifyMac)
        .send()
        .await?;
    let metadata = made.key_metadata.ok_or("no metadata")?;
    let mac = kms
        .generate_mac()
        .key_id(metadata.key_id())
        .message(Blob::new("message"))
        .mac_algorithm(MacAlgorithmSpec::HmacSha256)
        .send()
        .await?;
    holds(
        "generate_mac",
        mac.mac.is_some_and(|mac| mac.as_ref().len() == 32),
    )
}

async fn recipient(kms: &Client, policy: &str, document: &str, envelope: &str) -> Outcome<()> {
    let policy = std::fs::read_to_string(policy)?;
    let made = kms.create_key().policy(policy).send().await?;
    let metadata = made.key_metadata.ok_or("no metadata")?;
    let sealed = kms
        .encrypt()
        .key_id(metadata.key_id())
        .plaintext(Blob::new("for the enclave"))
        .send()
        .await?;
    let blob = sealed.ciphertext_blob.ok_or("no ciphertext")?;
    let open = kms.decrypt().ciphertext_blob(blob.clone()).send().await;
    fails("without a document", "AccessDeniedException", open)?;
    let info = RecipientInfo::builder()
        .key_encryption_algorithm(KeyEncryptionMechanism::RsaesOaepSha256)
        .attestation_document(Blob::new(std::fs::read(document)?))
        .build();
    let answer = kms
        .decrypt()
        .ciphertext_blob(blob)
        .recipient(info)
        .send()
        .await?;
    holds(
        "no plaintext beside the envelope",
        answer.plaintext.is_none(),
    )?;
    let sealed = answer.ciphertext_for_recipient.ok_or("no envelope")?;
    std::fs::write(envelope, sealed.as_ref())?;
    Ok(())
}
