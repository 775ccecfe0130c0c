//! The role of the EC2 instance, by its metadata service (IMDSv2): a token by `PUT`, with which alone anything is asked.
//!
//! Version 1, which answers anybody's `GET`, is never used: not where version 2 fails either. No `X-Forwarded-For`, no
//! redirect, no proxy. The answer to the `PUT` travels one hop unless the instance allows more, and nothing here can change that.

use std::net::{IpAddr, SocketAddr};

use hyper::Method;
use zeroize::Zeroizing;

use super::fetch::{FetchError, fetch};
use super::{ContainerCredentials, Variables};

const FOUR: &str = "169.254.169.254";
const SIX: &str = "[fd00:ec2::254]";

/// The longest that a token may be asked for. It is used at once and forgotten.
const TOKEN_SECONDS: &str = "60";
const TOKEN_PATH: &str = "/latest/api/token";
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

pub(super) struct Imds {
    address: SocketAddr,
    host: String,
}

/// `host` or `host:port`, of an address and not of a name.
pub(super) fn place(authority: &str) -> Option<SocketAddr> {
    let bracketed = |text: &str| -> Option<IpAddr> {
        match text.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
            None => text.parse().ok().map(IpAddr::V4),
        }
    };
    if let Some(ip) = bracketed(authority) {
        return Some(SocketAddr::new(ip, 80));
    }
    let (host, port) = authority.rsplit_once(':')?;
    Some(SocketAddr::new(bracketed(host)?, port.parse().ok()?))
}

impl Imds {
    /// None where it is switched off.
    pub(super) fn from_variables(variables: &Variables) -> Option<Self> {
        let text = |name| variables(name).and_then(|value| value.into_string().ok());
        let is =
            |name, word: &str| text(name).is_some_and(|value| value.eq_ignore_ascii_case(word));
        if is("AWS_EC2_METADATA_DISABLED", "true") {
            return None;
        }
        let host = match text("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
            Some(endpoint) if !endpoint.is_empty() => {
                let authority = endpoint.strip_prefix("http://")?;
                authority.strip_suffix('/').unwrap_or(authority).to_owned()
            }
            _ if is("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "ipv6") => SIX.to_owned(),
            _ => FOUR.to_owned(),
        };
        let address = place(&host)?;
        Some(Self { address, host })
    }

    pub(super) async fn fetch(&self) -> Result<ContainerCredentials, FetchError> {
        let token = fetch(
            self.address,
            &self.host,
            Method::PUT,
            TOKEN_PATH,
            &[("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS)],
        )
        .await?;
        let token = Zeroizing::new(
            std::str::from_utf8(&token)
                .map_err(|_| FetchError::Malformed)?
                .trim()
                .to_owned(),
        );
        if token.is_empty() {
            return Err(FetchError::Malformed);
        }
        let get = async |path: &str| {
            let headers = [("x-aws-ec2-metadata-token", token.as_str())];
            fetch(self.address, &self.host, Method::GET, path, &headers).await
        };
        let roles = get(ROLE_PATH).await?;
        let role = std::str::from_utf8(&roles)
            .ok()
            .and_then(|roles| roles.lines().next())
            .map(str::trim)
            .filter(|role| is_role(role))
            .ok_or(FetchError::Malformed)?;
        let answer = get(&format!("{ROLE_PATH}{role}")).await?;
        ContainerCredentials::read(&answer)
            .filter(|found| found.expiration.is_some())
            .ok_or(FetchError::Malformed)
    }
}

/// Names of roles, as IAM has them: what else stands there is no part of a path.
fn is_role(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte))
        && !matches!(name, "." | "..")
}
