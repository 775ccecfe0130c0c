//! The endpoint that a container is told by its environment: of a task's role (ECS), or of a pod's (EKS).
//!
//! Credentials are handed out to whoever asks there, so that no other host than the ones that AWS names is asked, and none by a
//! name that somebody answers for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use hyper::Method;
use zeroize::Zeroizing;

use super::fetch::{FetchError, fetch};
use super::imds::place;
use super::{ContainerCredentials, Variables, read_whole};

/// Where relative URIs lead (ECS).
pub(super) const TASKS: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)), 80);

/// Where pods' identities are handed out (EKS).
const PODS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const TOKEN: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
const TOKEN_FILE: &str = "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE";

/// Why the endpoint of the environment cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContainerProblem {
    /// There is none.
    #[error(
        "neither AWS_CONTAINER_CREDENTIALS_RELATIVE_URI nor AWS_CONTAINER_CREDENTIALS_FULL_URI is set: choose another source"
    )]
    Unset,
    /// It is no URI that can be asked.
    #[error(
        "{0} is not a URI that can be asked: it must be a path, or http:// with an address and a path"
    )]
    Malformed(&'static str),
    /// It leads to a host that credentials are not asked of.
    #[error(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI leads neither to this host's loopback nor to 169.254.170.2, 169.254.170.23 or fd00:ec2::23"
    )]
    Host,
    /// TLS.
    #[error(
        "AWS_CONTAINER_CREDENTIALS_FULL_URI is https, which is not supported here: hand in a file that is kept fresh instead"
    )]
    Https,
}

pub(super) struct Container {
    address: SocketAddr,
    host: String,
    path: String,
    token: Option<Token>,
}

enum Token {
    Text(Zeroizing<String>),
    /// Read anew each time: whoever gave it replaces it.
    File(PathBuf),
}

impl Container {
    /// None where the environment has none.
    pub(super) fn from_variables(
        variables: &Variables,
        tasks: SocketAddr,
    ) -> Result<Option<Self>, ContainerProblem> {
        let text = |name| {
            variables(name)
                .filter(|value| !value.is_empty())
                .map(|value| value.into_string())
                .transpose()
                .map_err(|_| ContainerProblem::Malformed(name))
        };
        let (address, host, path, which) = if let Some(path) = text(RELATIVE)? {
            (tasks, tasks.ip().to_string(), path, RELATIVE)
        } else if let Some(uri) = text(FULL)? {
            if uri.starts_with("https://") {
                return Err(ContainerProblem::Https);
            }
            let rest = uri
                .strip_prefix("http://")
                .ok_or(ContainerProblem::Malformed(FULL))?;
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let by_address = match authority.strip_prefix("localhost") {
                Some(port) => format!("127.0.0.1{port}"),
                None => authority.to_owned(),
            };
            let address = place(&by_address).ok_or(ContainerProblem::Malformed(FULL))?;
            let ip = address.ip();
            if !(ip.is_loopback() || ip == TASKS.ip() || PODS.contains(&ip)) {
                return Err(ContainerProblem::Host);
            }
            let path = if path.is_empty() { "/" } else { path };
            (address, authority.to_owned(), path.to_owned(), FULL)
        } else {
            return Ok(None);
        };
        let is_path = path.starts_with('/')
            && path
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !is_path {
            return Err(ContainerProblem::Malformed(which));
        }
        let token = match (text(TOKEN_FILE)?, text(TOKEN)?) {
            (Some(file), _) => Some(Token::File(file.into())),
            (None, Some(token)) => Some(Token::Text(Zeroizing::new(token))),
            (None, None) => None,
        };
        Ok(Some(Self {
            address,
            host,
            path,
            token,
        }))
    }

    pub(super) async fn fetch(&self) -> Result<ContainerCredentials, FetchError> {
        let token = match &self.token {
            None => None,
            Some(Token::Text(token)) => Some(token.clone()),
            Some(Token::File(path)) => {
                let cannot = |problem: &dyn std::fmt::Display| {
                    FetchError::Token(format!("{} cannot be read: {problem}", path.display()))
                };
                let bytes = read_whole(path).map_err(|error| cannot(&error))?;
                let text = std::str::from_utf8(&bytes).map_err(|error| cannot(&error))?;
                Some(Zeroizing::new(text.trim_end().to_owned()))
            }
        };
        let headers: Vec<_> = token
            .iter()
            .map(|token| ("authorization", token.as_str()))
            .collect();
        let answer = fetch(self.address, &self.host, Method::GET, &self.path, &headers).await?;
        ContainerCredentials::read(&answer).ok_or(FetchError::Malformed)
    }
}
