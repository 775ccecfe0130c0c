//! What a parent may try, and why it does not work. Each attempt is made for
//! real; one that succeeds ends the demo with an error.

use std::time::{Duration, SystemTime};

use anchorhold_envelope::{Header, Limits, Parse};
use anchorhold_kms_wire::client::ClientError;
use anchorhold_kms_wire::recipient::RecipientKey;
use anchorhold_kms_wire::shapes::{
    Blob, DecryptRequest, DecryptResponse, KeyEncryptionAlgorithm, RecipientInfo,
};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use anyhow::Context as _;
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use serde_bytes::ByteBuf;

use super::narrator::Narrator;
use super::parts::Parts;

pub(crate) async fn tell_all(parts: &Parts<'_>, say: &mut Narrator) -> anyhow::Result<()> {
    let enclave = parts.enclave.as_ref().context("no enclave runs")?;

    let changed = parts.changed_image()?;
    refused_call(
        parts,
        say,
        "an image with one byte of its job changed",
        &changed,
        "changed",
        false,
    )
    .await?;
    refused_call(
        parts,
        say,
        "the same image in debug mode",
        parts.image(),
        "debug",
        true,
    )
    .await?;

    let seen = parts.audit.length()?;
    must_fail(
        decrypt(parts, None).await,
        "the parent decrypted the data key by itself",
    )?;
    say.refused(
        "the parent asks the key service by itself",
        &parts.audit.refusal_after(seen)?,
    );

    let key = RecipientKey::generate()?;
    let ten_minutes_ago = SystemTime::now() - Duration::from_secs(600);
    let old = document(parts, &parts.root, key.public_key_der(), ten_minutes_ago)?;
    let seen = parts.audit.length()?;
    must_fail(
        decrypt(parts, Some(old)).await,
        "an old document was accepted",
    )?;
    say.refused(
        "a document of this image, replayed ten minutes later",
        &parts.audit.refusal_after(seen)?,
    );

    let fresh = parts.client(enclave)?.attest(None, None, true).await?;
    let answer = decrypt(parts, Some(fresh))
        .await
        .context("a fresh document was refused")?;
    anyhow::ensure!(
        answer.plaintext.is_none(),
        "a replayed document brought the plaintext"
    );
    let envelope = answer
        .ciphertext_for_recipient
        .context("the answer holds no envelope")?;
    let Err(error) = key.open(&envelope.0) else {
        anyhow::bail!("the parent opened the enclave's envelope")
    };
    say.refused(
        "a fresh document of the enclave's, replayed: brings an envelope for the enclave's RSA key",
        &format!("the parent cannot open it: {error}"),
    );

    let other = DevelopmentRoot::generate()?;
    let forged = document(parts, &other, key.public_key_der(), SystemTime::now())?;
    let seen = parts.audit.length()?;
    must_fail(
        decrypt(parts, Some(forged)).await,
        "a document of another root was accepted",
    )?;
    say.refused(
        "a document with the right PCRs, signed under another root",
        &parts.audit.refusal_after(seen)?,
    );

    let mut flipped = parts.sealed()?;
    let middle = flipped.len() - 100;
    flipped[middle] ^= 1;
    let Err(error) = parts.call(enclave, flipped).await else {
        anyhow::bail!("a sealed file with a flipped bit was accepted")
    };
    let words = Parts::last_words(enclave)?;
    let reason = if words.is_empty() {
        format!("{error:#}")
    } else {
        words
    };
    say.refused("one bit of the sealed file flipped", &reason);
    Ok(())
}

/// Starts an image and sends it the sealed file; it must not get the key.
async fn refused_call(
    parts: &Parts<'_>,
    say: &mut Narrator,
    attempt: &str,
    image: &std::path::Path,
    name: &str,
    debug: bool,
) -> anyhow::Result<()> {
    let seen = parts.audit.length()?;
    let enclave = parts.start(image, name, debug)?;
    let outcome = parts.call(&enclave, parts.sealed()?).await;
    parts.end(name);
    anyhow::ensure!(outcome.is_err(), "{attempt} got a result");
    say.refused(attempt, &parts.audit.refusal_after(seen)?);
    Ok(())
}

fn must_fail<T>(outcome: Result<T, anyhow::Error>, otherwise: &str) -> anyhow::Result<()> {
    match outcome {
        Ok(_) => anyhow::bail!("{otherwise}"),
        Err(error) => match error.downcast_ref::<ClientError>() {
            Some(ClientError::Service { .. }) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Asks for the data key of the sealed file with the parent's credentials.
async fn decrypt(parts: &Parts<'_>, document: Option<Vec<u8>>) -> anyhow::Result<DecryptResponse> {
    let sealed = parts.sealed()?;
    let Parse::Complete { header, .. } = Header::parse(&sealed, &Limits::default())? else {
        anyhow::bail!("the sealed file has no header")
    };
    let data_key = header
        .data_keys()
        .first()
        .context("the sealed file has no data key")?;
    let request = DecryptRequest {
        ciphertext_blob: Some(Blob(data_key.ciphertext.clone())),
        encryption_context: header.context().clone(),
        key_id: Some(parts.key.clone()),
        recipient: document.map(|document| RecipientInfo {
            key_encryption_algorithm: Some(KeyEncryptionAlgorithm::RsaesOaepSha256),
            attestation_document: Some(Blob(document)),
        }),
        ..DecryptRequest::default()
    };
    Ok(parts.host()?.call(&request).await?)
}

/// A document with the image's measurements, signed under `root` at `when`.
fn document(
    parts: &Parts<'_>,
    root: &DevelopmentRoot,
    public_key: &[u8],
    when: SystemTime,
) -> anyhow::Result<Vec<u8>> {
    let config = NsmConfig {
        pcr0: parts.measurements.pcr0,
        pcr1: parts.measurements.pcr1,
        pcr2: parts.measurements.pcr2,
        ..NsmConfig::default()
    };
    let nsm = Nsm::new(root, config, when)?;
    let request = Request::Attestation {
        user_data: None,
        nonce: None,
        public_key: Some(ByteBuf::from(public_key)),
    };
    match serde_cbor::from_slice(&nsm.handle(&serde_cbor::to_vec(&request)?, when))? {
        Response::Attestation { document } => Ok(document),
        other => anyhow::bail!("the simulated NSM answered {other:?}"),
    }
}
