//! The condition keys that this service knows, and how many values each may have.
//!
//! A key that is not listed is refused when a policy is read: misspelt, it would be missing in
//! every request, and a Deny with it would be off without a word.

/// How many values a condition key has in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyShape {
    One,
    Many,
}

impl KeyShape {
    /// The keys of AWS's service that this one knows, and the global ones. Keys of other services
    /// are refused: they would be missing in every request, so that a Deny with them would
    /// be off without a word.
    pub(super) fn of(key: &str) -> Option<Self> {
        let key = key.to_ascii_lowercase();
        let (prefix, name) = key.split_once(':')?;
        let one = match prefix {
            "kms" => match name {
                "encryptioncontextkeys" | "resourcealiases" | "grantoperations" => {
                    return Some(Self::Many);
                }
                "bypasspolicylockoutsafetycheck"
                | "calleraccount"
                | "customermasterkeyspec"
                | "customermasterkeyusage"
                | "datakeypairspec"
                | "encryptionalgorithm"
                | "expirationmodel"
                | "grantconstrainttype"
                | "granteeprincipal"
                | "grantisforawsresource"
                | "keyagreementalgorithm"
                | "keyorigin"
                | "keyspec"
                | "keyusage"
                | "macalgorithm"
                | "messagetype"
                | "multiregion"
                | "multiregionkeytype"
                | "primaryregion"
                | "reencryptonsamekey"
                | "replicaregion"
                | "requestalias"
                | "retiringprincipal"
                | "rotationperiodindays"
                | "schedulekeydeletionpendingwindowindays"
                | "signingalgorithm"
                | "validto"
                | "viaservice"
                | "wrappingalgorithm"
                | "wrappingkeyspec" => true,
                _ => match name.split_once(':') {
                    Some(("encryptioncontext", context_key)) => !context_key.is_empty(),
                    Some(("recipientattestation", measurement)) => {
                        measurement == "imagesha384"
                            || measurement
                                .strip_prefix("pcr")
                                .is_some_and(|n| (0..32).any(|i: u8| i.to_string() == n))
                    }
                    _ => false,
                },
            },
            "aws" => match name {
                "tagkeys"
                | "calledvia"
                | "principalorgpaths"
                | "principalservicenameslist"
                | "resourceorgpaths"
                | "sourceorgpaths" => return Some(Self::Many),
                "calledviafirst"
                | "calledvialast"
                | "currenttime"
                | "epochtime"
                | "federatedprovider"
                | "multifactorauthage"
                | "multifactorauthpresent"
                | "principalaccount"
                | "principalarn"
                | "principalisawsservice"
                | "principalorgid"
                | "principalservicename"
                | "principaltype"
                | "referer"
                | "requestedregion"
                | "resourceaccount"
                | "resourceorgid"
                | "securetransport"
                | "sourceaccount"
                | "sourcearn"
                | "sourceidentity"
                | "sourceip"
                | "sourceorgid"
                | "sourcevpc"
                | "sourcevpcarn"
                | "sourcevpce"
                | "tokenissuetime"
                | "useragent"
                | "userid"
                | "username"
                | "viaawsservice"
                | "vpcsourceip"
                | "ec2instancesourcevpc"
                | "ec2instancesourceprivateipv4" => true,
                _ => match name.split_once('/') {
                    Some(("principaltag" | "requesttag" | "resourcetag", tag)) => !tag.is_empty(),
                    _ => false,
                },
            },
            // Ours: the fingerprint of the root that an attestation document chains to.
            "anchorhold" => name == "anchor",
            _ => false,
        };
        one.then_some(Self::One)
    }
}
