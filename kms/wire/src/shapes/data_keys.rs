//! Keys and bytes that the service makes and hands out: data keys, pairs of keys, random bytes.

use super::{Blob, DataKeyPairSpec, DataKeySpec, RecipientInfo, SecretBlob};

open_shape! {
    /// Makes a data key, and encrypts it under a key of the service.
    GenerateDataKeyRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
        }
        optional {
            /// Its length, 1 to 1,024 bytes. Either this or `key_spec`.
            number_of_bytes: i32,
            /// Its kind. Either this or `number_of_bytes`.
            key_spec: DataKeySpec,
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
        pairs {
            /// What the encrypted data key is bound to.
            encryption_context,
        }
    }
}

shape! {
    /// A data key, open or in an envelope, and encrypted. What
    /// [`DecryptResponse`](super::DecryptResponse) says of the plaintext holds here too.
    #[derive(Default)]
    GenerateDataKeyResponse {
        required {
            /// The data key, encrypted under the key.
            ciphertext_blob: Blob,
            /// The key's ARN.
            key_id: String,
        }
        optional {
            /// The data key; absent where a Recipient was named.
            plaintext: SecretBlob,
            /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
            ciphertext_for_recipient: Blob,
            /// The material that encrypted it, 64 hex digits.
            key_material_id: String,
        }
    }
}
debug_without_plaintext!(GenerateDataKeyResponse {
    ciphertext_blob,
    key_id,
    ciphertext_for_recipient,
    key_material_id
});

operation!(GenerateDataKeyRequest => GenerateDataKeyResponse, "GenerateDataKey", required: ["KeyId"], repeatable: true);

open_shape! {
    /// Makes a data key which the caller gets in encrypted form only.
    GenerateDataKeyWithoutPlaintextRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
        }
        optional {
            /// Its kind. Either this or `number_of_bytes`.
            key_spec: DataKeySpec,
            /// Its length, 1 to 1,024 bytes. Either this or `key_spec`.
            number_of_bytes: i32,
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
        pairs {
            /// What the encrypted data key is bound to.
            encryption_context,
        }
    }
}

open_shape! {
    /// An encrypted data key.
    GenerateDataKeyWithoutPlaintextResponse {
        required {
            /// The data key, encrypted under the key.
            ciphertext_blob: Blob,
            /// The key's ARN.
            key_id: String,
        }
        optional {
            /// The material that encrypted it, 64 hex digits.
            key_material_id: String,
        }
    }
}

operation!(GenerateDataKeyWithoutPlaintextRequest => GenerateDataKeyWithoutPlaintextResponse, "GenerateDataKeyWithoutPlaintext", required: ["KeyId"], repeatable: true);

open_shape! {
    /// Makes a pair of keys, and encrypts the private one under a key of the service.
    GenerateDataKeyPairRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN of a symmetric key.
            key_id: String,
            /// The kind of pair.
            key_pair_spec: DataKeyPairSpec,
        }
        optional {
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        object {
            /// Encrypt the private key to this enclave.
            recipient: RecipientInfo,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
        pairs {
            /// What the encrypted private key is bound to.
            encryption_context,
        }
    }
}

shape! {
    /// A pair of keys. What [`DecryptResponse`](super::DecryptResponse) says of the plaintext holds
    /// for the private key.
    #[derive(Default)]
    GenerateDataKeyPairResponse {
        required {
            /// The private key, encrypted under the key.
            private_key_ciphertext_blob: Blob,
            /// DER of its `SubjectPublicKeyInfo`.
            public_key: Blob,
            /// The key's ARN.
            key_id: String,
            /// The kind of pair.
            key_pair_spec: DataKeyPairSpec,
        }
        optional {
            /// The private key, PKCS#8 DER; absent where a Recipient was named.
            private_key_plaintext: SecretBlob,
            /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
            ciphertext_for_recipient: Blob,
            /// The material that encrypted it, 64 hex digits.
            key_material_id: String,
        }
    }
}
debug_without_plaintext!(GenerateDataKeyPairResponse {
    private_key_ciphertext_blob,
    public_key,
    key_id,
    key_pair_spec,
    ciphertext_for_recipient,
    key_material_id
});

operation!(GenerateDataKeyPairRequest => GenerateDataKeyPairResponse, "GenerateDataKeyPair", required: ["KeyId", "KeyPairSpec"], repeatable: true);

open_shape! {
    /// Makes a pair of keys of which the caller gets the private one in encrypted form only.
    GenerateDataKeyPairWithoutPlaintextRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN of a symmetric key.
            key_id: String,
            /// The kind of pair.
            key_pair_spec: DataKeyPairSpec,
        }
        optional {
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
        pairs {
            /// What the encrypted private key is bound to.
            encryption_context,
        }
    }
}

open_shape! {
    /// A pair of keys, the private one encrypted.
    GenerateDataKeyPairWithoutPlaintextResponse {
        required {
            /// The private key, encrypted under the key.
            private_key_ciphertext_blob: Blob,
            /// DER of its `SubjectPublicKeyInfo`.
            public_key: Blob,
            /// The key's ARN.
            key_id: String,
            /// The kind of pair.
            key_pair_spec: DataKeyPairSpec,
        }
        optional {
            /// The material that encrypted it, 64 hex digits.
            key_material_id: String,
        }
    }
}

operation!(GenerateDataKeyPairWithoutPlaintextRequest => GenerateDataKeyPairWithoutPlaintextResponse, "GenerateDataKeyPairWithoutPlaintext", required: ["KeyId", "KeyPairSpec"], repeatable: true);

open_shape! {
    /// Asks for random bytes.
    GenerateRandomRequest {
        optional {
            /// How many, 1 to 1,024.
            number_of_bytes: i32,
            /// The custom key store that is to make them.
            custom_key_store_id: String,
        }
        object {
            /// Encrypt the answer to this enclave.
            recipient: RecipientInfo,
        }
    }
}

shape! {
    /// Random bytes, open or in an envelope. What [`DecryptResponse`](super::DecryptResponse) says
    /// of the plaintext holds here too.
    #[derive(Default)]
    GenerateRandomResponse {
        optional {
            /// The bytes; absent where a Recipient was named.
            plaintext: SecretBlob,
            /// The envelope (see [`crate::recipient`]); only where a Recipient was named.
            ciphertext_for_recipient: Blob,
        }
    }
}
debug_without_plaintext!(GenerateRandomResponse {
    ciphertext_for_recipient
});

operation!(GenerateRandomRequest => GenerateRandomResponse, "GenerateRandom", required: [], repeatable: true);
