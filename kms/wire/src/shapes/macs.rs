//! Message authentication codes (HMAC).

use super::{Blob, MacAlgorithm, SecretBlob};

shape! {
    /// Makes a code for a message.
    #[derive(Default)]
    GenerateMacRequest {
        required {
            /// The message, 1 to 4,096 bytes.
            message: SecretBlob,
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
            /// How.
            mac_algorithm: MacAlgorithm,
        }
        optional {
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}
debug_without_plaintext!(GenerateMacRequest {
    key_id,
    mac_algorithm,
    grant_tokens,
    dry_run
});

open_shape! {
    /// A code.
    GenerateMacResponse {
        required {
            /// The code.
            mac: Blob,
            /// How it was made.
            mac_algorithm: MacAlgorithm,
            /// The key's ARN.
            key_id: String,
        }
    }
}

operation!(GenerateMacRequest => GenerateMacResponse, "GenerateMac", required: ["Message", "KeyId", "MacAlgorithm"], repeatable: true);

shape! {
    /// Checks a code. One that is wrong is an error.
    #[derive(Default)]
    VerifyMacRequest {
        required {
            /// The message, 1 to 4,096 bytes.
            message: SecretBlob,
            /// Key id, key ARN, alias name or alias ARN.
            key_id: String,
            /// How it was made.
            mac_algorithm: MacAlgorithm,
            /// The code.
            mac: Blob,
        }
        optional {
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}
debug_without_plaintext!(VerifyMacRequest {
    key_id,
    mac_algorithm,
    mac,
    grant_tokens,
    dry_run
});

open_shape! {
    /// The code is right.
    VerifyMacResponse {
        required {
            /// The key's ARN.
            key_id: String,
            /// Always true.
            mac_valid: bool,
            /// How it was made.
            mac_algorithm: MacAlgorithm,
        }
    }
}

operation!(VerifyMacRequest => VerifyMacResponse, "VerifyMac", required: ["Message", "KeyId", "MacAlgorithm", "Mac"], repeatable: true);
