//! Encryption under a key of the service.

use super::{Blob, EncryptionAlgorithm, RecipientInfo, SecretBlob};

shape! {
    /// Encrypts up to 4,096 bytes.
    #[derive(Default)]
    EncryptRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
            /// What to encrypt.
            plaintext: SecretBlob,
        }
        optional {
            /// Absent: `SYMMETRIC_DEFAULT`.
            encryption_algorithm: EncryptionAlgorithm,
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
        pairs {
            /// What the ciphertext is bound to.
            encryption_context,
        }
    }
}
debug_without_plaintext!(EncryptRequest {
    key_id,
    encryption_context,
    grant_tokens,
    encryption_algorithm,
    dry_run
});

open_shape! {
    /// A ciphertext.
    EncryptResponse {
        required {
            /// The ciphertext; a symmetric key's names its key inside.
            ciphertext_blob: Blob,
            /// The key's ARN.
            key_id: String,
            /// How it was encrypted.
            encryption_algorithm: EncryptionAlgorithm,
        }
    }
}

operation!(EncryptRequest => EncryptResponse, "Encrypt", required: ["KeyId", "Plaintext"], repeatable: true);

open_shape! {
    /// Decrypts a ciphertext.
    DecryptRequest {
        optional {
            /// The ciphertext; absent only in a dry run that ignores it.
            ciphertext_blob: Blob,
            /// The key it must have been encrypted under. Optional for symmetric keys, but only
            /// with it is the caller sure of the key.
            key_id: String,
            /// Absent: `SYMMETRIC_DEFAULT`.
            encryption_algorithm: EncryptionAlgorithm,
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
            /// What a dry run is to leave out: `IGNORE_CIPHERTEXT`.
            dry_run_modifiers: String,
        }
        pairs {
            /// What it was bound to.
            encryption_context,
        }
    }
}

shape! {
    /// The plaintext, open or in an envelope. A caller who sent a Recipient must take the envelope
    /// only: a service that answers with the plaintext all the same has verified nothing, and has
    /// shown the plaintext to whoever reads the connection.
    #[derive(Default)]
    DecryptResponse {
        required {
            /// The key's ARN.
            key_id: String,
        }
        optional {
            /// The plaintext; absent where a Recipient was named.
            plaintext: SecretBlob,
            /// How it was encrypted.
            encryption_algorithm: EncryptionAlgorithm,
            /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
            ciphertext_for_recipient: Blob,
            /// The material that decrypted it, 64 hex digits.
            key_material_id: String,
        }
    }
}
debug_without_plaintext!(DecryptResponse {
    key_id,
    encryption_algorithm,
    ciphertext_for_recipient,
    key_material_id
});

operation!(DecryptRequest => DecryptResponse, "Decrypt", required: [], repeatable: true);

open_shape! {
    /// Decrypts a ciphertext and encrypts it under another key, all inside the service.
    ReEncryptRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            destination_key_id: String,
        }
        optional {
            /// The ciphertext; absent only in a dry run that ignores it.
            ciphertext_blob: Blob,
            /// The key it was encrypted under. Optional for symmetric keys.
            source_key_id: String,
            /// Absent: `SYMMETRIC_DEFAULT`.
            source_encryption_algorithm: EncryptionAlgorithm,
            /// Absent: `SYMMETRIC_DEFAULT`.
            destination_encryption_algorithm: EncryptionAlgorithm,
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
            /// What a dry run is to leave out: `IGNORE_CIPHERTEXT`.
            dry_run_modifiers: String,
        }
        pairs {
            /// What it was bound to.
            source_encryption_context,
            /// What it will be bound to.
            destination_encryption_context,
        }
    }
}

open_shape! {
    /// The new ciphertext.
    ReEncryptResponse {
        required {
            /// The ciphertext under the destination.
            ciphertext_blob: Blob,
            /// The destination's ARN.
            key_id: String,
        }
        optional {
            /// The source's ARN.
            source_key_id: String,
            /// How it was encrypted.
            source_encryption_algorithm: EncryptionAlgorithm,
            /// How it is encrypted now.
            destination_encryption_algorithm: EncryptionAlgorithm,
            /// The material that decrypted it, 64 hex digits.
            source_key_material_id: String,
            /// The material that encrypted it, 64 hex digits.
            destination_key_material_id: String,
        }
    }
}

operation!(ReEncryptRequest => ReEncryptResponse, "ReEncrypt", required: ["DestinationKeyId"], repeatable: true);
