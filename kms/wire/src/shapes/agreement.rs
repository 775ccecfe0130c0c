//! Secrets that two agree on (ECDH).

use super::{Blob, KeyAgreementAlgorithm, Origin, RecipientInfo, SecretBlob};

open_shape! {
    /// Agrees with the owner of a public key.
    DeriveSharedSecretRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
            /// How: `ECDH`.
            key_agreement_algorithm: KeyAgreementAlgorithm,
            /// The other's key: DER of its `SubjectPublicKeyInfo`, on the same curve.
            public_key: Blob,
        }
        optional {
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        object {
            /// Encrypt the answer to this enclave.
            recipient: RecipientInfo,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}

shape! {
    /// The secret, raw: derive keys from it before use. What
    /// [`DecryptResponse`](super::DecryptResponse) says of the plaintext holds here too.
    #[derive(Default)]
    DeriveSharedSecretResponse {
        required {
            /// The key's ARN.
            key_id: String,
        }
        optional {
            /// The secret; absent where a Recipient was named.
            shared_secret: SecretBlob,
            /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
            ciphertext_for_recipient: Blob,
            /// How it was made.
            key_agreement_algorithm: KeyAgreementAlgorithm,
            /// Where the key's material came from.
            key_origin: Origin,
        }
    }
}
debug_without_plaintext!(DeriveSharedSecretResponse {
    key_id,
    ciphertext_for_recipient,
    key_agreement_algorithm,
    key_origin
});

operation!(DeriveSharedSecretRequest => DeriveSharedSecretResponse, "DeriveSharedSecret", required: ["KeyId", "KeyAgreementAlgorithm", "PublicKey"], repeatable: true);
