//! Bodies of hundreds of megabytes through attested TLS, both ways and in both protocols: the enclave's memory does not grow
//! with them.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use anchorhold_client::Protocol;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body, Frame};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::common::{House, Who};
use crate::stage::{connector, enclave, honest, image, pcr0};

const LARGE: usize = 256 << 20;
const PIECE: &[u8] = &[b'x'; 64 << 10];
/// What all processes of the enclave may take more than before, together: their buffers.
const MOST_KIB: u64 = 48 << 10;

/// A body of that many bytes, made as it goes.
struct Long(usize);

impl Body for Long {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        let count = self.0.min(PIECE.len());
        self.0 -= count;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE[..count])))))
    }
}

/// The most memory that each process below this one ever had, in KiB, all together.
fn peak_below(pid: u64) -> u64 {
    let children = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .collect::<Vec<_>>()
        .concat();
    children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .map(|child: u64| {
            let status =
                std::fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
            let own: u64 = status
                .lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))
                .and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
                .unwrap_or(0);
            own + peak_below(child)
        })
        .sum()
}

fn supervisor(house: &House, name: &str) -> u64 {
    let states = house.must(Who::Host, ["ps", "--json"]);
    let states: Value = serde_json::from_slice(&states).expect("JSON");
    let state = states
        .as_array()
        .expect("a list")
        .iter()
        .find(|state| state["name"] == name)
        .expect("it runs");
    state["supervisor"]["pid"].as_u64().expect("a process")
}

#[test]
fn bodies_of_hundreds_of_megabytes_pass_and_the_enclave_s_memory_stays_flat() {
    let house = House::new();
    let image = image(&house, "large");
    let _enclave = enclave(&house, &image, "large");
    let folder: PathBuf = house.path("enclaves").join("large");
    let address = format!("https://127.0.0.1:{}", honest(folder));
    let connector = connector(&house, pcr0(&house, &image));
    let supervisor = supervisor(&house, "large");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut before = None;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = Client::builder(TokioExecutor::new())
            .build::<_, Long>(connector.clone().protocol(protocol).over_tcp());
        // Small ones first, so that all that is needed for one at all is there.
        for length in [1 << 20, LARGE] {
            runtime.block_on(async {
                let request = Request::post(format!("{address}/count"))
                    .body(Long(length))
                    .expect("a request");
                let answer = client.request(request).await.expect("an answer");
                let counted = answer.into_body().collect().await.expect("a body");
                assert_eq!(counted.to_bytes(), length.to_string());
                let request = Request::get(format!("{address}/flood/{length}"))
                    .body(Long(0))
                    .expect("a request");
                let mut answer = client
                    .request(request)
                    .await
                    .expect("an answer")
                    .into_body();
                let mut count = 0;
                while let Some(frame) = answer.frame().await {
                    count += frame.expect("a frame").data_ref().map_or(0, Bytes::len);
                }
                assert_eq!(count, length);
            });
            let peak = peak_below(supervisor);
            assert!(peak > 1000, "no process is seen below {supervisor}");
            match before {
                None => before = Some(peak),
                Some(before) => assert!(
                    peak < before + MOST_KIB,
                    "{protocol:?}: {before} KiB became {peak}"
                ),
            }
        }
    }
}
