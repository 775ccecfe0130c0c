//! The local API: what is granted works, what is not is refused, and `openapi.json` says the same as the code.
//!
//! The job is this very program, behind walls; it asks by the Rust client and tells what it was answered on its standard
//! output.

#![expect(clippy::print_stdout, reason = "what the job was answered")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anchorhold_enclave::api::{self, Api, Needs, ROUTES};
use anchorhold_enclave::isolation::{Confinement, Terms};
use anchorhold_enclave::jobs::{Launcher, Stderr};
use anchorhold_enclave::keys::Keys;
use anchorhold_enclave::reaper::{Orphans, Reaper};
use anchorhold_enclave::secrets::Secrets;
use anchorhold_enclave::window::Window;
use anchorhold_manifest::{API_SOCKET_VARIABLE, Api as Granted, DataKeyCache, Delivery, Grant};
use serde_json::{Value, json};
use support::{FakeKeyService, FakeNsm, FakeParent, KEY, Mood, Owner};
use tokio::io::AsyncReadExt as _;

const QUESTIONS: &str = "ANCHORHOLD_TEST_QUESTIONS";
const ANSWER: &str = "answer: ";

/// Asks one thing after another, each as `METHOD /path body`, on one connection.
fn ask(socket: &str, questions: &str) -> Vec<(u16, String)> {
    let stream = UnixStream::connect(socket).expect("the runtime listens");
    let mut answers = Vec::new();
    for question in questions.lines() {
        let mut parts = question.splitn(3, ' ');
        let (method, path) = (
            parts.next().expect("a method"),
            parts.next().expect("a path"),
        );
        let body = parts.next().unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: runtime\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        (&stream)
            .write_all(&[head.as_bytes(), body.as_bytes()].concat())
            .expect("the runtime reads");
        answers.push(answer(&stream));
    }
    answers
}

fn answer(mut stream: &UnixStream) -> (u16, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return (0, String::from_utf8_lossy(&head).into_owned()),
        }
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let status = head.split(' ').nth(1).expect("a status");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a whole body");
    let status = status.parse().expect("a number");
    (status, String::from_utf8(body).expect("text"))
}

/// The job's part. As one of the tests it does nothing.
#[test]
fn as_a_job() {
    let Ok(questions) = std::env::var(QUESTIONS) else {
        return;
    };
    let socket = std::env::var(API_SOCKET_VARIABLE).expect("the runtime says where");
    let questions = match questions.as_str() {
        "flood" => return flood(&socket),
        "heir" => return heir(&socket),
        "client" => return client(),
        other => other,
    };
    for (status, body) in ask(&socket, questions) {
        println!("{ANSWER}{status} {body}");
    }
    if let Ok(token) = std::env::var("TOKEN")
        && questions.contains("variable")
    {
        println!("{ANSWER}0 {token}");
    }
}

/// Connections that say nothing, garbage, endless heads, bodies that never come, and then a proper question.
fn flood(socket: &str) {
    let mut held = Vec::new();
    for number in 0..300 {
        let Ok(stream) = UnixStream::connect(socket) else {
            break;
        };
        stream
            .set_write_timeout(Some(Duration::from_millis(50)))
            .expect("a time");
        let attack: Vec<u8> = match number % 4 {
            0 => Vec::new(),
            1 => b"\x16\x03\x01 no HTTP at all\r\n\r\n".to_vec(),
            2 => [&b"GET /v1/random HTTP/1.1\r\nx: "[..], &vec![b'x'; 200_000]].concat(),
            _ => b"POST /v1/seal HTTP/1.1\r\nhost: r\r\ncontent-length: 99999999999\r\n\r\n{"
                .to_vec(),
        };
        let _ = (&stream).write_all(&attack);
        held.push(stream);
        if held.len() > 100 {
            held.clear();
        }
    }
    drop(held);
    for (status, body) in ask(socket, "GET /v1/random?bytes=8") {
        println!("{ANSWER}{status} {body}");
    }
}

/// All that the Rust client has.
fn client() {
    use anchorhold_job::{Claims, Error, Runtime};
    fn refused<T>(asked: Result<T, Error>, expected: &str) {
        match asked {
            Err(Error::Refused { kind, .. }) => assert_eq!(kind, expected),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("not refused as {expected}"),
        }
    }
    let context = |value: &str| BTreeMap::from([("a".to_owned(), value.to_owned())]);
    let mut runtime = Runtime::connect().expect("a runtime");
    assert!(runtime.granted().expect("granted").grant.contains("seal"));
    let message = runtime.seal(b"x\0\xff", &context("ü")).expect("sealed");
    let opened = runtime.open(&message, &context("ü")).expect("opened");
    assert_eq!(opened.plaintext.as_slice(), b"x\0\xff");
    assert_eq!(opened.context, context("ü"));
    refused(runtime.open(&message, &context("c")), "request");
    refused(runtime.open(&message[1..], &context("ü")), "message");
    let key = runtime.data_key(&context("b")).expect("a data key");
    let again = runtime
        .decrypt_data_key(&key.ciphertext, &context("b"))
        .expect("decrypted");
    assert!(again == key.plaintext && again.len() == 32);
    refused(
        runtime.decrypt_data_key(&key.ciphertext, &context("c")),
        "keys",
    );
    assert_eq!(runtime.random(1000).expect("random").len(), 1000);
    let secret = runtime
        .secret("token", 0, Duration::from_secs(1))
        .expect("a secret");
    assert_eq!(
        (secret.value.as_slice(), secret.version),
        (&b"s3cret"[..], 1)
    );
    refused(runtime.secret("other", 0, Duration::ZERO), "not_granted");
    let claims = Claims {
        nonce: Some(b"nonce".to_vec()),
        ..Claims::default()
    };
    assert_eq!(runtime.attest(&claims).expect("a document"), b"nonce");
    assert_eq!(runtime.read_pcr(16).expect("a PCR").len(), 48);
    assert_eq!(runtime.extend_pcr(17, b"x").expect("extended"), b"x");
    refused(runtime.extend_pcr(18, b"x"), "not_granted");
    assert!(runtime.time().expect("the time").unix_ms > 0);
    println!("{ANSWER}0 done");
}

/// A child of the job asks on a connection that the job has made.
fn heir(socket: &str) {
    use std::os::fd::AsFd as _;
    let stream = UnixStream::connect(socket).expect("the runtime listens");
    let input = stream.as_fd().try_clone_to_owned().expect("a copy");
    let status = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "printf 'GET /v1/random HTTP/1.1\\r\\nhost: r\\r\\n\\r\\n' >&0",
        ])
        .stdin(input)
        .status()
        .expect("a shell");
    assert!(status.success());
    let (status, body) = answer(&stream);
    println!("{ANSWER}{status} {body}");
}

/// Who starts a job that asks something.
type LauncherOf = Box<dyn Fn(&[String], &str) -> Arc<Launcher> + Send + Sync>;

struct Stage {
    folder: tempfile::TempDir,
    program: support::Program,
    launcher_of: LauncherOf,
    api: Arc<Api<FakeNsm, FakeKeyService>>,
    secrets: Arc<Secrets>,
    owner: Owner,
}

fn everything() -> Granted {
    Granted {
        grant: Grant::ALL.iter().map(|(_, grant)| *grant).collect(),
        secrets: ["token".to_owned()].into(),
        extend_pcrs: [16, 17].into(),
    }
}

impl Stage {
    fn new(granted: Granted, cache: Option<DataKeyCache>) -> Stage {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o711);
        std::fs::set_permissions(folder.path(), mode).expect("our own");
        let socket = folder.path().join("runtime/api.sock");
        let api_folder = api::make_folder(&socket).expect("a folder");
        let program = support::Program::of_this_test();
        let reaper = Reaper::start(Orphans::Leave).expect("signals work");
        let command = program.command("as_a_job");
        let scratch = folder.path().join("scratch");
        let (path, jobs) = (
            socket.to_str().expect("text").to_owned(),
            Arc::clone(&reaper),
        );
        let launcher_of = Box::new(move |command: &[String], questions: &str| {
            let terms = Terms {
                environment: [
                    (API_SOCKET_VARIABLE.to_owned(), path.clone()),
                    (QUESTIONS.to_owned(), questions.to_owned()),
                ]
                .into(),
                api: Some(api_folder.clone()),
                ..support::isolation_terms(command.to_vec(), &scratch)
            };
            let confinement = Confinement::prepare(&terms).expect("walls can be put up");
            Arc::new(Launcher::new(
                confinement,
                Arc::clone(&jobs),
                Stderr::Forward,
                None,
            ))
        });
        let job_owner = launcher_of(&command, "").confinement().job_owner();
        let service = FakeKeyService::new(Mood::Honest);
        let owner = service.owner();
        let keys = Keys::new(
            Arc::new(FakeNsm),
            service,
            support::RECIPIENT.clone(),
            KEY.to_owned(),
        )
        .with_cache(cache);
        let wanted = [
            ("token".to_owned(), support::wanted(Delivery::Api)),
            ("other".to_owned(), support::wanted(Delivery::Api)),
            (
                "variable".to_owned(),
                support::wanted(Delivery::Environment("TOKEN".to_owned())),
            ),
        ];
        let secrets = Arc::new(Secrets::new(
            wanted.into(),
            folder.path().to_owned(),
            job_owner,
        ));
        let own_uid = nix::unistd::geteuid().as_raw();
        let api = Api::new(
            granted,
            Arc::new(FakeNsm),
            Some(Arc::new(keys)),
            Arc::clone(&secrets),
            support::clock(),
            reaper,
            job_owner.map_or(own_uid, |(uid, _)| uid),
        );
        let listener = api::listen(&socket, job_owner).expect("a socket");
        tokio::spawn(Arc::clone(&api).serve(listener));
        Stage {
            folder,
            program,
            launcher_of,
            api,
            secrets,
            owner,
        }
    }

    fn socket(&self) -> String {
        let socket = self.folder.path().join("runtime/api.sock");
        socket.to_str().expect("text").to_owned()
    }

    /// What a job is answered.
    async fn job(&self, questions: &str) -> Vec<(u16, Value)> {
        self.program(&self.program.command("as_a_job"), questions)
            .await
    }

    /// What a program is answered that runs as the job.
    async fn program(&self, command: &[String], questions: &str) -> Vec<(u16, Value)> {
        let launcher = (self.launcher_of)(command, questions);
        launcher.give(Arc::clone(&self.secrets));
        let mut job = launcher.start().await.expect("the job starts");
        let mut output = String::new();
        job.stdout
            .read_to_string(&mut output)
            .await
            .expect("a pipe can be read");
        let answers = output.lines().filter_map(|line| line.strip_prefix(ANSWER));
        let parsed = answers.map(|line| {
            let (status, body) = line.split_once(' ').expect("two words");
            let body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
            (status.parse().expect("a number"), body)
        });
        parsed.collect()
    }

    async fn one(&self, question: &str) -> (u16, Value) {
        self.job(question).await.pop().expect("an answer")
    }

    async fn secrets_are(&self, version: Option<u64>, value: &str) -> Result<(), String> {
        let owner = self.owner.clone();
        let value = value.to_owned();
        let sealed = Arc::new(Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
        let answers = move |what: &str| {
            let mut sealed = sealed.lock().expect("no panics");
            if let Some(sealed) = sealed.get(what) {
                return (200, sealed.clone());
            }
            let name = what.rsplit('/').next().unwrap_or_default().to_owned();
            let mut context = BTreeMap::from([
                ("anchorhold:kind".to_owned(), "secret".to_owned()),
                ("anchorhold:secret".to_owned(), name),
            ]);
            if let Some(version) = version {
                context.insert("anchorhold:secret-version".to_owned(), version.to_string());
            }
            let message = owner.seal(value.as_bytes(), context);
            sealed.insert(what.to_owned(), message.clone());
            (200, message)
        };
        let window = Window::new(FakeParent(answers));
        let keys = self.api.keys.as_ref().expect("keys");
        self.secrets
            .ensure(&window, keys)
            .await
            .map_err(|error| error.to_string())?;
        self.secrets
            .refresh("token", &window, keys)
            .await
            .map_err(|error| error.to_string())
    }
}

fn base64(text: &str) -> String {
    let blob = anchorhold_kms_wire::shapes::Blob(text.as_bytes().to_vec());
    let text = serde_json::to_value(blob).expect("a string");
    text.as_str().expect("a string").to_owned()
}

fn unbase64(value: &Value) -> Vec<u8> {
    let blob: anchorhold_kms_wire::shapes::Blob =
        serde_json::from_value(value.clone()).expect("base64");
    blob.0
}

fn description() -> Value {
    serde_json::from_str(include_str!("../openapi.json")).expect("JSON")
}

/// A question for each route, with the fields of its request filled in.
fn questions() -> Vec<(String, String)> {
    let x = base64("x");
    let questions = [
        ("granted", "GET /v1/granted".to_owned()),
        (
            "attest",
            format!(
                "POST /v1/attestation {{\"nonce\":\"{x}\",\"user_data\":\"{x}\",\"public_key\":\"{x}\"}}"
            ),
        ),
        (
            "seal",
            format!("POST /v1/seal {{\"plaintext\":\"{x}\",\"context\":{{\"a\":\"b\"}}}}"),
        ),
        (
            "generateDataKey",
            "POST /v1/data-keys {\"context\":{\"a\":\"b\"}}".to_owned(),
        ),
        ("random", "GET /v1/random?bytes=16".to_owned()),
        (
            "secret",
            "GET /v1/secrets/token?after=0&wait_seconds=1".to_owned(),
        ),
        ("readPcr", "GET /v1/pcrs/16".to_owned()),
        (
            "extendPcr",
            format!("POST /v1/pcrs/16/extend {{\"data\":\"{x}\"}}"),
        ),
        ("time", "GET /v1/time".to_owned()),
    ];
    questions
        .map(|(id, question)| (id.to_owned(), question))
        .to_vec()
}

fn names(schema: &Value, what: &str) -> BTreeSet<String> {
    match &schema[what] {
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect(),
        Value::Object(names) => names.keys().cloned().collect(),
        other => panic!("{what} is {other}"),
    }
}

#[test]
fn the_description_has_the_same_requests_as_the_code() {
    let described = description();
    let mut found = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let needs = operation["x-needs"].as_str().expect("what it needs");
            found.insert((method.to_ascii_uppercase(), path.clone(), needs.to_owned()));
        }
    }
    let coded: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| {
            let needs = match route.needs {
                Needs::Nothing => "nothing".to_owned(),
                Needs::Grant(grant) => format!("grant: {}", grant.word()),
                Needs::Secret => "secrets: name".to_owned(),
                Needs::Pcr => "extend_pcrs: index".to_owned(),
            };
            (route.method.to_owned(), route.path.to_owned(), needs)
        })
        .collect();
    assert_eq!(found, coded);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_the_fields_that_requests_take_and_answers_have() {
    let stage = Stage::new(everything(), None);
    stage.secrets_are(None, "s3cret").await.expect("handed in");
    let described = description();
    let schema = |reference: &Value| {
        let name = reference["$ref"].as_str().expect("a reference");
        let name = name.rsplit('/').next().expect("a name");
        described["components"]["schemas"][name].clone()
    };
    let mut operations = BTreeMap::new();
    for methods in described["paths"].as_object().expect("paths").values() {
        for operation in methods.as_object().expect("methods").values() {
            let id = operation["operationId"].as_str().expect("a name");
            operations.insert(id.to_owned(), operation.clone());
        }
    }
    let mut questions = questions();
    // These two take what others gave.
    let sealed = stage.one("POST /v1/seal {\"plaintext\":\"eA==\"}").await.1;
    questions.push((
        "open".to_owned(),
        format!(
            "POST /v1/open {{\"message\":{},\"context\":{{}}}}",
            sealed["message"]
        ),
    ));
    let key = stage.one("POST /v1/data-keys {}").await.1;
    questions.push((
        "decryptDataKey".to_owned(),
        format!(
            "POST /v1/data-keys/decrypt {{\"ciphertext\":{},\"context\":{{}}}}",
            key["ciphertext"]
        ),
    ));
    for (id, question) in questions {
        let operation = operations.remove(&id).unwrap_or_else(|| panic!("{id}"));
        let (status, body) = stage.one(&question).await;
        assert_eq!(status, 200, "{question}: {body}");
        let answer =
            schema(&operation["responses"]["200"]["content"]["application/json"]["schema"]);
        let fields: BTreeSet<_> = body
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        assert_eq!(fields, names(&answer, "properties"), "{id}");
        assert_eq!(fields, names(&answer, "required"), "{id}");
        let Some(request) = operation.get("requestBody") else {
            continue;
        };
        let request = schema(&request["content"]["application/json"]["schema"]);
        let (target, json) = question.rsplit_once(" {").expect("a body");
        let whole: Value = serde_json::from_str(&format!("{{{json}")).expect("JSON");
        let sent: BTreeSet<_> = whole
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        assert_eq!(sent, names(&request, "properties"), "{id}");
        // What is required is missed, what is unknown is refused.
        for name in &sent {
            let mut less = whole.clone();
            less.as_object_mut().expect("an object").remove(name);
            let (status, body) = stage.one(&format!("{target} {less}")).await;
            let required = names(&request, "required").contains(name);
            assert_eq!(status == 200, !required, "{id} without {name}: {body}");
        }
        let mut more = whole.clone();
        more["surprise"] = json!(1);
        assert_eq!(stage.one(&format!("{target} {more}")).await.0, 400, "{id}");
    }
    assert!(operations.is_empty(), "not asked: {:?}", operations.keys());
    let failure = stage.one("GET /v1/nothing").await;
    let fields: BTreeSet<_> = failure
        .1
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        fields,
        names(&described["components"]["schemas"]["Failure"], "required")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_granted_is_refused_and_what_was_is_not() {
    let all = questions();
    // Each grant alone opens its own requests and no others.
    for (word, grant) in Grant::ALL {
        let granted = Granted {
            grant: [grant].into(),
            ..Granted::default()
        };
        let stage = Stage::new(granted, None);
        let asked: Vec<&str> = all.iter().map(|(_, question)| question.as_str()).collect();
        let answers = stage.job(&asked.join("\n")).await;
        assert_eq!(answers.len(), asked.len());
        for ((id, _), (status, body)) in all.iter().zip(answers) {
            let own = matches!(
                (word, id.as_str()),
                (_, "granted")
                    | ("seal", "seal")
                    | ("data-keys", "generateDataKey")
                    | ("random", "random")
                    | ("read-pcrs", "readPcr")
                    | ("time", "time")
            );
            assert_eq!(status, if own { 200 } else { 403 }, "{word} {id} {body}");
            assert!(own || body["error"] == "not_granted", "{word} {id} {body}");
        }
    }
    let granted = Granted {
        grant: [Grant::Attest].into(),
        extend_pcrs: [17].into(),
        ..Granted::default()
    };
    let stage = Stage::new(granted, None);
    stage.secrets_are(None, "s3cret").await.expect("handed in");
    let x = base64("x");
    let questions = format!(
        "POST /v1/attestation {{\"nonce\":\"{x}\"}}\nPOST /v1/attestation {{\"public_key\":\"{x}\"}}\n\
         POST /v1/pcrs/17/extend {{\"data\":\"{x}\"}}\nPOST /v1/pcrs/16/extend {{\"data\":\"{x}\"}}\n\
         GET /v1/secrets/token\nGET /v1/secrets/no-such"
    );
    let answers = stage.job(&questions).await;
    let statuses: Vec<_> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 403, 200, 403, 403, 403]);
    assert_eq!(
        answers[4].1, answers[5].1,
        "a secret of others looks like none"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_process_of_the_job_is_not_heard() {
    let stage = Stage::new(everything(), None);
    let socket = stage.socket();
    // This process is the runtime: of the right user perhaps, and not of the job.
    let answers =
        tokio::task::spawn_blocking(move || ask(&socket, "GET /v1/random\nGET /v1/granted"))
            .await
            .expect("no panic");
    for (status, body) in answers {
        assert_eq!(status, 403, "{body}");
        assert!(body.contains("identity"), "{body}");
    }
    assert_eq!(stage.one("GET /v1/granted").await.0, 200);
    assert_eq!(
        stage.one("heir").await.0,
        200,
        "the job's own children are the job"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_floods_the_socket_gets_its_turn_and_no_more() {
    let stage = Stage::new(everything(), None);
    let (status, body) = stage.one("flood").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(unbase64(&body["bytes"]).len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_opened_and_sealed_and_never_the_runtimes_own() {
    let stage = Stage::new(everything(), None);
    let context = support::context();
    let sealed = stage.owner.seal(b"from the owner", context.clone());
    let message = serde_json::to_value(anchorhold_kms_wire::shapes::Blob(sealed)).expect("text");
    let (status, body) = stage
        .one(&format!(
            "POST /v1/open {{\"message\":{message},\"context\":{{\"purpose\":\"test\"}}}}"
        ))
        .await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(unbase64(&body["plaintext"]), b"from the owner");
    assert_eq!(body["context"], json!({"purpose": "test"}));
    let (status, body) = stage
        .one(&format!(
            "POST /v1/open {{\"message\":{message},\"context\":{{\"purpose\":\"other\"}}}}"
        ))
        .await;
    assert_eq!(status, 400, "{body}");
    let text = base64("to the owner");
    let (_, body) = stage
        .one(&format!(
            "POST /v1/seal {{\"plaintext\":\"{text}\",\"context\":{{\"purpose\":\"test\"}}}}"
        ))
        .await;
    let (_, plaintext) = stage
        .owner
        .open(&unbase64(&body["message"]))
        .expect("it opens");
    assert_eq!(plaintext, b"to the owner");
    // A secret that the manifest does not give it, handed to it by a helpful parent.
    let secret = BTreeMap::from([
        ("anchorhold:kind".to_owned(), "secret".to_owned()),
        ("anchorhold:secret".to_owned(), "other".to_owned()),
    ]);
    let sealed = stage.owner.seal(b"hunter2", secret);
    let message = serde_json::to_value(anchorhold_kms_wire::shapes::Blob(sealed)).expect("text");
    let own = base64("anchorhold:tls");
    let kind = "{\"anchorhold:kind\":\"secret\"}";
    for question in [
        format!("POST /v1/open {{\"message\":{message}}}"),
        format!("POST /v1/seal {{\"plaintext\":\"eA==\",\"context\":{kind}}}"),
        format!("POST /v1/data-keys {{\"context\":{kind}}}"),
        format!("POST /v1/data-keys/decrypt {{\"ciphertext\":\"eA==\",\"context\":{kind}}}"),
        format!("POST /v1/attestation {{\"user_data\":\"{own}\"}}"),
    ] {
        let (status, body) = stage.one(&question).await;
        assert_eq!(status, 400, "{question}: {body}");
        assert!(
            body["message"]
                .as_str()
                .is_some_and(|text| text.contains("anchorhold:"))
        );
    }
    let mut damaged = stage.owner.seal(b"x", context);
    *damaged.last_mut().expect("bytes") ^= 1;
    let message = serde_json::to_value(anchorhold_kms_wire::shapes::Blob(damaged)).expect("text");
    let (status, body) = stage
        .one(&format!("POST /v1/open {{\"message\":{message}}}"))
        .await;
    assert_eq!((status, &body["error"]), (400, &json!("message")));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_come_back_as_they_were() {
    let stage = Stage::new(everything(), None);
    let (_, key) = stage
        .one("POST /v1/data-keys {\"context\":{\"a\":\"b\"}}")
        .await;
    assert_eq!(unbase64(&key["plaintext"]).len(), 32);
    let ciphertext = &key["ciphertext"];
    let question = format!(
        "POST /v1/data-keys/decrypt {{\"ciphertext\":{ciphertext},\"context\":{{\"a\":\"b\"}}}}"
    );
    assert_eq!(stage.one(&question).await.1["plaintext"], key["plaintext"]);
    let (status, body) = stage.one(&question.replace("\"b\"", "\"c\"")).await;
    assert_eq!((status, &body["error"]), (502, &json!("keys")));
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_data_keys_save_calls_and_never_cross_contexts() {
    let stage = Stage::new(everything(), Some(DataKeyCache::default()));
    let seal = |context: &str| {
        format!("POST /v1/seal {{\"plaintext\":\"eA==\",\"context\":{{\"a\":\"{context}\"}}}}")
    };
    let questions = format!("{}\n{}\n{}\n{}", seal("1"), seal("1"), seal("2"), seal("1"));
    let answers = stage.job(&questions).await;
    let keys: Vec<_> = answers
        .iter()
        .map(|(_, body)| {
            let message = unbase64(&body["message"]);
            let (header, plaintext) = stage.owner.open(&message).expect("it opens");
            assert_eq!(plaintext, b"x");
            header.data_keys()[0].ciphertext.clone()
        })
        .collect();
    assert!(keys[0] == keys[1] && keys[0] == keys[3] && keys[0] != keys[2]);
    let standing = || {
        stage
            .api
            .keys
            .as_ref()
            .expect("keys")
            .cache()
            .expect("a cache")
            .standing()
    };
    assert_eq!((standing().calls_saved, standing().calls_made), (2, 2));
    let message = &answers[0].1["message"];
    let open = format!("POST /v1/open {{\"message\":{message}}}");
    for _ in 0..2 {
        assert_eq!(stage.one(&open).await.0, 200);
    }
    assert_eq!((standing().calls_saved, standing().calls_made), (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_rotated_for_those_who_ask_and_never_set_back() {
    let stage = Stage::new(everything(), None);
    let (status, body) = stage.one("GET /v1/secrets/token").await;
    assert_eq!(
        (status, &body["error"]),
        (502, &json!("secret")),
        "none was handed in yet"
    );
    stage
        .secrets_are(Some(1), "first")
        .await
        .expect("handed in");
    let (_, body) = stage.one("GET /v1/secrets/token").await;
    let (version, value) = (&body["version"], unbase64(&body["value"]));
    assert_eq!((version, value.as_slice()), (&json!(1), &b"first"[..]));
    // One waits for the next, while it is handed in.
    let waiting = stage.one("GET /v1/secrets/token?after=1&wait_seconds=60");
    let handing = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stage.secrets_are(Some(2), "second").await.expect("newer");
    };
    let ((_, body), ()) = tokio::join!(waiting, handing);
    assert_eq!(
        (&body["version"], unbase64(&body["value"])),
        (&json!(2), b"second".to_vec())
    );
    for older in [Some(1), Some(2), None] {
        let error = stage
            .secrets_are(older, "set back")
            .await
            .expect_err("older");
        assert!(error.contains("older"), "{error}");
    }
    let (_, body) = stage.one("GET /v1/secrets/token").await;
    assert_eq!(unbase64(&body["value"]), b"second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_environment_is_there_and_nowhere_else() {
    let stage = Stage::new(Granted::default(), None);
    stage.secrets_are(None, "s3cret").await.expect("handed in");
    let answers = stage.job("GET /v1/secrets/variable").await;
    assert_eq!(answers[0].0, 403);
    assert_eq!(answers[1], (0, json!("s3cret")));
    let files = std::fs::read_dir(stage.folder.path()).expect("a folder");
    let names: BTreeSet<_> = files
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        !names.contains("variable") && !names.contains("token"),
        "{names:?}"
    );
    assert!(Path::new(stage.program.path()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_asks_all_that_there_is() {
    let stage = Stage::new(everything(), None);
    stage.secrets_are(None, "s3cret").await.expect("handed in");
    assert_eq!(stage.job("client").await, [(0, json!("done"))]);
}

/// A client in another language, run as the job by an interpreter of the machine.
async fn checks(interpreter: &str, check: &str) {
    if !Path::new(interpreter).exists() {
        let _ = writeln!(
            std::io::stderr(),
            "\nNO {interpreter}: {check} is not tested here\n"
        );
        assert_ne!(
            std::env::var("CI").as_deref(),
            Ok("true"),
            "CI has {interpreter}"
        );
        return;
    }
    let stage = Stage::new(everything(), None);
    stage.secrets_are(None, "s3cret").await.expect("handed in");
    let check = format!("{}/clients/{check}", env!("CARGO_MANIFEST_DIR"));
    let answers = stage
        .program(&support::words(&[interpreter, &check]), "")
        .await;
    assert_eq!(answers, [(0, json!("done"))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_asks_all_that_there_is() {
    checks("/usr/bin/python3", "python/check.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_client_asks_all_that_there_is() {
    checks("/usr/bin/node", "node/check.mjs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_whole_or_not_sane_are_refused_by_name() {
    let stage = Stage::new(everything(), None);
    for (question, status) in [
        ("POST /v1/seal not-json", 400),
        ("POST /v1/seal {\"plaintext\":\"%%\"}", 400),
        ("POST /v1/seal {\"plaintext\":7}", 400),
        ("POST /v1/seal", 400),
        ("GET /v1/time {}", 400),
        ("GET /v1/random?bytes=65537", 400),
        ("GET /v1/random?bytes=-1", 400),
        ("GET /v1/random?size=1", 400),
        ("GET /v1/pcrs/0", 400),
        ("GET /v1/pcrs/8", 400),
        ("POST /v1/pcrs/32/extend {\"data\":\"eA==\"}", 400),
        ("POST /v1/pcrs/16/extend {\"data\":\"\"}", 400),
        ("DELETE /v1/time", 405),
        ("GET /", 404),
        ("GET /v2/time", 404),
        ("GET http://elsewhere/v1/time", 200),
        ("POST /v1/open {\"message\":\"AA==\"}", 400),
    ] {
        let (found, body) = stage.one(question).await;
        assert_eq!(found, status, "{question}: {body}");
    }
}
