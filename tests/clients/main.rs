//! Clients written by others, unmodified, over our key service: boto3, the AWS CLI, AWS's SDK for Rust, and the
//! AWS Encryption SDK for Python. Set up by `tests/clients/setup DIR`, found in
//! `ANCHORHOLD_CLIENTS`.

#[path = "../common/mod.rs"]
mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anchorhold_kms_wire::recipient::RecipientKey;
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use common::{House, Who};
use serde_bytes::ByteBuf;
use std::time::SystemTime;

fn python() -> PathBuf {
    let folder = std::env::var_os("ANCHORHOLD_CLIENTS")
        .expect("ANCHORHOLD_CLIENTS names the folder that tests/clients/setup made");
    Path::new(&folder).join("bin/python3")
}

/// Runs a script with the house's environment; it must succeed.
fn script<S: AsRef<OsStr>>(house: &House, name: &str, arguments: impl IntoIterator<Item = S>) {
    let anchorhold = house.command(Who::Owner, [] as [&str; 0]);
    let output = std::process::Command::new(python())
        .arg(
            Path::new(common::WORKSPACE)
                .join("tests/clients")
                .join(name),
        )
        .args(arguments)
        .envs(
            anchorhold
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .current_dir(house.path("."))
        .output()
        .expect("python runs");
    assert!(
        output.status.success(),
        "{name}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A key that the owner alone may use.
fn owners_key(house: &House) -> String {
    let policy = serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": { "AWS": Who::Owner.arn() },
            "Action": "kms:*",
            "Resource": "*",
        }],
    });
    house.key(
        "alias/clients",
        &house.write("policy.json", policy.to_string()),
    )
}

#[test]
fn boto3_uses_every_operation_and_sees_awss_errors() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    script(&house, "kms_boto3.py", [] as [&str; 0]);
}

#[test]
fn the_aws_cli_sees_what_boto3_sees() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let program = python().with_file_name("aws");
    script(&house, "aws_cli.py", [program.as_os_str()]);
}

#[test]
fn a_cache_of_the_encryption_sdk_asks_once_for_a_hundred_messages() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let key = owners_key(&house);
    script(&house, "encryption_sdk.py", ["cached", &key, "100"]);
    let lines = house.audit();
    let count = |operation: &str| {
        let of = lines.iter().filter(|line| line["eventName"] == operation);
        of.count()
    };
    assert_eq!((count("GenerateDataKey"), count("Decrypt")), (1, 1));
}

/// A document of an enclave under the house's development root, for this key.
fn document(house: &House, public_key: &[u8]) -> Vec<u8> {
    let root = DevelopmentRoot::load_or_create(&house.path("development-root"))
        .expect("the development root");
    let now = SystemTime::now();
    let nsm = Nsm::new(&root, NsmConfig::default(), now).expect("a simulated NSM");
    let request = Request::Attestation {
        user_data: None,
        nonce: None,
        public_key: Some(ByteBuf::from(public_key.to_vec())),
    };
    let request = serde_cbor::to_vec(&request).expect("CBOR");
    match serde_cbor::from_slice(&nsm.handle(&request, now)).expect("CBOR") {
        Response::Attestation { document } => document,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sdk_for_rust_does_what_the_others_do_and_its_recipient_opens_the_envelope() {
    let mut house = House::new();
    let root = DevelopmentRoot::load_or_create(&house.path("development-root"))
        .expect("the development root");
    let _service = house.key_service(&[]);
    let anchor = root
        .fingerprint()
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let owner = Who::Owner.arn();
    let policy = house.write(
        "policy.json",
        format!(
            r#"{{"Version":"2012-10-17","Statement":[
            {{"Effect":"Allow","Principal":{{"AWS":"{owner}"}},"Action":["kms:Encrypt","kms:PutKeyPolicy"],"Resource":"*"}},
            {{"Effect":"Allow","Principal":{{"AWS":"{owner}"}},"Action":"kms:Decrypt","Resource":"*",
              "Condition":{{"StringEquals":{{"anchorhold:Anchor":"{anchor}"}}}}}}]}}"#
        ),
    );
    let recipient = RecipientKey::generate().expect("an RSA key");
    let document = house.write("document", document(&house, recipient.public_key_der()));
    let envelope = house.path("envelope");
    let command = house.command(Who::Owner, [] as [&str; 0]);
    let output = std::process::Command::new(python().with_file_name("kms-rust"))
        .arg(house.path("kms/ca.pem"))
        .args([&policy, &document, &envelope])
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .output()
        .expect("kms-rust runs; tests/clients/setup builds it");
    assert!(output.status.success(), "{output:?}");
    let envelope = std::fs::read(envelope).expect("it wrote the envelope");
    let opened = recipient.open(&envelope).expect("an envelope for this key");
    assert_eq!(opened.as_slice(), b"for the enclave");
}

#[test]
fn boto3_uses_custom_key_stores_on_a_token_and_sees_awss_errors() {
    const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
    let mut house = House::new();
    std::fs::create_dir(house.path("tokens")).expect("a folder for tokens");
    let tokens = house.path("tokens");
    let configured = house.write(
        "softhsm2.conf",
        format!("directories.tokendir = {}\n", tokens.display()),
    );
    let made = std::process::Command::new("softhsm2-util")
        .args([
            "--init-token",
            "--free",
            "--label",
            "vault",
            "--so-pin",
            "12345678",
        ])
        .args(["--pin", "43214321"])
        .env("SOFTHSM2_CONF", &configured)
        .output()
        .expect("softhsm2-util runs; tests/clients/setup installs it");
    assert!(made.status.success(), "{made:?}");
    let anchor = rcgen::generate_simple_self_signed(["cluster".to_owned()]).expect("a certificate");
    house.write("anchor.pem", anchor.cert.pem());
    let (id, secret) = Who::Owner.credentials();
    let path = house.write("owner.secret", secret);
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("its mode");
    let config = format!(
        r#"state = "kms"
region = "us-east-1"
more_regions = ["eu-west-1"]
listen = "127.0.0.1:0"
plain_http = true
[[clusters]]
id = "cluster-anchorhold2a"
account = "111122223333"
module = "{MODULE}"
token = "vault"
trust_anchor = "anchor.pem"
[[clusters]]
id = "cluster-anchorhold2b"
account = "111122223333"
module = "{MODULE}"
token = "another"
[[accounts]]
id = "111122223333"
[[accounts.users]]
name = "owner"
inline_policies.all = '{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Action":"kms:*","Resource":"*"}}}}'
access_keys = [{{ id = "{id}", secret_file = "owner.secret" }}]
"#
    );
    let _service =
        house.configured_key_service(&config, &[("SOFTHSM2_CONF", configured.as_path())]);
    let anchor = house.path("anchor.pem");
    script(
        &house,
        "kms_key_stores.py",
        [
            OsStr::new("cluster-anchorhold2a"),
            OsStr::new("cluster-anchorhold2b"),
            anchor.as_os_str(),
            OsStr::new("43214321"),
        ],
    );
}

#[test]
fn what_the_encryption_sdk_seals_we_open_and_the_other_way() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let key = owners_key(&house);
    // Several frames of the SDK's 4 KiB, and of ours.
    let plaintext: Vec<u8> = (0..300_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for content in [&plaintext[..], b""] {
        let input = house.write("input", content);
        for suite in ["commit", "signed"] {
            let message = house.path("theirs.sealed");
            script(
                &house,
                "encryption_sdk.py",
                [
                    OsStr::new("seal"),
                    OsStr::new(&key),
                    OsStr::new(suite),
                    input.as_os_str(),
                    message.as_os_str(),
                ],
            );
            assert_eq!(
                house.open(&message, &["--context", "purpose=interoperation"]),
                content,
                "{suite}"
            );

            let mut options = vec![
                "--context",
                "purpose=interoperation",
                "--context",
                "zeta=last",
                "--context",
                "alpha=ä",
            ];
            if suite == "signed" {
                options.push("--signed");
            }
            let ours = house.seal(&key, &options, content, "ours.sealed");
            let opened = house.path("opened");
            script(
                &house,
                "encryption_sdk.py",
                [
                    OsStr::new("open"),
                    OsStr::new(&key),
                    ours.as_os_str(),
                    opened.as_os_str(),
                ],
            );
            assert_eq!(
                std::fs::read(&opened).expect("the SDK wrote it"),
                content,
                "{suite}"
            );
        }
    }
}
