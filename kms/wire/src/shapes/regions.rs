//! Multi-Region keys: the same material, under the same id, in several Regions.

use super::{KeyMetadata, Tag};

open_shape! {
    /// Makes a replica of a primary key.
    ReplicateKeyRequest {
        required {
            /// Key id or key ARN of the primary key, in its own Region.
            key_id: String,
            /// Where the replica is to be.
            replica_region: String,
        }
        optional {
            /// The replica's policy; absent: the default one.
            policy: String,
            /// Free text, up to 8,192 characters.
            description: String,
            /// Accept a policy which would keep the caller from changing it.
            bypass_policy_lockout_safety_check: bool,
        }
        objects {
            /// Tags to attach to the replica.
            tags: Tag,
        }
    }
}

open_shape! {
    /// The replica.
    ReplicateKeyResponse {
        required {
            /// What is known of it.
            replica_key_metadata: KeyMetadata,
        }
        optional {
            /// Its policy, JSON.
            replica_policy: String,
            /// Its tags.
            replica_tags: Vec<Tag>,
        }
    }
}

operation!(ReplicateKeyRequest => ReplicateKeyResponse, "ReplicateKey", required: ["KeyId", "ReplicaRegion"], repeatable: false);

open_shape! {
    /// Makes a replica the primary key, and the primary key a replica.
    UpdatePrimaryRegionRequest {
        required {
            /// Key id or key ARN of the primary key, in its own Region.
            key_id: String,
            /// Where the replica is that becomes primary.
            primary_region: String,
        }
    }
}
nothing!(UpdatePrimaryRegionResponse);
operation!(UpdatePrimaryRegionRequest => UpdatePrimaryRegionResponse, "UpdatePrimaryRegion", required: ["KeyId", "PrimaryRegion"], repeatable: false, has_output: false);
