//! Custom key stores: tokens that hold keys' material in the service's place.
//!
//! Members of external key stores are read, so that they are not taken for misspelt ones; this service has
//! none of them.

use super::{ConnectionErrorCode, ConnectionState, CustomKeyStoreType, SecretText, Timestamp};
use serde::{Deserialize, Serialize};

shape! {
    /// Makes a custom key store of a cluster, which is a token here.
    #[derive(Debug, Default)]
    CreateCustomKeyStoreRequest {
        required {
            /// Its name, 1 to 256 characters, unique in account and Region.
            custom_key_store_name: String,
        }
        optional {
            /// The cluster: `cluster-` and 11 to 16 letters and digits.
            cloud_hsm_cluster_id: String,
            /// The certificate that the cluster's own chains to, PEM.
            trust_anchor_certificate: String,
            /// The password of the cluster's user, 7 to 32 characters.
            key_store_password: SecretText,
            /// What holds the keys; absent: `AWS_CLOUDHSM`.
            custom_key_store_type: CustomKeyStoreType,
            /// Of external key stores.
            xks_proxy_uri_endpoint: String,
            /// Of external key stores.
            xks_proxy_uri_path: String,
            /// Of external key stores.
            xks_proxy_vpc_endpoint_service_name: String,
            /// Of external key stores.
            xks_proxy_vpc_endpoint_service_owner: String,
            /// Of external key stores.
            xks_proxy_connectivity: String,
        }
        object {
            /// Of external key stores.
            xks_proxy_authentication_credential: XksProxyAuthenticationCredential,
        }
    }
}

/// What external key stores are signed to with.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct XksProxyAuthenticationCredential {
    /// Its name.
    pub access_key_id: String,
    /// Its secret.
    pub raw_secret_access_key: SecretText,
}

open_shape! {
    /// The custom key store that was made.
    CreateCustomKeyStoreResponse {
        optional {
            /// Its identifier.
            custom_key_store_id: String,
        }
    }
}

operation!(CreateCustomKeyStoreRequest => CreateCustomKeyStoreResponse, "CreateCustomKeyStore", required: ["CustomKeyStoreName"], repeatable: false);

open_shape! {
    /// Asks for the custom key stores of the caller's account and Region.
    DescribeCustomKeyStoresRequest {
        optional {
            /// Only this one.
            custom_key_store_id: String,
            /// Only the one of this name.
            custom_key_store_name: String,
            /// The most to answer with, 1 to 1,000.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
        }
    }
}

open_shape! {
    /// A custom key store.
    CustomKeyStoresListEntry {
        optional {
            /// Its identifier.
            custom_key_store_id: String,
            /// Its name.
            custom_key_store_name: String,
            /// Its cluster.
            cloud_hsm_cluster_id: String,
            /// The cluster's trust anchor.
            trust_anchor_certificate: String,
            /// Whether it can be used.
            connection_state: ConnectionState,
            /// In the state `FAILED`: why.
            connection_error_code: ConnectionErrorCode,
            /// When it was made.
            creation_date: Timestamp,
            /// What holds its keys.
            custom_key_store_type: CustomKeyStoreType,
        }
    }
}

open_shape! {
    /// Custom key stores, in the order of their identifiers.
    DescribeCustomKeyStoresResponse {
        required {
            /// The custom key stores.
            custom_key_stores: Vec<CustomKeyStoresListEntry>,
            /// Whether there are more.
            truncated: bool,
        }
        optional {
            /// Where to go on.
            next_marker: String,
        }
    }
}

operation!(DescribeCustomKeyStoresRequest => DescribeCustomKeyStoresResponse, "DescribeCustomKeyStores", required: [], repeatable: true);

open_shape! {
    /// Connects a custom key store to its cluster.
    ConnectCustomKeyStoreRequest {
        required {
            /// Its identifier.
            custom_key_store_id: String,
        }
    }
}

nothing!(ConnectCustomKeyStoreResponse);
operation!(ConnectCustomKeyStoreRequest => ConnectCustomKeyStoreResponse, "ConnectCustomKeyStore", required: ["CustomKeyStoreId"], repeatable: true);

open_shape! {
    /// Disconnects a custom key store from its cluster.
    DisconnectCustomKeyStoreRequest {
        required {
            /// Its identifier.
            custom_key_store_id: String,
        }
    }
}

nothing!(DisconnectCustomKeyStoreResponse);
operation!(DisconnectCustomKeyStoreRequest => DisconnectCustomKeyStoreResponse, "DisconnectCustomKeyStore", required: ["CustomKeyStoreId"], repeatable: false);

shape! {
    /// Gives a custom key store another name, password or cluster.
    #[derive(Debug, Default)]
    UpdateCustomKeyStoreRequest {
        required {
            /// Its identifier.
            custom_key_store_id: String,
        }
        optional {
            /// The name that it is to have.
            new_custom_key_store_name: String,
            /// The password that the cluster's user has now.
            key_store_password: SecretText,
            /// A cluster that shares its trust anchor with the present one.
            cloud_hsm_cluster_id: String,
            /// Of external key stores.
            xks_proxy_uri_endpoint: String,
            /// Of external key stores.
            xks_proxy_uri_path: String,
            /// Of external key stores.
            xks_proxy_vpc_endpoint_service_name: String,
            /// Of external key stores.
            xks_proxy_vpc_endpoint_service_owner: String,
            /// Of external key stores.
            xks_proxy_connectivity: String,
        }
        object {
            /// Of external key stores.
            xks_proxy_authentication_credential: XksProxyAuthenticationCredential,
        }
    }
}

nothing!(UpdateCustomKeyStoreResponse);
operation!(UpdateCustomKeyStoreRequest => UpdateCustomKeyStoreResponse, "UpdateCustomKeyStore", required: ["CustomKeyStoreId"], repeatable: true);

open_shape! {
    /// Removes a custom key store that holds no keys.
    DeleteCustomKeyStoreRequest {
        required {
            /// Its identifier.
            custom_key_store_id: String,
        }
    }
}

nothing!(DeleteCustomKeyStoreResponse);
operation!(DeleteCustomKeyStoreRequest => DeleteCustomKeyStoreResponse, "DeleteCustomKeyStore", required: ["CustomKeyStoreId"], repeatable: false);
