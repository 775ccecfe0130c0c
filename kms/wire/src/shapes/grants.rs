//! Grants: permissions given to one principal for one key.

use super::{GrantOperation, Timestamp};

open_shape! {
    /// What an encryption context must be for a grant to count.
    GrantConstraints {
        optional {
            /// The ARN of the resource on whose behalf a service asks.
            source_arn: String,
        }
        pairs {
            /// All of these pairs, perhaps with others.
            encryption_context_subset,
            /// Exactly these pairs.
            encryption_context_equals,
        }
    }
}

open_shape! {
    /// Grants operations.
    CreateGrantRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// What is granted.
            operations: Vec<GrantOperation>,
        }
        optional {
            /// To whom: the ARN of a user, a role, a session or an account.
            grantee_principal: String,
            /// Who may retire it.
            retiring_principal: String,
            /// To which service, instead of a principal.
            grantee_service_principal: String,
            /// Which service may retire it.
            retiring_service_principal: String,
            /// The same request with the same name makes no second grant.
            name: String,
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
        object {
            /// For which encryption contexts.
            constraints: GrantConstraints,
        }
        list {
            /// Tokens of grants that may not have spread yet, at most 10.
            grant_tokens: String,
        }
    }
}

open_shape! {
    /// The grant.
    CreateGrantResponse {
        optional {
            /// By which it counts at once.
            grant_token: String,
            /// By which it is known.
            grant_id: String,
        }
    }
}

operation!(CreateGrantRequest => CreateGrantResponse, "CreateGrant", required: ["KeyId", "Operations"], repeatable: false);

open_shape! {
    /// A grant in a list.
    GrantListEntry {
        optional {
            /// The key's ARN.
            key_id: String,
            /// By which it is known.
            grant_id: String,
            /// As it was named.
            name: String,
            /// When it was made.
            creation_date: Timestamp,
            /// To whom.
            grantee_principal: String,
            /// Who may retire it.
            retiring_principal: String,
            /// To which service.
            grantee_service_principal: String,
            /// Which service may retire it.
            retiring_service_principal: String,
            /// The account, or principal, that made it.
            issuing_account: String,
        }
        object {
            /// For which encryption contexts.
            constraints: GrantConstraints,
        }
        list {
            /// What is granted.
            operations: GrantOperation,
        }
    }
}

open_shape! {
    /// Asks for a key's grants.
    ListGrantsRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// The most to answer with, 1 to 100; absent: 50.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
            /// Only this one.
            grant_id: String,
            /// Only those to this principal.
            grantee_principal: String,
            /// Only those to this service.
            grantee_service_principal: String,
        }
    }
}

open_shape! {
    /// Grants, in the order of their ids.
    ListGrantsResponse {
        required {
            /// The grants.
            grants: Vec<GrantListEntry>,
            /// Whether there are more.
            truncated: bool,
        }
        optional {
            /// Where to go on.
            next_marker: String,
        }
    }
}

operation!(ListGrantsRequest => ListGrantsResponse, "ListGrants", required: ["KeyId"], repeatable: true);

open_shape! {
    /// Asks for the grants of the caller's account that a principal may retire.
    ListRetirableGrantsRequest {
        optional {
            /// The principal.
            retiring_principal: String,
            /// The service, instead of a principal.
            retiring_service_principal: String,
            /// The most to answer with, 1 to 100; absent: 50.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
        }
    }
}

operation!(ListRetirableGrantsRequest => ListGrantsResponse, "ListRetirableGrants", required: [], repeatable: true);

open_shape! {
    /// Ends a grant, as one for whom or by whom it was made. Named by its token, or by key and id.
    RetireGrantRequest {
        optional {
            /// The grant's token.
            grant_token: String,
            /// The key's ARN.
            key_id: String,
            /// The grant's id.
            grant_id: String,
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
    }
}
nothing!(RetireGrantResponse);
operation!(RetireGrantRequest => RetireGrantResponse, "RetireGrant", required: [], repeatable: false, has_output: false);

open_shape! {
    /// Ends a grant, as one who administers the key.
    RevokeGrantRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// The grant's id.
            grant_id: String,
        }
        optional {
            /// Only check whether it would be allowed.
            dry_run: bool,
        }
    }
}
nothing!(RevokeGrantResponse);
operation!(RevokeGrantRequest => RevokeGrantResponse, "RevokeGrant", required: ["KeyId", "GrantId"], repeatable: false, has_output: false);
