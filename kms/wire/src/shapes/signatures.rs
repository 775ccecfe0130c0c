//! Signatures, and the public keys that belong to them and to other pairs.

use super::{
    Blob, EncryptionAlgorithm, KeyAgreementAlgorithm, KeySpec, KeyUsage, MessageType, SecretBlob,
    SigningAlgorithm,
};

shape! {
    /// Signs a message, or its digest.
    #[derive(Default)]
    SignRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
            /// The message (1 to 4,096 bytes) or its digest.
            message: SecretBlob,
            /// How to sign.
            signing_algorithm: SigningAlgorithm,
        }
        optional {
            /// What `message` is; absent: `RAW`.
            message_type: MessageType,
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}
debug_without_plaintext!(SignRequest {
    key_id,
    signing_algorithm,
    message_type,
    grant_tokens,
    dry_run
});

open_shape! {
    /// A signature.
    SignResponse {
        required {
            /// The key's ARN.
            key_id: String,
            /// PKCS#1 for RSA, DER for ECDSA, raw for the rest.
            signature: Blob,
            /// How it was made.
            signing_algorithm: SigningAlgorithm,
        }
    }
}

operation!(SignRequest => SignResponse, "Sign", required: ["KeyId", "Message", "SigningAlgorithm"], repeatable: true);

shape! {
    /// Checks a signature. One that is wrong is an error.
    #[derive(Default)]
    VerifyRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
            /// The message (1 to 4,096 bytes) or its digest.
            message: SecretBlob,
            /// The signature.
            signature: Blob,
            /// How it was made.
            signing_algorithm: SigningAlgorithm,
        }
        optional {
            /// What `message` is; absent: `RAW`.
            message_type: MessageType,
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}
debug_without_plaintext!(VerifyRequest {
    key_id,
    signature,
    signing_algorithm,
    message_type,
    grant_tokens,
    dry_run
});

open_shape! {
    /// The signature is right.
    VerifyResponse {
        required {
            /// The key's ARN.
            key_id: String,
            /// Always true.
            signature_valid: bool,
            /// How it was made.
            signing_algorithm: SigningAlgorithm,
        }
    }
}

operation!(VerifyRequest => VerifyResponse, "Verify", required: ["KeyId", "Message", "Signature", "SigningAlgorithm"], repeatable: true);

open_shape! {
    /// Asks for the public half of a pair.
    GetPublicKeyRequest {
        required {
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}

open_shape! {
    /// A public key.
    GetPublicKeyResponse {
        required {
            /// The key's ARN.
            key_id: String,
            /// DER of its `SubjectPublicKeyInfo`.
            public_key: Blob,
        }
        optional {
            /// The old name of `key_spec`; both are sent.
            customer_master_key_spec: KeySpec,
            /// The kind of key.
            key_spec: KeySpec,
            /// What it is for.
            key_usage: KeyUsage,
            /// How it can encrypt; only for keys that do.
            encryption_algorithms: Vec<EncryptionAlgorithm>,
            /// How it can sign; only for keys that do.
            signing_algorithms: Vec<SigningAlgorithm>,
            /// How it can agree on secrets; only for keys that do.
            key_agreement_algorithms: Vec<KeyAgreementAlgorithm>,
        }
    }
}

operation!(GetPublicKeyRequest => GetPublicKeyResponse, "GetPublicKey", required: ["KeyId"], repeatable: true);
