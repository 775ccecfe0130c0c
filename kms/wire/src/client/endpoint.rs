//! Where the service is, and whom to trust for it.

use http::Uri;
use http::uri::Scheme;

/// A key service to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://host[:port][/path]`; `http://` with [`TlsTrust::PlainHttp`] alone.
    pub url: String,
    /// The Region to sign for, such as `us-east-1`.
    pub region: String,
    /// Whose certificates count.
    pub tls: TlsTrust,
}

/// Whose certificates count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsTrust {
    /// Mozilla's roots.
    Roots,
    /// The certificates in this PEM text, and no other.
    Ca(String),
    /// No TLS: for `http://` URLs, on the owner's side. Whoever carries the bytes reads them.
    PlainHttp,
}

impl Endpoint {
    /// From the environment: `url`, else `AWS_ENDPOINT_URL_KMS`, else `AWS_ENDPOINT_URL`, else
    /// AWS's own endpoint of the Region; `AWS_REGION`, else `AWS_DEFAULT_REGION`; `AWS_CA_BUNDLE`.
    ///
    /// # Errors
    /// [`EndpointError::NoRegion`], [`EndpointError::CaFile`].
    pub fn from_env(url: Option<&str>) -> Result<Self, EndpointError> {
        Self::from_variables(url, |name| std::env::var(name).ok())
    }

    /// As [`Endpoint::from_env`], with the variables looked up by `variable`.
    ///
    /// # Errors
    /// As there.
    pub fn from_variables(
        url: Option<&str>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, EndpointError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let region = variable("AWS_REGION")
            .or_else(|| variable("AWS_DEFAULT_REGION"))
            .ok_or(EndpointError::NoRegion)?;
        let url = url
            .map(str::to_owned)
            .or_else(|| variable("AWS_ENDPOINT_URL_KMS"))
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .unwrap_or_else(|| format!("https://kms.{region}.amazonaws.com"));
        let tls = if url
            .get(..7)
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
        {
            TlsTrust::PlainHttp
        } else if let Some(path) = variable("AWS_CA_BUNDLE") {
            let pem = std::fs::read_to_string(&path)
                .map_err(|source| EndpointError::CaFile { path, source })?;
            TlsTrust::Ca(pem)
        } else {
            TlsTrust::Roots
        };
        Ok(Self { url, region, tls })
    }
}

/// An URL taken apart.
pub(super) struct Target {
    /// As in the `Host` header: without the scheme's own port.
    pub(super) authority: String,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) is_https: bool,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, EndpointError> {
        let bad = |reason| EndpointError::Url {
            url: url.to_owned(),
            reason,
        };
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        let is_https = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(bad("it must begin with https:// (or http://)")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            // Not echoed: what stands before the @ may be a password.
            return Err(EndpointError::Url {
                url: format!("…@{}", authority.host()),
                reason: "credentials don't belong into it; use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            });
        }
        if uri.query().is_some() {
            return Err(bad("it must have no query"));
        }
        if authority.host().is_empty() {
            return Err(bad("it names no host"));
        }
        let default_port = if is_https { 443 } else { 80 };
        // What http cannot read as a port it does not report at all.
        let port = match (
            authority.port_u16(),
            authority.as_str().strip_prefix(authority.host()),
        ) {
            (Some(port), _) if port != 0 => port,
            (None, Some("")) => default_port,
            _ => return Err(bad("its port is none")),
        };
        let name = authority.host().to_ascii_lowercase();
        let host = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .unwrap_or(&name)
            .to_owned();
        let authority = if port == default_port {
            name
        } else {
            format!("{name}:{port}")
        };
        Ok(Self {
            authority,
            host,
            port,
            path: uri.path().to_owned(),
            is_https,
        })
    }
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The URL.
    #[error("the key service's URL {url:?} cannot be used: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `https://` with [`TlsTrust::PlainHttp`].
    #[error(
        "{url:?} is to be called without TLS, but begins with https://; write http://, or trust a CA"
    )]
    PlainHttps {
        /// The URL.
        url: String,
    },
    /// `http://` without [`TlsTrust::PlainHttp`].
    #[error("{url:?} begins with http://, but TLS is required here; write https://")]
    TlsOverHttp {
        /// The URL.
        url: String,
    },
    /// The Region.
    #[error(
        "the Region {region:?} cannot be used; Regions are lower-case letters, digits and dashes, such as us-east-1"
    )]
    Region {
        /// The Region.
        region: String,
    },
    /// No Region.
    #[error("no Region: set AWS_REGION, for example to us-east-1")]
    NoRegion,
    /// The CA's file.
    #[error("the CA bundle {path:?} (AWS_CA_BUNDLE) cannot be read: {source}")]
    CaFile {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The CA's PEM.
    #[error(
        "the key service's CA cannot be used: {reason}; it must be PEM with one or more CERTIFICATE blocks"
    )]
    Ca {
        /// What is wrong with it.
        reason: String,
    },
}
