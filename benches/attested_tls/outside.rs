//! What the benchmark compares with: a reverse proxy of rustls and hyper, as one would write it, in a process of its own; and
//! a client that takes any certificate.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::server::conn;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

/// The variable that makes this program the proxy: `ADDRESS SOCKET`.
pub(crate) const PLAN: &str = "ANCHORHOLD_BENCH_OUTSIDE";

/// Serves until it is killed.
pub(crate) fn serve(plan: &OsStr) {
    let plan = plan.to_str().expect("UTF-8");
    let (address, socket) = plan.split_once(' ').expect("two words");
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let papers = rcgen::CertificateParams::new(vec!["echo.example".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("a certificate");
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![papers.der().clone()], private)
        .expect("papers");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let idle = Arc::new(Idle::default());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.expect("the address");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.set_nodelay(true);
            let (acceptor, idle, socket) = (acceptor.clone(), Arc::clone(&idle), socket.to_owned());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                let (idle, socket) = (&idle, &socket);
                let service = service_fn(move |request| {
                    let (idle, socket) = (Arc::clone(idle), socket.clone());
                    async move { passed_on(request, &idle, &socket).await }
                });
                let stream = TokioIo::new(stream);
                let _ = if two {
                    conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(stream, service)
                        .await
                } else {
                    conn::http1::Builder::new()
                        .serve_connection(stream, service)
                        .await
                };
            });
        }
    });
}

/// Connections to the job that wait for their next request.
type Idle = Mutex<Vec<SendRequest<BoxBody<bytes::Bytes, hyper::Error>>>>;

async fn passed_on(
    request: Request<Incoming>,
    idle: &Arc<Idle>,
    socket: &str,
) -> Result<Response<BoxBody<bytes::Bytes, hyper::Error>>, Infallible> {
    let (mut parts, body) = request.into_parts();
    parts.uri = parts
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .parse()
        .expect("a path");
    parts.version = http::Version::HTTP_11;
    let request = Request::from_parts(parts, body.boxed());
    let kept = idle.lock().expect("no panic").pop();
    let mut usable = None;
    if let Some(mut sender) = kept
        && sender.ready().await.is_ok()
    {
        usable = Some(sender);
    }
    let mut sender = match usable {
        Some(sender) => sender,
        None => {
            let stream = UnixStream::connect(socket).await.expect("the job");
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            sender
        }
    };
    let Ok(answer) = sender.send_request(request).await else {
        let mut failed = Response::new(
            Full::default()
                .map_err(|never: Infallible| match never {})
                .boxed(),
        );
        *failed.status_mut() = http::StatusCode::BAD_GATEWAY;
        return Ok(failed);
    };
    idle.lock().expect("no panic").push(sender);
    Ok(answer.map(|body| body.boxed()))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A client's configuration with this protocol and no resumption.
pub(crate) fn client(protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // As much work as a channel's client does.
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
