//! Rotation: new material for the same key.

use super::{
    ExpirationModel, ImportState, IncludeKeyMaterial, KeyMaterialState, RotationType, Timestamp,
};

open_shape! {
    /// Has a key's material rotated from time to time.
    EnableKeyRotationRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// 90 to 2,560; absent: 365, or what it was.
            rotation_period_in_days: i32,
        }
    }
}
nothing!(EnableKeyRotationResponse);
operation!(EnableKeyRotationRequest => EnableKeyRotationResponse, "EnableKeyRotation", required: ["KeyId"], repeatable: true, has_output: false);

open_shape! {
    /// Ends automatic rotation.
    DisableKeyRotationRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
    }
}
nothing!(DisableKeyRotationResponse);
operation!(DisableKeyRotationRequest => DisableKeyRotationResponse, "DisableKeyRotation", required: ["KeyId"], repeatable: true, has_output: false);

open_shape! {
    /// Asks how a key is rotated.
    GetKeyRotationStatusRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
    }
}

open_shape! {
    /// How it is rotated.
    GetKeyRotationStatusResponse {
        required {
            /// Whether it is, automatically.
            key_rotation_enabled: bool,
        }
        optional {
            /// The key's ARN.
            key_id: String,
            /// Days between two rotations.
            rotation_period_in_days: i32,
            /// The next one.
            next_rotation_date: Timestamp,
            /// When a rotation on demand, still running, began.
            on_demand_rotation_start_date: Timestamp,
        }
    }
}

operation!(GetKeyRotationStatusRequest => GetKeyRotationStatusResponse, "GetKeyRotationStatus", required: ["KeyId"], repeatable: true);

open_shape! {
    /// Rotates a key's material now.
    RotateKeyOnDemandRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
    }
}

open_shape! {
    /// The key whose material is rotated.
    RotateKeyOnDemandResponse {
        required {
            /// Its ARN.
            key_id: String,
        }
    }
}

operation!(RotateKeyOnDemandRequest => RotateKeyOnDemandResponse, "RotateKeyOnDemand", required: ["KeyId"], repeatable: false);

open_shape! {
    /// Asks for a key's rotations.
    ListKeyRotationsRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// Absent: `ROTATIONS_ONLY`.
            include_key_material: IncludeKeyMaterial,
            /// The most to answer with, 1 to 1,000; absent: 100.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
        }
    }
}

open_shape! {
    /// A rotation, and the material that it brought.
    RotationsListEntry {
        optional {
            /// The key's ARN.
            key_id: String,
            /// 64 hex digits.
            key_material_id: String,
            /// As whoever imported it described it.
            key_material_description: String,
            /// Whether imported material is here.
            import_state: ImportState,
            /// What it is used for.
            key_material_state: KeyMaterialState,
            /// Whether imported material expires.
            expiration_model: ExpirationModel,
            /// When.
            valid_to: Timestamp,
            /// When it came into use by a rotation.
            rotation_date: Timestamp,
            /// How that came about.
            rotation_type: RotationType,
        }
    }
}

open_shape! {
    /// Rotations, the oldest first.
    ListKeyRotationsResponse {
        required {
            /// The rotations.
            rotations: Vec<RotationsListEntry>,
            /// Whether there are more.
            truncated: bool,
        }
        optional {
            /// Where to go on.
            next_marker: String,
        }
    }
}

operation!(ListKeyRotationsRequest => ListKeyRotationsResponse, "ListKeyRotations", required: ["KeyId"], repeatable: true);
