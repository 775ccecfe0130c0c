//! Aliases: other names of keys.

use super::Timestamp;

open_shape! {
    /// Gives a key another name.
    CreateAliasRequest {
        required {
            /// `alias/` and up to 250 of letters, digits, `/`, `_` and `-`.
            alias_name: String,
            /// Key id or key ARN.
            target_key_id: String,
        }
    }
}
nothing!(CreateAliasResponse);
operation!(CreateAliasRequest => CreateAliasResponse, "CreateAlias", required: ["AliasName", "TargetKeyId"], repeatable: false, has_output: false);

open_shape! {
    /// Makes an alias name another key of the same kind and usage.
    UpdateAliasRequest {
        required {
            /// `alias/…`, which must be there.
            alias_name: String,
            /// Key id or key ARN.
            target_key_id: String,
        }
    }
}
nothing!(UpdateAliasResponse);
operation!(UpdateAliasRequest => UpdateAliasResponse, "UpdateAlias", required: ["AliasName", "TargetKeyId"], repeatable: true, has_output: false);

open_shape! {
    /// Takes a name away; the key stays.
    DeleteAliasRequest {
        required {
            /// `alias/…`
            alias_name: String,
        }
    }
}
nothing!(DeleteAliasResponse);
operation!(DeleteAliasRequest => DeleteAliasResponse, "DeleteAlias", required: ["AliasName"], repeatable: false, has_output: false);

open_shape! {
    /// Asks for the aliases of the caller's account and Region, or of one key.
    ListAliasesRequest {
        optional {
            /// Key id or key ARN.
            key_id: String,
            /// The most to answer with, 1 to 100; absent: 50.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
        }
    }
}

open_shape! {
    /// An alias in a list.
    AliasListEntry {
        optional {
            /// `alias/…`
            alias_name: String,
            /// Its ARN.
            alias_arn: String,
            /// The id of the key that it names.
            target_key_id: String,
            /// When it was made.
            creation_date: Timestamp,
            /// When it was last made to name a key.
            last_updated_date: Timestamp,
        }
    }
}

open_shape! {
    /// Aliases, in the order of their names.
    ListAliasesResponse {
        required {
            /// The aliases.
            aliases: Vec<AliasListEntry>,
            /// Whether there are more.
            truncated: bool,
        }
        optional {
            /// Where to go on.
            next_marker: String,
        }
    }
}

operation!(ListAliasesRequest => ListAliasesResponse, "ListAliases", required: [], repeatable: true);
