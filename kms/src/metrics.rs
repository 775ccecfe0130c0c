//! What is counted: requests, refusals, times, connections. For Prometheus.
//!
//! Nothing here is sensitive: no key, account, address or name that a caller chose is a label, so that the
//! number of series is bounded too.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds, in seconds: from a Decrypt in memory to a request on a full disk.
const BUCKETS: [f64; 14] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0,
];

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];

/// Counted while serving, read at a scrape.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<Two, Counter>,
    seconds: Family<One, Histogram, fn() -> Histogram>,
    refusals: Family<One, Counter>,
    documents: Family<One, Counter>,
    reloads: Family<One, Counter>,
    taken: Family<One, Counter>,
    pub(crate) connections: Gauge,
    commits: Gauge,
    audit_bytes: Gauge,
    chains: Gauge,
    recalled: Gauge,
}

/// What is counted elsewhere, as of a scrape.
pub(crate) struct Readings {
    pub(crate) commits: u64,
    pub(crate) audit_bytes: u64,
    pub(crate) chains: u64,
    pub(crate) recalled: u64,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestOutcome {
    Answered,
    Refused,
    Failed,
}

impl RequestOutcome {
    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("anchorhold_kms");
        let requests = Family::default();
        registry.register(
            "requests",
            "Requests by operation and outcome",
            requests.clone(),
        );
        let seconds = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register(
            "request_seconds",
            "Time from a request's last byte to its answer",
            seconds.clone(),
        );
        let refusals = Family::default();
        registry.register(
            "refusals",
            "Requests not answered, by class of reason",
            refusals.clone(),
        );
        let documents = Family::default();
        registry.register(
            "attestation_documents",
            "Attestation documents by outcome of their verification",
            documents.clone(),
        );
        let reloads = Family::default();
        registry.register(
            "tls_reloads",
            "TLS certificates read anew, by outcome",
            reloads.clone(),
        );
        let taken = Family::default();
        registry.register(
            "connections_taken",
            "Connections by what became of them at the door",
            taken.clone(),
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge: Gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let connections = gauge("connections", "Connections that are open");
        let commits = gauge("store_commits", "Commits of the store since the start");
        let audit_bytes = gauge("audit_bytes", "Length of the audit log's file");
        let chains = gauge(
            "attestation_chains",
            "Certificate chains that are remembered",
        );
        let recalled = gauge(
            "attestation_chains_recalled",
            "Documents since the start whose chain was remembered",
        );
        Self {
            registry: Mutex::new(registry),
            requests,
            seconds,
            refusals,
            documents,
            reloads,
            taken,
            connections,
            commits,
            audit_bytes,
            chains,
            recalled,
        }
    }

    pub(crate) fn request(&self, operation: &str, outcome: RequestOutcome, took: Duration) {
        let operation = known(operation);
        self.requests
            .get_or_create(&[("operation", operation), ("outcome", outcome.name())])
            .inc();
        self.seconds
            .get_or_create(&[("operation", operation)])
            .observe(took.as_secs_f64());
    }

    /// `kind` is AWS's name of the error.
    pub(crate) fn refusal(&self, kind: &str, is_of_document: bool) {
        let reason = if is_of_document {
            "attestation"
        } else {
            class(kind)
        };
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn document(&self, is_good: bool) {
        let outcome = if is_good { "verified" } else { "refused" };
        self.documents.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub(crate) fn reload(&self, is_good: bool) {
        let outcome = if is_good { "taken" } else { "refused" };
        self.reloads.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// `what`: `accepted`, `displaced`, `handshake failed`.
    pub(crate) fn connection(&self, what: &'static str) {
        self.taken.get_or_create(&[("outcome", what)]).inc();
    }

    /// The text that Prometheus reads.
    pub(crate) fn text(&self, readings: &Readings) -> String {
        for (gauge, value) in [
            (&self.commits, readings.commits),
            (&self.audit_bytes, readings.audit_bytes),
            (&self.chains, readings.chains),
            (&self.recalled, readings.recalled),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }
}

fn class(kind: &str) -> &'static str {
    match kind {
        "AccessDeniedException" | "NotAuthorizedException" => "policy",
        "ThrottlingException" => "quota",
        "InvalidSignatureException"
        | "IncompleteSignatureException"
        | "MissingAuthenticationTokenException"
        | "MissingAuthenticationToken"
        | "UnrecognizedClientException"
        | "IncompleteSignature"
        | "SignatureDoesNotMatch"
        | "RequestExpired"
        | "ExpiredTokenException" => "signature",
        "NotFoundException" => "not found",
        "InvalidCiphertextException"
        | "IncorrectKeyException"
        | "KMSInvalidSignatureException"
        | "KMSInvalidMacException" => "cryptography",
        "DisabledException" | "KMSInvalidStateException" | "KeyUnavailableException" => "state",
        "KMSInternalException" => "internal",
        "UnsupportedOperationException" | "UnknownOperationException" => "unsupported",
        "DryRunOperationException" => "dry run",
        "LimitExceededException" | "RequestEntityTooLargeException" | "RequestTimeoutException" => {
            "limit"
        }
        _ => "request",
    }
}

/// AWS's operations; whatever else a caller asks for counts as one.
pub(crate) fn known(operation: &str) -> &'static str {
    const OPERATIONS: [&str; 55] = [
        "CancelKeyDeletion",
        "ConnectCustomKeyStore",
        "CreateAlias",
        "CreateCustomKeyStore",
        "CreateGrant",
        "CreateKey",
        "Decrypt",
        "DeleteAlias",
        "DeleteCustomKeyStore",
        "DeleteImportedKeyMaterial",
        "DeriveSharedSecret",
        "DescribeCustomKeyStores",
        "DescribeKey",
        "DisableKey",
        "DisableKeyRotation",
        "DisconnectCustomKeyStore",
        "EnableKey",
        "EnableKeyRotation",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateMac",
        "GenerateRandom",
        "GetCallerIdentity",
        "GetKeyLastUsage",
        "GetKeyPolicy",
        "GetKeyRotationStatus",
        "GetParametersForImport",
        "GetPublicKey",
        "ImportKeyMaterial",
        "ListAliases",
        "ListGrants",
        "ListKeyPolicies",
        "ListKeyRotations",
        "ListKeys",
        "ListResourceTags",
        "ListRetirableGrants",
        "PutKeyPolicy",
        "ReEncrypt",
        "ReplicateKey",
        "RetireGrant",
        "RevokeGrant",
        "RotateKeyOnDemand",
        "ScheduleKeyDeletion",
        "Sign",
        "TagResource",
        "UntagResource",
        "UpdateAlias",
        "UpdateCustomKeyStore",
        "UpdateKeyDescription",
        "UpdatePrimaryRegion",
        "Verify",
        "VerifyMac",
    ];
    OPERATIONS
        .binary_search(&operation)
        .map_or("Unknown", |at| OPERATIONS[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_shows_what_was_counted_and_no_name_of_a_callers_choice() {
        let metrics = Metrics::new();
        let took = Duration::from_micros(300);
        metrics.request("Decrypt", RequestOutcome::Answered, took);
        metrics.request("evil\"name", RequestOutcome::Refused, took);
        metrics.refusal("AccessDeniedException", false);
        metrics.refusal("ValidationException", true);
        metrics.document(true);
        let text = metrics.text(&Readings {
            commits: 3,
            audit_bytes: 4,
            chains: 5,
            recalled: 6,
        });
        for line in [
            "anchorhold_kms_requests_total{operation=\"Decrypt\",outcome=\"answered\"} 1",
            "anchorhold_kms_requests_total{operation=\"Unknown\",outcome=\"refused\"} 1",
            "anchorhold_kms_refusals_total{reason=\"policy\"} 1",
            "anchorhold_kms_refusals_total{reason=\"attestation\"} 1",
            "anchorhold_kms_attestation_documents_total{outcome=\"verified\"} 1",
            "anchorhold_kms_request_seconds_bucket{le=\"0.0005\",operation=\"Decrypt\"} 1",
            "anchorhold_kms_store_commits 3",
            "anchorhold_kms_attestation_chains_recalled 6",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("evil"));
    }

    #[test]
    fn every_operation_is_found_by_its_name() {
        for name in [
            "CancelKeyDeletion",
            "Decrypt",
            "GetKeyRotationStatus",
            "VerifyMac",
        ] {
            assert_eq!(known(name), name);
        }
        assert_eq!(known("decrypt"), "Unknown");
    }
}
