//! Tags: keys and values that hang on a key.

use serde::{Deserialize, Serialize};

/// A key and its value, attached to a key of the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// 1 to 128 characters.
    pub tag_key: String,
    /// Up to 256 characters.
    pub tag_value: String,
}

open_shape! {
    /// Attaches tags, or gives them other values.
    TagResourceRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// At most 50 hang on one key.
            #[serde(deserialize_with = "crate::shapes::json::objects")]
            tags: Vec<Tag>,
        }
    }
}
nothing!(TagResourceResponse);
operation!(TagResourceRequest => TagResourceResponse, "TagResource", required: ["KeyId", "Tags"], repeatable: true, has_output: false);

open_shape! {
    /// Removes tags.
    UntagResourceRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
            /// The tags' keys; those that are not there are passed over.
            tag_keys: Vec<String>,
        }
    }
}
nothing!(UntagResourceResponse);
operation!(UntagResourceRequest => UntagResourceResponse, "UntagResource", required: ["KeyId", "TagKeys"], repeatable: true, has_output: false);

open_shape! {
    /// Asks for a key's tags.
    ListResourceTagsRequest {
        required {
            /// Key id or key ARN.
            key_id: String,
        }
        optional {
            /// The most to answer with, 1 to 50; absent: 50.
            limit: i32,
            /// Where the last answer ended.
            marker: String,
        }
    }
}

open_shape! {
    /// Tags, in the order of their keys.
    ListResourceTagsResponse {
        required {
            /// The tags.
            tags: Vec<Tag>,
            /// Whether there are more.
            truncated: bool,
        }
        optional {
            /// Where to go on.
            next_marker: String,
        }
    }
}

operation!(ListResourceTagsRequest => ListResourceTagsResponse, "ListResourceTags", required: ["KeyId"], repeatable: true);
