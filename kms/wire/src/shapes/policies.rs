//! Key policies.

open_shape! {
    /// Asks for a key's policy.
    GetKeyPolicyRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// The only valid name is `default`.
            policy_name: String,
        }
    }
}

open_shape! {
    /// A key's policy.
    GetKeyPolicyResponse {
        required {
            /// The policy, JSON.
            policy: String,
        }
        optional {
            /// Its name: `default`.
            policy_name: String,
        }
    }
}

operation!(GetKeyPolicyRequest => GetKeyPolicyResponse, "GetKeyPolicy", required: ["KeyId"], repeatable: true);

open_shape! {
    /// Replaces a key's policy.
    PutKeyPolicyRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// The policy, JSON.
            policy: String,
        }
        optional {
            /// The only valid name is `default`.
            policy_name: String,
            /// Accept a policy which would keep the caller from changing it.
            bypass_policy_lockout_safety_check: bool,
        }
    }
}
nothing!(PutKeyPolicyResponse);
operation!(PutKeyPolicyRequest => PutKeyPolicyResponse, "PutKeyPolicy", required: ["KeyId", "Policy"], repeatable: true, has_output: false);

open_shape! {
    /// Asks for the names of a key's policies.
    ListKeyPoliciesRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// The most to answer with, 1 to 1,000; there is never more than one.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
        }
    }
}

open_shape! {
    /// Names of policies.
    ListKeyPoliciesResponse {
        required {
            /// Always `default`.
            policy_names: Vec<String>,
            /// Whether there are more.
            truncated: bool,
        }
        optional {
            /// Where to go on.
            next_marker: String,
        }
    }
}

operation!(ListKeyPoliciesRequest => ListKeyPoliciesResponse, "ListKeyPolicies", required: ["KeyId"], repeatable: true);
