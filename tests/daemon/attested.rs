//! Attested TLS through a declared ingress: a client's channel ends in the enclave behind the window, or nowhere.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anchorhold_attestation::Pcr;
use anchorhold_client::{Anchor, BlockingChannel, ConnectError, Connector, Expectations, Protocol};

use crate::stage::{PATIENCE, Stage, eventually, free_port};

#[test]
fn a_channel_goes_through_the_ingress_into_the_declared_image_and_into_no_other() {
    let stage = Stage::new();
    let manifest =
        "[job]\ncommand = [\"/job\"]\ncontract = \"http\"\n[resources]\nmemory_mib = 64\n";
    let image = stage
        .house
        .image("tests/whole/odd-job", manifest, "served.eif");
    let pcr0 = stage.house.measurements(&image)["PCR0"].clone();
    let address = free_port();
    let declared = format!(
        "image = \"{}\"\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\n\
         [ingress.web]\nlisten = \"{address}\"\nport = 5443\n",
        image.display()
    );
    std::fs::write(stage.file("served"), declared).expect("a file");
    let _daemon = stage.daemon();
    stage.serves("served");

    let root = stage.house.path("development-root/root.pem");
    let root = std::fs::read_to_string(root).expect("a root");
    let connect = |image: Pcr| -> Result<BlockingChannel<TcpStream>, ConnectError> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Connector::new(
            [Anchor::from_pem(&root).expect("an anchor")],
            Expectations::new().pcr(0, [image]),
        )
        .protocol(Protocol::Http1)
        .connect_blocking("cards.example", stream)
    };
    let image: Pcr = pcr0.parse().expect("a PCR");
    let said = eventually("the job answers", || {
        let mut channel = connect(image).ok()?;
        let request = "POST /echo HTTP/1.1\r\nhost: e\r\nconnection: close\r\ncontent-length: 9\r\n\r\nsaid once";
        channel.write_all(request.as_bytes()).ok()?;
        let mut said = String::new();
        channel.read_to_string(&mut said).ok()?;
        // 503 while it starts.
        said.starts_with("HTTP/1.1 200 ").then_some(said)
    });
    assert!(said.ends_with("\r\n\r\nsaid once"), "{said}");

    let error = connect(Pcr::from_bytes([0xbb; 48])).expect_err("another image");
    assert_eq!(error.names(), ["pcr"]);
    assert!(error.is_refusal());
}
