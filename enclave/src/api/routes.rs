//! Which requests there are, and what each needs of the manifest.
//!
//! A request that no line here names must not reach any code behind it.

use std::time::Duration;

use anchorhold_manifest::{Api as Granted, Grant};
use http::{Method, Uri};

use super::answers::ApiError;

/// What a request needs of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it says what is granted.
    Nothing,
    /// A word in `api.grant`.
    Grant(Grant),
    /// A name in `api.secrets`.
    Secret,
    /// A number in `api.extend_pcrs`.
    Pcr,
}

/// One kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Its method.
    pub method: &'static str,
    /// Its path, with names in braces as OpenAPI has them.
    pub path: &'static str,
    /// What it needs.
    pub needs: Needs,
    operation: Operation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Granted,
    Attest,
    Open,
    Seal,
    GenerateDataKey,
    DecryptDataKey,
    Random,
    Secret,
    ReadPcr,
    ExtendPcr,
    Time,
}

const fn route(
    method: &'static str,
    path: &'static str,
    needs: Needs,
    operation: Operation,
) -> Route {
    Route {
        method,
        path,
        needs,
        operation,
    }
}

/// All of them.
pub const ROUTES: &[Route] = &[
    route("GET", "/v1/granted", Needs::Nothing, Operation::Granted),
    route(
        "POST",
        "/v1/attestation",
        Needs::Grant(Grant::Attest),
        Operation::Attest,
    ),
    route(
        "POST",
        "/v1/open",
        Needs::Grant(Grant::Open),
        Operation::Open,
    ),
    route(
        "POST",
        "/v1/seal",
        Needs::Grant(Grant::Seal),
        Operation::Seal,
    ),
    route(
        "POST",
        "/v1/data-keys",
        Needs::Grant(Grant::DataKeys),
        Operation::GenerateDataKey,
    ),
    route(
        "POST",
        "/v1/data-keys/decrypt",
        Needs::Grant(Grant::DataKeys),
        Operation::DecryptDataKey,
    ),
    route(
        "GET",
        "/v1/random",
        Needs::Grant(Grant::Random),
        Operation::Random,
    ),
    route(
        "GET",
        "/v1/secrets/{name}",
        Needs::Secret,
        Operation::Secret,
    ),
    route(
        "GET",
        "/v1/pcrs/{index}",
        Needs::Grant(Grant::ReadPcrs),
        Operation::ReadPcr,
    ),
    route(
        "POST",
        "/v1/pcrs/{index}/extend",
        Needs::Pcr,
        Operation::ExtendPcr,
    ),
    route(
        "GET",
        "/v1/time",
        Needs::Grant(Grant::Time),
        Operation::Time,
    ),
];

/// A request that there is, with what its target says.
#[derive(Debug)]
pub(super) struct Target<'a> {
    needs: Needs,
    pub(super) operation: Operation,
    /// What stands in the braces' place.
    pub(super) name: &'a str,
    query: Option<&'a str>,
}

/// Finds the line that a request is.
pub(super) fn find<'a>(method: &Method, uri: &'a Uri) -> Result<Target<'a>, ApiError> {
    let mut path_known = false;
    for route in ROUTES {
        let Some(name) = matched(route.path, uri.path()) else {
            continue;
        };
        path_known = true;
        if route.method == method.as_str() {
            return Ok(Target {
                needs: route.needs,
                operation: route.operation,
                name,
                query: uri.query(),
            });
        }
    }
    Err(if path_known {
        ApiError::Method
    } else {
        ApiError::NotFound
    })
}

/// What stands in the braces' place, if a path fits: empty where there are none.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut name = "";
    let mut parts = path.split('/');
    for expected in pattern.split('/') {
        let part = parts.next()?;
        if expected.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            name = part;
        } else if part != expected {
            return None;
        }
    }
    parts.next().is_none().then_some(name)
}

impl Target<'_> {
    /// Whether the manifest grants it.
    pub(super) fn check(&self, granted: &Granted) -> Result<(), ApiError> {
        let (is_granted, what) = match self.needs {
            Needs::Nothing => return Ok(()),
            Needs::Grant(grant) => (granted.grant.contains(&grant), ("grant", grant.word())),
            // A name that is not granted is answered as one that does not exist.
            Needs::Secret => (granted.secrets.contains(self.name), ("secrets", "its name")),
            Needs::Pcr => (
                granted.extend_pcrs.contains(&self.pcr()?),
                ("extend_pcrs", "its number"),
            ),
        };
        if is_granted {
            Ok(())
        } else {
            Err(ApiError::NotGranted {
                list: what.0,
                word: what.1,
            })
        }
    }

    /// The PCR that the target names: the owner's own, 16 to 31.
    pub(super) fn pcr(&self) -> Result<u8, ApiError> {
        let plain = !self.name.starts_with(['0', '+']);
        self.name
            .parse()
            .ok()
            .filter(|index| plain && (16..=31).contains(index))
            .ok_or_else(|| ApiError::Request("there are the PCRs 16 to 31".to_owned()))
    }

    /// A number in the query; no other names than `known` may be there.
    pub(super) fn number(
        &self,
        name: &str,
        known: &[&str],
        default: u64,
        most: u64,
    ) -> Result<u64, ApiError> {
        let mut found = default;
        for pair in self.query.unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&key) {
                return Err(ApiError::Request(format!(
                    "the query may name {}",
                    known.join(", ")
                )));
            }
            if key == name {
                found = value
                    .parse()
                    .ok()
                    .filter(|number| *number <= most)
                    .ok_or_else(|| {
                        ApiError::Request(format!("{name} is no number from 0 to {most}"))
                    })?;
            }
        }
        Ok(found)
    }

    /// Whether it may wait for something to come about.
    pub(super) fn waits(&self) -> bool {
        self.operation == Operation::Secret
    }

    /// How long it may wait.
    pub(super) fn patience(&self) -> Result<Duration, ApiError> {
        let seconds = self.number("wait_seconds", &["after", "wait_seconds"], 0, 60)?;
        Ok(Duration::from_secs(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, target: &str) -> Result<(Operation, String), ApiError> {
        let method = method.parse().expect("a method");
        let uri: Uri = target.parse().expect("a target");
        find(&method, &uri).map(|target| (target.operation, target.name.to_owned()))
    }

    #[test]
    fn each_request_is_one_line_or_none() {
        let name = |name: &str| name.to_owned();
        assert_eq!(
            found("GET", "/v1/time").ok(),
            Some((Operation::Time, name("")))
        );
        assert_eq!(
            found("GET", "/v1/secrets/a-b").ok(),
            Some((Operation::Secret, name("a-b")))
        );
        assert_eq!(
            found("POST", "/v1/pcrs/17/extend").ok(),
            Some((Operation::ExtendPcr, name("17")))
        );
        for target in [
            "/",
            "/v1",
            "/v1/time/",
            "//v1/time",
            "/v1/secrets/",
            "/v1/secrets/a/b",
            "/v1/secrets",
            "/v1/pcrs/17/extend/",
            "/v1/%74ime",
            "/V1/time",
            "/v1/../v1/time",
        ] {
            assert!(
                matches!(found("GET", target), Err(ApiError::NotFound)),
                "{target}"
            );
        }
        assert!(matches!(found("DELETE", "/v1/time"), Err(ApiError::Method)));
    }

    #[test]
    fn what_is_not_named_is_not_granted_on_any_route() {
        let nothing = Granted::default();
        for route in ROUTES {
            let path = route.path.replace("{name}", "x").replace("{index}", "16");
            let uri: Uri = path.parse().expect("a path");
            let method = route.method.parse().expect("a method");
            let target = find(&method, &uri).expect("it is there");
            let granted = target.check(&nothing).is_ok();
            assert_eq!(granted, route.needs == Needs::Nothing, "{}", route.path);
        }
    }

    #[test]
    fn pcrs_of_others_have_no_name() {
        for name in [
            "0", "8", "15", "32", "016", "+16", "-16", "16 ", "0x10", "272", "x",
        ] {
            let target = Target {
                needs: Needs::Pcr,
                operation: Operation::ExtendPcr,
                name,
                query: None,
            };
            assert!(target.pcr().is_err(), "{name}");
        }
    }
}
