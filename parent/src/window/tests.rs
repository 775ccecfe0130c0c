//! The window as an enclave sees it, over real Unix sockets and loopback TCP.

use super::*;

use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Served {
    _dir: tempfile::TempDir,
    path: PathBuf,
    window: Arc<Window>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Served {
    fn start(config: WindowConfig, resolve: Resolve) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::from_std(bind(dir.path(), 8000).unwrap()).unwrap();
        let window = Window::with_resolver(config, resolve);
        let server = tokio::spawn(window.clone().serve(listener));
        Self {
            window,
            path: socket(dir.path(), 8000),
            _dir: dir,
            server,
        }
    }

    fn new(config: WindowConfig) -> Self {
        Self::start(config, resolve::system_resolver())
    }

    async fn dial(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    /// Sends a request and reads the whole answer.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.dial().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: parent\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    async fn connect(&self, target: &str) -> (UnixStream, String) {
        let mut stream = self.dial().await;
        let request =
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        (stream, head)
    }
}

async fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn leading_to(listener: &TcpListener) -> WindowConfig {
    let address = listener.local_addr().unwrap().to_string();
    WindowConfig {
        allowlist: Allowlist::parse([address.as_str()]).unwrap(),
        ..WindowConfig::default()
    }
}

fn resolving_to(addresses: &'static [&'static str]) -> Resolve {
    Arc::new(|_| {
        let found = resolve::Found {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            by_this_host: true,
        };
        Box::pin(async move { Ok(found) })
    })
}

#[tokio::test]
async fn by_default_the_window_leads_nowhere_and_names_what_it_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let served = Served::new(WindowConfig::default());
    let answer = served
        .ask(&format!(
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let body: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["error"], "target-refused");
    assert_eq!(body["target"], target);
    assert!(body["message"].as_str().unwrap().contains(&target));
}

#[tokio::test]
async fn both_the_host_and_the_measured_manifest_must_permit_a_target() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = format!("127.0.0.1:{port}");
    let network = format!("127.0.0.0/8:{port}");
    let other = "127.0.0.1:1";
    for (host, measured, status, reason) in [
        (&*network, Some(&*target), "200", None),
        (&*target, Some(&*network), "200", None),
        (&*target, None, "200", None),
        (&*target, Some(other), "403", Some("manifest")),
        (other, Some(&*target), "403", Some("host-list")),
    ] {
        let config = WindowConfig {
            allowlist: Allowlist::parse([host]).unwrap(),
            measured: measured.map(|entry| Allowlist::parse([entry]).unwrap()),
            ..WindowConfig::default()
        };
        let served = Served::new(config);
        let (_, head) = served.connect(&target).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{host} and {measured:?}: {head}"
        );
        let refused: Vec<_> = served.window.counts().refused.into_keys().collect();
        assert_eq!(refused, Vec::from_iter(reason));
    }
}

#[tokio::test]
async fn a_new_allowlist_is_for_new_flows_and_touches_no_running_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let served = Served::new(leading_to(&listener));
    let (mut stream, _) = served.connect(&target).await;
    let (mut remote, _) = listener.accept().await.unwrap();
    served.window.allow(Allowlist::nothing());
    let (_, head) = served.connect(&target).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    stream.write_all(b"still").await.unwrap();
    remote.read_exact(&mut [0; 5]).await.unwrap();
    let counts = served.window.counts();
    assert_eq!((counts.flows, counts.flows_open), (1, 1));
    assert_eq!(counts.bytes_from_enclave, 5);
}

#[tokio::test]
async fn a_permitted_target_is_relayed_with_half_close_and_early_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let served = Served::new(leading_to(&listener));
    let remote = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        // Only now, after the enclave has finished, does the remote speak.
        stream.write_all(&received).await.unwrap();
        stream.write_all(b"end").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut more = [0];
        assert_eq!(stream.read(&mut more).await.unwrap(), 0);
        received.len()
    });

    let payload: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let mut stream = served.dial().await;
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nearly ");
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream.write_all(&payload).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, [b"early ", payload.as_slice(), b"end"].concat());
    assert_eq!(remote.await.unwrap(), payload.len() + 6);
}

#[tokio::test]
async fn a_remote_that_finishes_first_leaves_the_enclave_sending() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let served = Served::new(leading_to(&listener));
    let (mut stream, head) = served.connect(&target).await;
    assert!(head.starts_with("HTTP/1.1 200 "));
    let (mut remote, _) = listener.accept().await.unwrap();
    remote.write_all(b"bye").await.unwrap();
    remote.shutdown().await.unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"bye");
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    remote.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"still here");
}

#[tokio::test]
async fn a_permitted_name_that_resolves_to_metadata_is_refused() {
    let allowlist =
        Allowlist::parse(["kms.example:80", "169.254.169.254:80", "[fd00:ec2::254]:80"]);
    for addresses in [
        &["169.254.169.254"][..],
        &["fd00:ec2::254"],
        &["fe80::1"],
        &["::ffff:169.254.169.254", "169.254.170.2"],
    ] {
        let config = WindowConfig {
            allowlist: allowlist.clone().unwrap(),
            ..WindowConfig::default()
        };
        let served = Served::start(config, resolving_to(addresses));
        for target in ["kms.example:80", "169.254.169.254:80", "[fd00:ec2::254]:80"] {
            let (_, head) = served.connect(target).await;
            assert!(head.starts_with("HTTP/1.1 403 "), "{target}: {head}");
        }
    }
}

#[tokio::test]
async fn among_several_addresses_only_permitted_ones_are_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = format!("kms.example:{port}");
    let config = WindowConfig {
        allowlist: Allowlist::parse([target.as_str()]).unwrap(),
        ..WindowConfig::default()
    };
    // Nothing listens at ::1 on this port, so that the second permitted address has its turn.
    let served = Served::start(
        config,
        resolving_to(&["169.254.169.254", "::1", "127.0.0.1"]),
    );
    let (_, head) = served.connect(&target).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    listener.accept().await.unwrap();
}

#[tokio::test]
async fn a_target_that_cannot_be_reached_is_not_called_refused() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = closed.local_addr().unwrap().to_string();
    let served = Served::new(leading_to(&closed));
    drop(closed);
    let (_, head) = served.connect(&target).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");

    let never: Resolve = Arc::new(|_| Box::pin(std::future::pending()));
    let config = WindowConfig {
        allowlist: Allowlist::parse(["kms.example:80"]).unwrap(),
        limits: Limits {
            connect: Duration::from_millis(20),
            ..Limits::default()
        },
        ..WindowConfig::default()
    };
    let served = Served::start(config, never);
    let (_, head) = served.connect("kms.example:80").await;
    assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
}

#[tokio::test]
async fn odd_targets_are_refused_in_their_own_words() {
    let served = Served::new(WindowConfig::default());
    for target in [
        "user@kms.example:80",
        "kms.example:99999",
        "2130706433:80",
        "kms.example",
    ] {
        let (_, head) = served.connect(target).await;
        assert!(head.starts_with("HTTP/1.1 4"), "{target}: {head}");
    }
}

#[tokio::test]
async fn an_idle_relay_is_closed_and_a_busy_one_is_not() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let mut config = leading_to(&listener);
    config.limits.idle = Duration::from_millis(1500);
    let served = Served::new(config);
    let (mut stream, _) = served.connect(&target).await;
    let (mut remote, _) = listener.accept().await.unwrap();
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_u8(1).await.unwrap();
        assert_eq!(remote.read_u8().await.unwrap(), 1);
    }
    let since = std::time::Instant::now();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(since.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_their_turn() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let mut config = leading_to(&listener);
    config.limits.connections = 2;
    let served = Served::new(config);
    let first = served.connect(&target).await;
    let _second = served.connect(&target).await;
    let mut third = Box::pin(served.connect(&target));
    assert!(
        tokio::time::timeout(Duration::from_millis(100), &mut third)
            .await
            .is_err()
    );
    drop(first);
    // The relay ends when the remote has finished as well.
    drop(listener.accept().await.unwrap());
    let (_, head) = tokio::time::timeout(Duration::from_secs(5), third)
        .await
        .unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn half_open_flows_and_floods_of_a_hostile_enclave_end_and_leave_their_places() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let mut config = leading_to(&listener);
    config.limits.connections = 4;
    config.limits.idle = Duration::from_millis(150);
    config.limits.head = Duration::from_millis(150);
    let served = Served::new(config);
    // Half of them ask for a flow, finish one side and never the other; the rest say nothing, or half a word.
    let mut held = Vec::new();
    for at in 0..40 {
        let mut stream = served.dial().await;
        let request = match at % 4 {
            0 | 1 => format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n"),
            2 => String::new(),
            _ => "CONNECT ".to_owned(),
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        if at % 4 == 1 {
            stream.shutdown().await.unwrap();
        }
        held.push(stream);
    }
    tokio::spawn(async move {
        loop {
            let (mut remote, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut said = [0; 6];
                if remote.read_exact(&mut said).await.is_ok() {
                    let _ = remote.write_all(&said).await;
                }
            });
        }
    });
    // What is honest comes after all of them, and has its turn. (Again, where this machine was slower than the idle time.)
    loop {
        let (mut stream, head) = served.connect(&target).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut said = [0; 6];
        let sent = stream.write_all(b"honest").await;
        if sent.is_ok() && stream.read_exact(&mut said).await.is_ok() {
            assert_eq!(&said, b"honest");
            break;
        }
    }
    let counts = served.window.counts();
    assert!(counts.flows_open <= 4);
    assert!(counts.refused["idle"] > 0, "{counts:?}");
    drop(held);
}

#[tokio::test]
async fn a_request_that_never_ends_or_is_too_large_is_shed() {
    let mut config = WindowConfig::default();
    config.limits.head = Duration::from_millis(100);
    let served = Served::new(config);
    let mut slow = served.dial().await;
    slow.write_all(b"GET /credentials HTTP/1.1\r\nHost: par")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), slow.read_to_end(&mut rest));
    read.await.unwrap().unwrap();

    let mut large = served.dial().await;
    let filler = "a".repeat(200_000);
    let _ = large
        .write_all(format!("GET / HTTP/1.1\r\nX: {filler}\r\n\r\n").as_bytes())
        .await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), large.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn credentials_and_secrets_are_handed_in_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("credentials.json");
    std::fs::write(
        &file,
        r#"{"AccessKeyId":"AKID","SecretAccessKey":"s3cret"}"#,
    )
    .unwrap();
    let secrets = BTreeMap::from([(
        "key".to_owned(),
        SecretSource::Bytes(vec![7; LARGEST_SECRET]),
    )]);
    let served = Served::new(WindowConfig {
        credentials: Credentials::open(&CredentialsSource::File(file.clone())).unwrap(),
        secrets: SealedSecrets::load(&secrets).unwrap(),
        ..WindowConfig::default()
    });

    let answer = served.get("/credentials").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.ends_with(r#"{"AccessKeyId":"AKID","SecretAccessKey":"s3cret"}"#),
        "{answer}"
    );
    let answer = served.get("/secrets/key").await;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    assert_eq!(answer.matches('\u{7}').count(), LARGEST_SECRET);

    for path in [
        "/",
        "/secrets",
        "/secrets/",
        "/secrets/other",
        "/secrets/../credentials",
        "/secrets/%6bey",
        "/secrets//key",
        "/credentials/",
        "/health",
    ] {
        let answer = served.get(path).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    let answer = served
        .ask("POST /credentials HTTP/1.1\r\nHost: p\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");

    std::fs::remove_file(file).unwrap();
    let answer = served.get("/credentials").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    let none = Served::new(WindowConfig::default());
    assert!(none.get("/credentials").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn all_that_passes_the_window_is_recorded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let mut config = leading_to(&listener);
    config.recorder = Some(Recorder::create(dir.path()).unwrap());
    let served = Served::new(config);
    let (mut stream, _) = served.connect(&target).await;
    let (mut remote, _) = listener.accept().await.unwrap();
    stream.write_all(b"from the enclave").await.unwrap();
    remote.read_exact(&mut [0; 16]).await.unwrap();
    remote.write_all(b"to the enclave").await.unwrap();
    stream.read_exact(&mut [0; 14]).await.unwrap();
    served.get("/credentials").await;

    let mut seen = String::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        seen += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    for part in [
        "CONNECT 127.0.0.1",
        "from the enclave",
        "to the enclave",
        "no-credentials",
    ] {
        assert!(seen.contains(part), "{part}");
    }
}
