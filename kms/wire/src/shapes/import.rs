//! Material that the owner brings along.

use super::{Blob, ExpirationModel, ImportType, Timestamp, WrappingAlgorithm, WrappingKeySpec};

open_shape! {
    /// Asks for a public key to encrypt material with, and a token that belongs to it.
    GetParametersForImportRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// How the material will be encrypted.
            wrapping_algorithm: WrappingAlgorithm,
            /// The kind of public key.
            wrapping_key_spec: WrappingKeySpec,
        }
    }
}

open_shape! {
    /// Good for 24 hours.
    GetParametersForImportResponse {
        required {
            /// The key's ARN.
            key_id: String,
            /// To be handed back with the material.
            import_token: Blob,
            /// DER of a `SubjectPublicKeyInfo`.
            public_key: Blob,
            /// Until when both are good.
            parameters_valid_to: Timestamp,
        }
    }
}

operation!(GetParametersForImportRequest => GetParametersForImportResponse, "GetParametersForImport", required: ["KeyId", "WrappingAlgorithm", "WrappingKeySpec"], repeatable: true);

open_shape! {
    /// Brings material.
    ImportKeyMaterialRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// The token that came with the public key.
            import_token: Blob,
            /// The material, encrypted to the public key.
            encrypted_key_material: Blob,
        }
        optional {
            /// When it expires; only where it does.
            valid_to: Timestamp,
            /// Absent: `KEY_MATERIAL_EXPIRES`.
            expiration_model: ExpirationModel,
            /// Absent: new for a key that never had any, else what it had.
            import_type: ImportType,
            /// Free text, up to 256 characters.
            key_material_description: String,
            /// The material that it must be.
            key_material_id: String,
        }
    }
}

open_shape! {
    /// The material that was brought.
    ImportKeyMaterialResponse {
        optional {
            /// The key's ARN.
            key_id: String,
            /// 64 hex digits.
            key_material_id: String,
        }
    }
}

operation!(ImportKeyMaterialRequest => ImportKeyMaterialResponse, "ImportKeyMaterial", required: ["KeyId", "ImportToken", "EncryptedKeyMaterial"], repeatable: true);

open_shape! {
    /// Takes imported material away; the key stays and waits for it.
    DeleteImportedKeyMaterialRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// Which; absent: the current one.
            key_material_id: String,
        }
    }
}

open_shape! {
    /// The material that is gone.
    DeleteImportedKeyMaterialResponse {
        optional {
            /// The key's ARN.
            key_id: String,
            /// 64 hex digits.
            key_material_id: String,
        }
    }
}

operation!(DeleteImportedKeyMaterialRequest => DeleteImportedKeyMaterialResponse, "DeleteImportedKeyMaterial", required: ["KeyId"], repeatable: true);
