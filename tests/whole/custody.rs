//! The custody job, whole: a key that is made inside, attested, used by its owners' approval, sealed, and loaded by the same
//! image alone.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anchorhold_attestation::{Anchor, Expectations, Time, Unverified};
use anchorhold_images::Image;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256K1_SHA256_FIXED, Ed25519KeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::common::channel::Channel;
use crate::common::{House, Running};

const CUSTODY: &str = "enclave/jobs/custody";
const KEY: &str = "alias/custody";
const TOKEN: &str = "the-treasurers-token-and-nobody-elses";

/// An owner, with keys and signatures by another implementation than the job's.
struct Owner {
    name: &'static str,
    key: Ed25519KeyPair,
}

impl Owner {
    fn new(name: &'static str) -> Owner {
        let key = Ed25519KeyPair::generate().expect("a key");
        Owner { name, key }
    }

    /// SubjectPublicKeyInfo (RFC 8410).
    fn public(&self) -> String {
        let prefix = hex::decode("302a300506032b6570032100").expect("hex");
        STANDARD.encode([&prefix, self.key.public_key().as_ref()].concat())
    }

    fn approves(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": self.name, "typ": "custody-approval+jws" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD
        .decode(value.as_str().expect("text"))
        .expect("base64")
}

fn image(house: &House, owners: &[&Owner], name: &str, version: &str) -> PathBuf {
    let public: Vec<String> = owners
        .iter()
        .map(|owner| format!("{} = \"{}\"\n", owner.name, owner.public()))
        .collect();
    let settings = format!(
        "[job.settings.callers.treasurer]\ntoken_sha256 = \"{}\"\n\
         [job.settings.owners]\n{}\
         [job.settings.keys.payouts]\nalgorithm = \"p256\"\napprovals = 2\npurposes = [\"payout\"]\n\
         rules.json.amount = {{ min = 1, max = 100 }}\n\
         [job.settings.keys.treasury]\nalgorithm = \"secp256k1\"\nsecret = \"treasury-key\"\n\
         callers = [\"treasurer\"]\naccepts = [\"digest\"]\n",
        sha256(TOKEN.as_bytes()),
        public.concat(),
    );
    let more = "[secrets.treasury-key]\nkey = \"alias/import\"\nas = \"api\"\n\n\
                [api]\nsecrets = [\"treasury-key\"]\ngrant = [\"attest\", \"attest-public-key\", \"open\", \"seal\", \"time\"]\n\n\
                [http]\nready_path = \"/ready\"\n\n[log]\njob_stderr = \"forward\"\n";
    let manifest = house.manifest(&["/job"], KEY, more).replace(
        "[key_service]",
        &format!("contract = \"http\"\n\n{settings}\n[key_service]"),
    );
    let manifest = format!("[image]\nversion = \"{version}\"\n{manifest}");
    house.image(CUSTODY, &manifest, name)
}

fn running<'a>(
    house: &'a House,
    image: &Path,
    name: &'static str,
    secret: &str,
) -> (Running<'a>, Channel) {
    let enclave = house.enclave(image, name, &["--secret", secret]);
    house.console_says(name, 0, "the job is ready");
    let channel = Channel::new(house, image, name);
    (enclave, channel)
}

/// A request, approved of by these.
fn request(channel: &mut Channel, amount: u32, nonce: &str, owners: &[&Owner]) -> Value {
    let (_, key) = channel.get("/v1/keys/payouts");
    let (_, keys) = channel.get("/v1/keys");
    let message = json!({ "amount": amount }).to_string();
    let claims = json!({
        "boot": keys["boot"], "key": "payouts", "key_sha256": key["key_sha256"], "form": "message",
        "input_sha256": sha256(message.as_bytes()), "purpose": "payout", "expires": seconds() + 600,
        "nonce": nonce,
    });
    let approvals: Vec<String> = owners.iter().map(|owner| owner.approves(&claims)).collect();
    json!({
        "form": "message", "input": STANDARD.encode(message), "purpose": "payout",
        "expires": claims["expires"], "nonce": nonce, "approvals": approvals,
    })
}

#[test]
fn a_key_is_made_attested_approved_sealed_and_loaded_by_the_same_image_alone() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let (alice, bob) = (Owner::new("alice"), Owner::new("bob"));
    let one = image(&house, &[&alice, &bob], "one.eif", "1");
    let root = house.path("development-root/root.pem");
    let root = root.to_str().expect("UTF-8").to_owned();
    let inside = house.policy_with(&one, "inside.json", &["--anchor", &root, "--inside-only"]);
    house.key(KEY, &inside);
    let import = house.key("alias/import", &house.policy(&one, "import.json"));
    // PKCS#8 of a secp256k1 key.
    let scalar = [7; 32];
    let head = hex::decode("303e020100301006072a8648ce3d020106052b8104000a042730250201010420");
    let pkcs8 = [&head.expect("hex")[..], &scalar].concat();
    let sealed = house.seal(
        "alias/import",
        &["--secret", "treasury-key"],
        &pkcs8,
        "treasury.sealed",
    );
    let secret = format!("treasury-key={}", sealed.display());

    let (enclave, mut channel) = running(&house, &one, "custody", &secret);
    let (status, refused) = channel.post(
        "/v1/keys/payouts/sign",
        None,
        &json!({
            "form": "message", "input": "", "purpose": "payout",
        }),
    );
    assert_eq!(
        (status, &refused["error"]["code"]),
        (409, &json!("no_key")),
        "{refused}"
    );
    let (status, made) = channel.send("POST", "/v1/keys/payouts/make", None, &[]);
    let made: Value = serde_json::from_slice(&made).expect("JSON");
    assert_eq!(status, 200, "{made}");
    let (status, _) = channel.send("POST", "/v1/keys/payouts/make", None, &[]);
    assert_eq!(status, 409, "one key is enough");
    let public = bytes(&made["public_key"]);

    // The document binds key, statement and nonce, under this machine's root.
    let nonce = b"the verifier's own nonce";
    let (status, attested) = channel.post(
        "/v1/keys/payouts/attestation",
        None,
        &json!({ "nonce": STANDARD.encode(nonce) }),
    );
    assert_eq!(status, 200, "{attested}");
    let document = bytes(&attested["document"]);
    let anchor =
        Anchor::from_pem(&std::fs::read_to_string(&root).expect("a root")).expect("an anchor");
    let measured = *Image::open(&one).expect("an image").measurements();
    let (_, keys) = channel.get("/v1/keys");
    let statement = format!(
        "{{\"custody\":1,\"key\":\"payouts\",\"algorithm\":\"p256\",\"origin\":\"made\",\"boot\":{}}}",
        keys["boot"]
    );
    let verified = Unverified::parse(&document)
        .expect("a document")
        .verify(&[anchor], Time::Document)
        .expect("it is signed under the root");
    let expected = Expectations::new()
        .pcr(0, [measured.pcr0])
        .pcr(2, [measured.pcr2])
        .nonce(nonce)
        .public_key(&public)
        .user_data(statement.as_bytes());
    verified.admit(&expected).expect("the key is that image's");

    // Two owners approve of one message; another implementation verifies the signature.
    let point = &public[public.len() - 65..];
    let asked = request(&mut channel, 50, "nonce-of-the-first-one", &[&alice, &bob]);
    let (status, signed) = channel.post("/v1/keys/payouts/sign", None, &asked);
    assert_eq!(status, 200, "{signed}");
    assert_eq!(signed["approved_by"], json!(["alice", "bob"]));
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(b"{\"amount\":50}", &bytes(&signed["der"]))
        .expect("a signature");
    for (asked, status, code) in [
        (asked.clone(), 409, "replayed"),
        (
            request(&mut channel, 50, "nonce-of-one-approval", &[&alice]),
            403,
            "approval",
        ),
        (
            request(&mut channel, 50, "nonce-of-one-owner-twice", &[&bob, &bob]),
            403,
            "approval",
        ),
        (
            request(&mut channel, 101, "nonce-of-far-too-much", &[&alice, &bob]),
            403,
            "rules",
        ),
    ] {
        let (found, refused) = channel.post("/v1/keys/payouts/sign", None, &asked);
        assert_eq!(
            (found, &refused["error"]["code"]),
            (status, &json!(code)),
            "{refused}"
        );
    }
    // What was approved of in this life, and never used.
    let unused = request(&mut channel, 7, "nonce-of-another-life", &[&alice, &bob]);

    // The imported key signs a digest, for who shows the token.
    let to_sign =
        json!({ "form": "digest", "input": STANDARD.encode([9; 32]), "purpose": "settlement" });
    let (status, _) = channel.post("/v1/keys/treasury/sign", None, &to_sign);
    assert_eq!(status, 401);
    let (status, signed) = channel.post("/v1/keys/treasury/sign", Some(TOKEN), &to_sign);
    assert_eq!(status, 200, "{signed}");
    let (_, treasury) = channel.get("/v1/keys/treasury");
    assert_eq!(treasury["origin"], "imported");
    let public_k1 = bytes(&treasury["public_key"]);
    let digest = aws_lc_rs::digest::Digest::import_less_safe(&[9; 32], &SHA256).expect("32 bytes");
    UnparsedPublicKey::new(
        &ECDSA_P256K1_SHA256_FIXED,
        &public_k1[public_k1.len() - 65..],
    )
    .verify_digest(&digest, &bytes(&signed["raw"]))
    .expect("a signature");
    house.console_says(
        enclave.name,
        0,
        "payouts has signed for somebody: payout; approved by [alice, bob]",
    );
    house.console_says(
        enclave.name,
        0,
        "treasury has signed for treasurer: settlement",
    );
    drop((channel, enclave));

    // The owner holds the sealed key, and cannot open it.
    let kept = house.write("payouts.sealed", bytes(&made["sealed"]));
    let kept = kept.to_str().expect("UTF-8").to_owned();
    house.must_fail(crate::common::Who::Owner, ["open", "--input", &kept]);

    // Another image, whose rules are the same, does not open it either.
    let load = json!({ "sealed": made["sealed"] });
    let two = image(&house, &[&alice, &bob], "two.eif", "2");
    let both = house.policy_with(
        &two,
        "both.json",
        &[
            "--anchor",
            &root,
            "--roll-over",
            one.to_str().expect("UTF-8"),
        ],
    );
    let both = both.to_str().expect("UTF-8");
    house.must(
        crate::common::Who::Owner,
        ["kms", "put-key-policy", "--key", &import, "--policy", both],
    );
    {
        let (_enclave, mut channel) = running(&house, &two, "another", &secret);
        let (status, refused) = channel.post("/v1/keys/payouts/load", None, &load);
        assert_eq!(
            (status, &refused["error"]["code"]),
            (502, &json!("runtime")),
            "{refused}"
        );
        let (_, key) = channel.get("/v1/keys/payouts");
        assert_eq!(key["there"], false);
    }

    // The same image does, after a restart; and nothing of before is good any more.
    let (_enclave, mut channel) = running(&house, &one, "custody", &secret);
    let (status, loaded) = channel.post("/v1/keys/payouts/load", None, &load);
    assert_eq!(
        (status, &loaded["public_key"]),
        (200, &made["public_key"]),
        "{loaded}"
    );
    for asked in [&asked, &unused] {
        let (status, refused) = channel.post("/v1/keys/payouts/sign", None, asked);
        assert_eq!(
            (status, &refused["error"]["code"]),
            (403, &json!("approval")),
            "{refused}"
        );
    }
    let asked = request(&mut channel, 50, "nonce-of-the-first-one", &[&alice, &bob]);
    let (status, signed) = channel.post("/v1/keys/payouts/sign", None, &asked);
    assert_eq!(status, 200, "{signed}");
}
