//! A request that ends in an enclave of an image that you have named, or in an error:
//! `cargo run -p anchorhold-client --example get -- https://cards.example:8443/ PCR0 [ROOT.pem]`.

use anchorhold_client::{Anchor, Connector, Expectations};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("which address?")?.parse()?;
    let image = Expectations::new().pcr(0, [arguments.next().ok_or("which PCR0?")?.parse()?]);
    let anchor = match arguments.next() {
        Some(root) => Anchor::from_pem(&std::fs::read_to_string(root)?)?,
        None => Anchor::aws_nitro(),
    };
    let connector = Connector::new([anchor], image).over_tcp();
    let client = Client::builder(TokioExecutor::new()).build::<_, Empty<bytes::Bytes>>(connector);
    let answer = client.get(address).await?.into_body().collect().await?;
    std::io::Write::write_all(&mut std::io::stdout(), &answer.to_bytes())?;
    Ok(())
}
