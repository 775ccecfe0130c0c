//! Jobs that answer requests: started, found ready, limited and started again, with real processes behind walls.
//!
//! The job is this very program, which is told so by the runtime's variable.

mod support;

#[path = "../../tests/whole/odd-job/src/serve.rs"]
mod serve;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anchorhold_enclave::isolation::{Confinement, Terms};
use anchorhold_enclave::jobs::{Launcher, Stderr};
use anchorhold_enclave::reaper::{Exit, Orphans, Reaper};
use anchorhold_enclave::service::{self, Ended, Place, Service, ServiceError};
use anchorhold_manifest::{Http, JOB_PORT_VARIABLE, JOB_SOCKET_VARIABLE, Restart};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

const START: &str = "ANCHORHOLD_TEST_START";

/// The job's part. As one of the tests it does nothing.
#[test]
fn as_a_job() {
    let variables = [JOB_SOCKET_VARIABLE, JOB_PORT_VARIABLE];
    let place = variables.iter().find_map(|name| std::env::var(name).ok());
    if let (Some(place), Ok(start)) = (place, std::env::var(START)) {
        serve::serve(&place, &start);
    }
}

struct Stage {
    service: Arc<Service>,
    launcher: Arc<Launcher>,
    folder: tempfile::TempDir,
    keeping: Option<JoinHandle<Ended>>,
    _program: support::Program,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(keeping) = &self.keeping {
            keeping.abort();
        }
    }
}

impl Stage {
    async fn new(start: &str, http: Http) -> Stage {
        Stage::within(start, http, Duration::from_mins(2)).await
    }

    async fn within(start: &str, http: Http, request_timeout: Duration) -> Stage {
        let mut stage = Stage::prepared(start, http, request_timeout);
        let (service, launcher) = (Arc::clone(&stage.service), Arc::clone(&stage.launcher));
        stage.keeping = Some(tokio::spawn(async move { service.keep(&launcher).await }));
        tokio::task::yield_now().await;
        stage
    }

    fn prepared(start: &str, http: Http, request_timeout: Duration) -> Stage {
        let folder = tempfile::tempdir().expect("a temporary folder");
        open_to_jobs(folder.path(), 0o711);
        let socket = folder.path().join("job/http.sock");
        let sockets = service::make_folder(&socket).expect("a folder");
        let program = support::Program::of_this_test();
        let command = program.command("as_a_job");
        let (variable, said, place) = match http.port {
            Some(port) => (JOB_PORT_VARIABLE, port.to_string(), Place::Port(port)),
            None => (
                JOB_SOCKET_VARIABLE,
                socket.to_str().expect("text").to_owned(),
                Place::Socket(socket),
            ),
        };
        let terms = Terms {
            environment: [
                (variable.to_owned(), said),
                (START.to_owned(), start.to_owned()),
            ]
            .into(),
            sockets: http.port.is_none().then(|| sockets.clone()),
            port: http.port,
            ..support::isolation_terms(command, &folder.path().join("scratch"))
        };
        let confinement = Confinement::prepare(&terms).expect("walls can be put up");
        if let Some((uid, gid)) = confinement.job_owner() {
            std::os::unix::fs::chown(&sockets, Some(uid), Some(gid)).expect("root may");
        }
        let launcher = Arc::new(Launcher::new(
            confinement,
            Reaper::start(Orphans::Leave).expect("signals work"),
            Stderr::Forward,
            None,
        ));
        let terms = service::Terms {
            place,
            http,
            request_timeout,
        };
        Stage {
            service: Service::new(&launcher, terms),
            launcher,
            folder,
            keeping: None,
            _program: program,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("job/http.sock")
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> (StatusCode, Vec<u8>) {
        let answer = self.service.answer(request).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a whole answer");
        (status, body.to_bytes().to_vec())
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let (status, body) = self.ask(get(path)).await;
        (status, String::from_utf8(body).expect("text"))
    }

    /// Waits for something that comes about by itself.
    async fn until(&self, what: impl Fn(service::Standing) -> bool) {
        while !what(self.service.standing()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ended(mut self) -> Ended {
        let keeping = self.keeping.take().expect("it is kept");
        keeping.await.expect("the keeper does not panic")
    }
}

fn open_to_jobs(folder: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).expect("our own");
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).body(Full::default()).expect("a request")
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path)
        .body(Full::new(body.into()))
        .expect("a request")
}

fn ended_with(ended: &Ended, exit: Exit) -> bool {
    matches!(ended, Ended::Job(found) if *found == exit)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_answers_what_it_is_asked() {
    let stage = Stage::new("", Http::default()).await;
    assert_eq!(
        stage.ask(post("/echo", "plain")).await,
        (StatusCode::OK, b"plain".to_vec())
    );
    let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (status, echoed) = stage.ask(post("/echo", large.clone())).await;
    assert_eq!(status, StatusCode::OK);
    assert!(echoed == large, "a large body comes back as it was");
    // One after another, they share a connection.
    let (_, before) = stage.get("/connections").await;
    for _ in 0..20 {
        stage.get("/echo").await;
    }
    let (_, after) = stage.get("/connections").await;
    let opened = after.parse::<i32>().expect("a count") - before.parse::<i32>().expect("a count");
    assert!(opened < 20, "{opened} connections for 20 requests");
    assert_eq!(stage.service.standing().starts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_until_the_job_is_ready() {
    // Nothing is kept yet when the request is made.
    let mut stage = Stage::prepared("", Http::default(), Duration::from_mins(2));
    let service = Arc::clone(&stage.service);
    let early = tokio::spawn(async move { service.answer(get("/bytes/3")).await.status() });
    tokio::task::yield_now().await;
    let (service, launcher) = (Arc::clone(&stage.service), Arc::clone(&stage.launcher));
    stage.keeping = Some(tokio::spawn(async move { service.keep(&launcher).await }));
    assert_eq!(early.await.expect("no panic"), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_says_it_is_not_ready_gets_no_requests() {
    let http = Http {
        ready_path: Some("/ready".to_owned()),
        ..Http::default()
    };
    let stage = Stage::new("unready", http).await;
    let mut direct = loop {
        match tokio::net::UnixStream::connect(stage.socket()).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert!(!stage.service.standing().ready, "it listens, and says 503");
    direct
        .write_all(b"GET /become-ready HTTP/1.1\r\n\r\n")
        .await
        .expect("it listens");
    stage.until(|standing| standing.ready).await;
    assert_eq!(stage.get("/ready").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_does_not_get_ready_in_time_is_ended() {
    let http = Http {
        ready_seconds: 1,
        restart: Restart::Never,
        ..Http::default()
    };
    let stage = Stage::new("deaf", http).await;
    let ended = stage.ended().await;
    assert!(ended_with(&ended, Exit::Signal(libc::SIGKILL)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_is_started_again() {
    let stage = Stage::new("", Http::default()).await;
    for round in 1..=3 {
        stage
            .until(|standing| standing.ready && standing.starts == round)
            .await;
        assert_eq!(stage.get("/exit/3").await.0, StatusCode::BAD_GATEWAY);
    }
    stage.until(|standing| standing.starts == 4).await;
    assert_eq!(stage.get("/bytes/2").await.1, "xx");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_says_whether_it_is_started_again() {
    for (restart, start, code) in [
        (Restart::Never, "exit 3", 3),
        (Restart::Never, "exit 0", 0),
        (Restart::OnFailure, "exit 0", 0),
    ] {
        let http = Http {
            restart,
            ..Http::default()
        };
        let stage = Stage::new(start, http).await;
        let service = Arc::clone(&stage.service);
        let ended = stage.ended().await;
        assert!(ended_with(&ended, Exit::Code(code)), "{ended:?}");
        assert!(matches!(service.connect().await, Err(ServiceError::Ended)));
        assert_eq!(service.standing().starts, 1);
    }
    let http = Http {
        restart: Restart::OnFailure,
        ..Http::default()
    };
    let stage = Stage::new("exit 3", http).await;
    stage.until(|standing| standing.starts > 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_is_not_tried_again() {
    let folder = support::scratch();
    let launcher = support::launcher(
        support::words(&["/no/such/program"]),
        folder.path(),
        Stderr::Drop,
    );
    let terms = service::Terms {
        place: Place::Socket(folder.path().join("http.sock")),
        http: Http::default(),
        request_timeout: Duration::from_mins(1),
    };
    let service = Service::new(&launcher, terms);
    assert!(matches!(service.keep(&launcher).await, Ended::Spawn(_)));
    assert!(matches!(service.connect().await, Err(ServiceError::Ended)));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_limit_are_turned_away_and_places_come_back() {
    let http = Http {
        max_requests: 2,
        ..Http::default()
    };
    let stage = Stage::new("", http).await;
    stage.until(|standing| standing.ready).await;
    let held = [
        stage.service.answer(get("/drip")).await,
        stage.service.answer(get("/drip")).await,
    ];
    assert!(held.iter().all(|answer| answer.status() == StatusCode::OK));
    let (status, body) = stage.get("/bytes/1").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("\"busy\""), "{body}");
    assert_eq!(stage.service.standing().turned_away, 1);
    // Nobody reads them any more.
    drop(held);
    assert_eq!(stage.get("/bytes/1").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_beyond_their_limits_are_refused() {
    let http = Http {
        max_header_bytes: 8192,
        max_body_bytes: 1000,
        ..Http::default()
    };
    let stage = Stage::new("", http).await;
    let mut request = get("/head");
    request
        .headers_mut()
        .insert("x-long", "x".repeat(8192).parse().expect("a value"));
    assert_eq!(
        stage.ask(request).await.0,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    assert_eq!(
        stage.get(&format!("/{}", "x".repeat(8192))).await.0,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    assert_eq!(
        stage.ask(post("/echo", vec![1; 1000])).await.0,
        StatusCode::OK
    );
    assert_eq!(
        stage.ask(post("/echo", vec![1; 1001])).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    // Without a length that says so beforehand.
    let pieces = (0..11).map(|_| Ok(Bytes::from(vec![1; 100]))).collect();
    let request = Request::post("/echo")
        .body(support::body(pieces))
        .expect("a request");
    let answer = stage.service.answer(request).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_an_end_whatever_the_job_does() {
    let stage = Stage::within("", Http::default(), Duration::from_secs(1)).await;
    stage.until(|standing| standing.ready).await;
    assert_eq!(stage.get("/hang").await.0, StatusCode::GATEWAY_TIMEOUT);
    // It answers for ever, a little at a time.
    let answer = stage.service.answer(get("/drip")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let (_, end) = support::collect(answer.into_body()).await;
    assert_eq!(
        end.expect_err("it is cut off").kind(),
        io::ErrorKind::TimedOut
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_never_taken_for_whole() {
    let stage = Stage::new("", Http::default()).await;
    assert_eq!(stage.get("/garbage").await.0, StatusCode::BAD_GATEWAY);
    let answer = stage.service.answer(get("/cut")).await;
    let (bytes, end) = support::collect(answer.into_body()).await;
    assert!(end.is_err() && bytes.len() < 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_job_has_closed_costs_no_request() {
    let stage = Stage::new("", Http::default()).await;
    for _ in 0..20 {
        assert_eq!(
            stage.get("/close").await,
            (StatusCode::OK, "closed".to_owned())
        );
    }
    // An answer may also come before the body was taken.
    for _ in 0..20 {
        let (status, _) = stage.ask(post("/early", vec![1; 200_000])).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(stage.get("/bytes/4").await.1, "xxxx");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_the_connection_and_of_the_runtime_are_not_passed_on() {
    let stage = Stage::new("", Http::default()).await;
    let request = Request::post("https://cards.example/head?x=1")
        .header("host", "another.example")
        .header("connection", "x-private, host")
        .header("x-private", "1")
        .header("x-anchorhold-peer", "forged")
        .header("content-length", "3")
        .header("te", "trailers")
        .header("x-own", "kept")
        .body(Full::new(Bytes::from_static(b"abc")))
        .expect("a request");
    let (status, head) = stage.ask(request).await;
    assert_eq!(status, StatusCode::OK);
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    assert!(head.starts_with("post /head?x=1 http/1.1\r\n"), "{head}");
    assert!(head.contains("host: cards.example\r\n"), "{head}");
    assert!(head.contains("x-own: kept"), "{head}");
    assert_eq!(head.matches("content-length: 3\r\n").count(), 1, "{head}");
    for gone in ["x-private", "x-anchorhold", "another.example", "te:"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
    let answer = stage.service.answer(get("/hop")).await;
    assert!(answer.headers().contains_key("x-own"));
    assert!(!answer.headers().contains_key("x-private"));
    let connect = Request::connect("example:443")
        .body(Full::default())
        .expect("a request");
    assert_eq!(stage.ask(connect).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_the_place_of_the_socket_leads_to_nobody_else() {
    // A socket of the runtime's own, which the job cannot connect to itself and would have the runtime connect to.
    let folder = support::scratch();
    let own = folder.path().join("own.sock");
    let listener = tokio::net::UnixListener::bind(&own).expect("a socket");
    let start = format!("elsewhere {}", own.display());
    let http = Http {
        ready_seconds: 1,
        restart: Restart::Never,
        ..Http::default()
    };
    let stage = Stage::new(&start, http).await;
    let link = stage.socket();
    let ended = stage.ended().await;
    assert!(ended_with(&ended, Exit::Signal(libc::SIGKILL)), "{ended:?}");
    // Where there is Landlock the link cannot even be made. Where there is none, it was followed, and nothing was sent.
    if link.is_symlink() {
        let (mut stream, _) = listener.accept().await.expect("it was followed");
        let mut heard = Vec::new();
        stream
            .read_to_end(&mut heard)
            .await
            .expect("it was dropped");
        assert!(heard.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runtime_itself_is_never_taken_for_the_job() {
    let stage = Stage::prepared("", Http::default(), Duration::from_mins(1));
    let _listener = tokio::net::UnixListener::bind(stage.socket()).expect("a socket");
    let (service, launcher) = (Arc::clone(&stage.service), Arc::clone(&stage.launcher));
    // The keeper removes what an earlier job left; this one stays in the place that it dials.
    drop(launcher);
    assert!(matches!(service.dial().await, Err(ServiceError::NotTheJob)));
}

/// A port that was free a moment ago. Each test starts looking elsewhere.
fn free_port(from: u16) -> u16 {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (from..from + 500).find(is_free).expect("a free port")
}

fn on_port(port: u16) -> Http {
    Http {
        port: Some(port),
        ..Http::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_may_listen_on_a_loopback_port_and_is_started_again_there() {
    let stage = Stage::new("", on_port(free_port(20_000))).await;
    let large: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    for round in 1..=3 {
        stage
            .until(|standing| standing.ready && standing.starts == round)
            .await;
        let (status, echoed) = stage.ask(post("/echo", large.clone())).await;
        assert_eq!(status, StatusCode::OK);
        assert!(echoed == large, "a large body comes back as it was");
        // Not with GET, which is asked again of the next one.
        let (status, _) = stage.ask(post("/exit/3", "now")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_port_gets_that_port_and_nothing_else_of_the_network() {
    let port = free_port(21_000);
    let stage = Stage::new("", on_port(port)).await;
    stage.until(|standing| standing.ready).await;
    let another = free_port(22_000);
    let (status, said) = stage.get(&format!("/network/{another}")).await;
    assert_eq!(status, StatusCode::OK);
    for refused in [
        "datagrams: permission denied",
        "version 6: permission denied",
    ] {
        assert!(said.contains(refused), "{said}");
    }
    // Whom else the job could reach on this interface, and where else it could wait for somebody.
    if landlock_knows_ports() {
        for refused in ["listen: permission denied", "connect: permission denied"] {
            assert!(said.contains(refused), "{said}");
        }
        // Not even itself.
        let (_, said) = stage.get(&format!("/network/{port}")).await;
        assert!(said.contains("connect: permission denied"), "{said}");
    }
    // One that listens on a socket has no network at all.
    let stage = Stage::new("", Http::default()).await;
    let (_, said) = stage.get(&format!("/network/{another}")).await;
    assert_eq!(said.matches("permission denied").count(), 4, "{said}");
}

fn landlock_knows_ports() -> bool {
    let version = anchorhold_enclave::sys::landlock_version();
    let knows = version.is_some_and(|landlock| landlock.version >= 4);
    if !knows {
        let words = "NOT TESTED: this kernel's Landlock has no rules for ports\n";
        let _ = io::Write::write_all(&mut io::stderr(), words.as_bytes());
    }
    knows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_meets_itself_is_not_taken_for_the_job() {
    // Nobody listens there; a connecting socket that is given the same port by chance would meet itself.
    let stage = Stage::prepared("", on_port(free_port(23_000)), Duration::from_mins(1));
    assert!(stage.service.dial().await.is_err());
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let itself = socket.local_addr().expect("it is bound");
    let met = socket.connect(itself).await.expect("it meets itself");
    let ends = (met.local_addr(), met.peer_addr());
    assert!(matches!(
        service::check_ends(&ends.0.expect("bound"), &ends.1.expect("connected")),
        Err(ServiceError::NotTheJob)
    ));
}
