//! Requests for an enclave's job, through attested TLS by the blocking library: one channel, one request after the other.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anchorhold_client::{Anchor, BlockingChannel, Connector, Expectations};
use anchorhold_images::Image;
use anchorhold_manifest::TLS_PORT;
use anchorhold_parent::sandbox;
use serde_json::Value;

use super::House;

/// A channel to the job of an enclave that runs this image.
pub struct Channel(BlockingChannel<UnixStream>);

impl Channel {
    pub fn new(house: &House, image: &Path, name: &str) -> Channel {
        let root = std::fs::read_to_string(house.path("development-root/root.pem"));
        let anchor = Anchor::from_pem(&root.expect("a root")).expect("an anchor");
        let measured = *Image::open(image).expect("an image").measurements();
        let expected = Expectations::new()
            .pcr(0, [measured.pcr0])
            .pcr(1, [measured.pcr1])
            .pcr(2, [measured.pcr2]);
        let folder = house.path("enclaves").join(name);
        let stream = sandbox::connect(&folder, TLS_PORT).expect("the enclave's port");
        let connector = Connector::new([anchor], expected);
        Channel(
            connector
                .connect_blocking("job", stream)
                .expect("a channel"),
        )
    }

    /// One request: its status and the answer's body.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let token = token.map_or_else(String::new, |token| {
            format!("authorization: Bearer {token}\r\n")
        });
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: job\r\n{token}content-length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(head.as_bytes()).expect("it is read");
        self.0.write_all(body).expect("it is read");
        self.0.flush().expect("it is read");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or_else(|| panic!("an answer of known length: {head}"));
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a whole answer");
        (status.expect("a status"), body)
    }

    pub fn get(&mut self, path: &str) -> (u16, Value) {
        let (status, body) = self.send("GET", path, None, &[]);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub fn post(&mut self, path: &str, token: Option<&str>, body: &Value) -> (u16, Value) {
        let (status, body) = self.send("POST", path, token, body.to_string().as_bytes());
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}
