//! The cards job over 20,000 records, and back.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use anchorhold_envelope::{Header, Limits, Parse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::common::channel::Channel;
use crate::common::{House, Who, shared};

const CARDS: &str = "enclave/jobs/cards";
const SECRETS: &str = "[secrets.tokenization-key]\nkey = \"alias/token-key\"\n\n[resources]\nmemory_mib = 256\ncpus = 2\n";

fn lines(bytes: &[u8]) -> Vec<Value> {
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("newline-delimited JSON"))
        .collect()
}

#[test]
fn twenty_thousand_records_are_tokenized_and_only_the_second_policy_lets_them_back() {
    let Some(data) = shared("data/transactions.ndjson") else {
        return;
    };
    let plaintext = std::fs::read(data).expect("the data is readable");
    let records = lines(&plaintext);
    assert_eq!(records.len(), 20_000);

    let mut house = House::new();
    let _service = house.key_service(&[]);
    let tokenizer = house.image(
        CARDS,
        &house.manifest(&["/job"], "alias/cards", SECRETS),
        "tokenize.eif",
    );
    let detokenizer = house.image(
        CARDS,
        &house.manifest(&["/job", "detokenize"], "alias/tokens", SECRETS),
        "detokenize.eif",
    );
    house.key("alias/cards", &house.policy(&tokenizer, "cards.json"));
    house.key("alias/tokens", &house.policy(&detokenizer, "tokens.json"));
    // The key that makes tokens: at first for the tokenizer alone.
    let token_key = house.key(
        "alias/token-key",
        &house.policy(&tokenizer, "token-key.json"),
    );
    let secret = house.seal(
        "alias/token-key",
        &["--secret", "tokenization-key"],
        &[7; 32],
        "key.sealed",
    );
    let secret = format!("tokenization-key={}", secret.display());

    let sealed = house.seal(
        "alias/cards",
        &["--context", "purpose=tokens"],
        &plaintext,
        "cards.sealed",
    );
    let result = house.path("tokens.sealed");
    {
        let enclave = house.enclave(
            &tokenizer,
            "tokenize",
            &["--secret", &secret, "--record", "carried"],
        );
        house.must_call(enclave.name, &sealed, &result);
    }
    let request = sealed.to_str().expect("UTF-8");
    let opened = house.open(
        &result,
        &["--context", "purpose=tokens", "--result-of", request],
    );
    let outcomes = lines(&opened);
    assert_eq!(outcomes.len(), records.len());
    let mut tokens = Vec::new();
    let mut numbers = BTreeSet::new();
    for (record, outcome) in records.iter().zip(&outcomes) {
        assert_eq!(record["id"], outcome["id"]);
        let expected = record["expect"]
            .as_str()
            .expect("the data says what to expect");
        let found = outcome["error"]["code"].as_str().unwrap_or("ok");
        assert_eq!(found, expected, "{}", record["id"]);
        if expected == "ok" {
            let digits: String = record["pan"]
                .as_str()
                .expect("a number")
                .chars()
                .filter(char::is_ascii_digit)
                .collect();
            assert_eq!(outcome["last4"], digits[digits.len() - 4..]);
            tokens.push((
                record["id"].clone(),
                digits.clone(),
                json!({ "id": record["id"], "token": outcome["token"] }),
            ));
            numbers.insert(digits);
        }
    }
    assert_eq!(tokens.len(), 19_194);

    // Nothing that the parent carried holds a card number; the plaintext does.
    let carried: Vec<u8> = std::fs::read_dir(house.path("carried"))
        .expect("what was carried is recorded")
        .flat_map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a file"))
        .collect();
    assert!(
        carried.len() > plaintext.len(),
        "the sealed file and more were carried"
    );
    assert_eq!(occurring(&carried, &numbers), 0);
    assert!(
        occurring(&plaintext, &numbers) > 10_000,
        "the search finds numbers where they are"
    );

    // Back again: not through the first policy …
    let input: Vec<u8> = tokens
        .iter()
        .flat_map(|(_, _, line)| format!("{line}\n").into_bytes())
        .collect();
    let sealed_tokens = house.seal("alias/tokens", &[], &input, "tokens-in.sealed");
    let back = house.path("back.sealed");
    let enclave = house.enclave(&detokenizer, "detokenize", &["--secret", &secret]);
    let seen = house.audit().len();
    house.must_not_call(enclave.name, &sealed_tokens, &back);
    let expected = &house.measurements(&tokenizer)["PCR0"];
    let found = &house.measurements(&detokenizer)["PCR0"];
    let reason = house.refusal_after(seen);
    assert!(
        reason.contains(expected) && reason.contains(found),
        "{reason}"
    );

    // … but through a second one that allows it.
    let policy = house.policy(&detokenizer, "token-key-2.json");
    house.must(
        Who::Owner,
        [
            OsStr::new("kms"),
            OsStr::new("put-key-policy"),
            OsStr::new("--key"),
            OsStr::new(&token_key),
            OsStr::new("--policy"),
            policy.as_os_str(),
        ],
    );
    house.must_call(enclave.name, &sealed_tokens, &back);
    let numbers_back = lines(&house.open(&back, &[]));
    assert_eq!(numbers_back.len(), tokens.len());
    for ((id, digits, _), outcome) in tokens.iter().zip(&numbers_back) {
        assert_eq!(outcome["id"], *id);
        assert_eq!(outcome["pan"], **digits);
    }
}

const ANALYST: &str = "the-token-that-only-the-analyst-has";

/// `[api]`, the contract, and who may detokenize: the analyst.
fn service_manifest(house: &House, alias: &str, settings: &str) -> String {
    house
        .manifest(
            &["/job", "serve"],
            alias,
            "[secrets.tokenization-key]\nas = \"api\"\n\n[api]\nsecrets = [\"tokenization-key\"]\ngrant = [\"data-keys\"]\n\n\
             [http]\nready_path = \"/ready\"\n\n[log]\njob_stderr = \"forward\"\n",
        )
        .replace(
            "[key_service]",
            &format!("contract = \"http\"\n\n{settings}\n[key_service]"),
        )
}

#[test]
fn over_attested_tls_numbers_become_tokens_and_only_the_measured_caller_gets_them_back() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, ANALYST.as_bytes());
    let settings = format!(
        "[job.settings]\nkey = {{ secret = \"tokenization-key\" }}\n\
         [job.settings.detokenize.analyst]\ntoken_sha256 = \"{}\"\n",
        hex::encode(digest)
    );
    let manifest = service_manifest(&house, "alias/cards", &settings);
    let image = house.image(CARDS, &manifest, "service.eif");
    house.key("alias/cards", &house.policy(&image, "cards.json"));
    let key = house.seal(
        "alias/cards",
        &["--secret", "tokenization-key"],
        &[7; 32],
        "key.sealed",
    );
    let secret = format!("tokenization-key={}", key.display());
    let enclave = house.enclave(&image, "cards", &["--secret", &secret]);
    house.console_says(enclave.name, 0, "the job is ready");

    let mut channel = Channel::new(&house, &image, enclave.name);
    let number = "4111111111111111";
    let (status, tokenized) =
        channel.post("/v1/tokenize", None, &json!({ "id": 1, "pan": number }));
    assert_eq!(
        (status, &tokenized["scheme"]),
        (200, &json!("visa")),
        "{tokenized}"
    );
    let token = json!({ "id": 1, "token": tokenized["token"] });
    let (status, _) = channel.post("/v1/detokenize", None, &token);
    assert_eq!(status, 401);
    let (status, _) = channel.post("/v1/detokenize", Some(&ANALYST.to_uppercase()), &token);
    assert_eq!(status, 401);
    let (status, back) = channel.post("/v1/detokenize", Some(ANALYST), &token);
    assert_eq!((status, &back), (200, &json!({ "id": 1, "pan": number })));
    let (status, valid) = channel.post("/v1/validate", None, &json!({ "pan": "4111111111111112" }));
    assert_eq!((status, &valid["error"]["code"]), (200, &json!("luhn")));
    let (status, masked) = channel.post("/v1/mask", None, &json!({ "note": number }));
    assert_eq!(
        (status, &masked),
        (200, &json!({ "note": "************1111" }))
    );
    // In bulk, the same; the tokens are those that the job of lines makes under the same key.
    let body = format!("{}\n", json!({ "id": 1, "pan": number })).repeat(1000);
    let (status, bulk) = channel.send("POST", "/v1/bulk/tokenize", None, body.as_bytes());
    assert_eq!(status, 200);
    let answers = lines(&bulk);
    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|answer| *answer == tokenized));
    house.console_says(enclave.name, 0, "analyst detokenized 1");
    assert!(!house.console(enclave.name).contains(number));
}

#[test]
fn the_tokenization_key_may_be_a_data_key_and_nobody_detokenizes_whom_the_manifest_does_not_name() {
    let mut house = House::new();
    let _service = house.key_service(&[]);
    // The key is made first, as its ciphertext is measured; its policy follows.
    let first = house.image(
        CARDS,
        &service_manifest(&house, "alias/cards", ""),
        "first.eif",
    );
    let arn = house.key("alias/cards", &house.policy(&first, "first.json"));
    // Any message under the key has a data key of that context.
    let sealed = house.seal(
        "alias/cards",
        &["--context", "use=tokens"],
        b"",
        "any.sealed",
    );
    let sealed = std::fs::read(sealed).expect("a message");
    let Ok(Parse::Complete { header, .. }) = Header::parse(&sealed, &Limits::default()) else {
        panic!("a whole message");
    };
    let ciphertext = STANDARD.encode(&header.data_keys()[0].ciphertext);
    let settings = format!(
        "[job.settings.key.data-key]\nciphertext = \"{ciphertext}\"\ncontext = {{ use = \"tokens\" }}\n"
    );
    let manifest = service_manifest(&house, "alias/cards", &settings)
        .replace("[secrets.tokenization-key]\nas = \"api\"\n", "")
        .replace("secrets = [\"tokenization-key\"]\n", "");
    let image = house.image(CARDS, &manifest, "service.eif");
    let policy = house.policy(&image, "cards.json");
    let policy = policy.to_str().expect("UTF-8");
    house.must(
        Who::Owner,
        ["kms", "put-key-policy", "--key", &arn, "--policy", policy],
    );
    let enclave = house.enclave(&image, "cards", &[]);
    house.console_says(enclave.name, 0, "the job is ready");
    let mut channel = Channel::new(&house, &image, enclave.name);
    let (status, tokenized) =
        channel.post("/v1/tokenize", None, &json!({ "pan": "4111111111111111" }));
    assert_eq!(status, 200, "{tokenized}");
    let token = json!({ "token": tokenized["token"] });
    for shown in [None, Some(ANALYST)] {
        let (status, refused) = channel.post("/v1/detokenize", shown, &token);
        assert_eq!(
            (status, &refused["error"]["code"]),
            (403, &json!("forbidden"))
        );
    }
}

/// How many of the numbers occur as runs of digits.
fn occurring(haystack: &[u8], numbers: &BTreeSet<String>) -> usize {
    let lengths: BTreeSet<usize> = numbers.iter().map(String::len).collect();
    let mut found = BTreeSet::new();
    for run in haystack.split(|byte| !byte.is_ascii_digit()) {
        for length in &lengths {
            for window in run.windows(*length) {
                let text = std::str::from_utf8(window).expect("digits");
                if numbers.contains(text) {
                    found.insert(text);
                }
            }
        }
    }
    found.len()
}
