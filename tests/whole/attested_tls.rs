//! Attested TLS, whole: `anchorhold connect` and the Rust library lead into a real enclave's job, and into nothing else.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::task::{Context, Poll};

use anchorhold_client::{Anchor, Connector, Expectations, Protocol};
use anchorhold_images::Image;
use anchorhold_manifest::TLS_PORT;
use anchorhold_parent::sandbox;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::{Body, Frame};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::{TcpListener, UnixStream};

use crate::common::{House, Running, Who};

const MANIFEST: &str = "[job]\ncommand = [\"/job\"]\ncontract = \"http\"\n";

fn enclave(house: &House) -> (PathBuf, Running<'_>) {
    let image = house.image("tests/whole/odd-job", MANIFEST, "odd-service.eif");
    let enclave = house.enclave(&image, "odd-service", &[]);
    house.console_says(enclave.name, 0, "the job is ready");
    (image, enclave)
}

/// The command on standard streams, with a request for the job.
fn connect(house: &House, more: &[&str], request: &str) -> Output {
    let mut arguments = vec!["connect", "odd-service"];
    arguments.extend(more);
    let mut child = house
        .command(Who::Owner, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("anchorhold runs");
    // Whoever refuses to connect does not read it.
    let _ = child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(request.as_bytes());
    child.wait_with_output().expect("anchorhold ends")
}

#[test]
fn connect_leads_to_the_job_of_the_expected_image_and_says_nothing_to_any_other() {
    let house = House::new();
    let (image, _enclave) = enclave(&house);
    let image = image.to_str().expect("text");
    let root = house.path("development-root/root.pem");
    let root = root.to_str().expect("text");
    let request =
        "POST /echo HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: 9\r\n\r\nsaid once";

    let output = connect(&house, &["--image", image, "--anchor", root], request);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    assert!(said.ends_with("\r\n\r\nsaid once"), "{said}");

    let other = "ab".repeat(48);
    for (more, reason) in [
        (&["--image", image][..], "--anchor"),
        (&["--pcr0", &other, "--anchor", root], "PCR0"),
    ] {
        let output = connect(&house, more, request);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(reason) && said.contains("nothing was sent"),
            "{said}"
        );
        assert!(output.stdout.is_empty());
    }
    // Nobody is admitted by who expects nothing.
    house.must_fail(Who::Owner, ["connect", "odd-service", "--anchor", root]);
    let health = crate::http::health(&house);
    assert_eq!(health["http"]["requests"], 1, "{health}");
}

/// A client that wants this image, under the house's root.
fn connector(house: &House, image: &Path) -> Connector {
    let root = std::fs::read_to_string(house.path("development-root/root.pem")).expect("a root");
    let measured = *Image::open(image).expect("an image").measurements();
    Connector::new(
        [Anchor::from_pem(&root).expect("an anchor")],
        Expectations::new()
            .pcr(0, [measured.pcr0])
            .pcr(2, [measured.pcr2]),
    )
}

/// What an ingress does: a port of the host's leads to the enclave's.
async fn ingress(folder: PathBuf) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let inside = sandbox::connect(&folder, TLS_PORT).expect("the enclave's port");
            inside.set_nonblocking(true).expect("non-blocking");
            let mut inside = UnixStream::from_std(inside).expect("a socket");
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut inside).await;
            });
        }
    });
    address
}

/// A body whose pieces come when the test sends them.
struct Pieces(tokio::sync::mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[test]
fn bodies_stream_both_ways_at_once_and_who_goes_away_takes_the_request_along() {
    let house = House::new();
    let (image, enclave) = enclave(&house);
    let folder = house.path("enclaves").join(enclave.name);
    let connector = connector(&house, &image);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let address = ingress(folder).await;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let client = Client::builder(TokioExecutor::new())
                .build::<_, Pieces>(connector.clone().protocol(protocol).over_tcp());
            let ask = |path: &str| {
                let (pieces, body) = tokio::sync::mpsc::channel(1);
                let request = Request::post(format!("https://{address}{path}"))
                    .body(Pieces(body))
                    .expect("a request");
                (pieces, client.request(request))
            };
            // Each piece comes back before the next one is sent: nobody on the way waits for all of it.
            let (pieces, answer) = ask("/talk");
            pieces.send("first".into()).await.expect("it is taken");
            let mut answer = answer.await.expect("an answer").into_body();
            for (sent, next) in [
                ("first", Some("second")),
                ("second", Some("third")),
                ("third", None),
            ] {
                let mut said = Vec::new();
                while said.len() < sent.len() {
                    let frame = answer.frame().await.expect("more").expect("a frame");
                    said.extend_from_slice(frame.data_ref().expect("data"));
                }
                assert_eq!(said, sent.as_bytes());
                if let Some(next) = next {
                    pieces.send(next.into()).await.expect("it is taken");
                }
            }
            drop(pieces);
            while let Some(frame) = answer.frame().await {
                let frame = frame.expect("a whole answer");
                assert!(frame.data_ref().is_none_or(Bytes::is_empty));
            }

            let count = async || {
                let (_, answer) = ask("/dripping");
                let body = answer.await.expect("an answer").into_body();
                body.collect().await.expect("a body").to_bytes()
            };
            let (_, endless) = ask("/drip");
            let mut endless = endless.await.expect("an answer").into_body();
            endless.frame().await.expect("more").expect("a frame");
            assert_eq!(count().await, "1");
            drop(endless);
            while count().await != "0" {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
    });
    drop(runtime);
}

#[test]
fn requests_go_through_the_library_in_both_protocols_and_large_bodies_come_back() {
    let house = House::new();
    let (image, enclave) = enclave(&house);
    let folder = house.path("enclaves").join(enclave.name);
    let connector = connector(&house, &image);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let address = ingress(folder).await;
        let body = Bytes::from(vec![7; 8 << 20]);
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let client = Client::builder(TokioExecutor::new())
                .build::<_, Full<Bytes>>(connector.clone().protocol(protocol).over_tcp());
            for _ in 0..2 {
                let request = Request::post(format!("https://{address}/echo"))
                    .body(Full::new(body.clone()))
                    .expect("a request");
                let response = client.request(request).await.expect("an answer");
                assert_eq!(response.status(), 200);
                let back = response.into_body().collect().await.expect("a body");
                assert!(back.to_bytes() == body);
            }
            // What a client says of itself as a proxy would, the job does not hear.
            let request = Request::get(format!("https://{address}/head"))
                .header("x-forwarded-for", "10.0.0.1")
                .header("x-kept", "yes")
                .body(Full::default())
                .expect("a request");
            let response = client.request(request).await.expect("an answer");
            let head = response
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes();
            let head = String::from_utf8_lossy(&head).into_owned();
            assert!(
                head.contains("x-kept: yes") && !head.contains("10.0.0.1"),
                "{head}"
            );
        }
    });
    drop(runtime);
}
