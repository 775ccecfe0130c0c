//! What `run`, `doctor` and declarations say of the windows, and what comes of it: looked at through an enclave's own window, as
//! the enclave sees it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{House, Who};
use crate::stage::{PATIENCE, Stage, eventually};

/// Sends a request through the window of the enclave in that folder; the head of the answer and what follows it.
fn window(dir: &Path, request: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(dir.join("vsock.sock_8000")).expect("the window");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let request = format!("{request} HTTP/1.1\r\nHost: parent\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).expect("ASCII"))
}

fn whole(dir: &Path, request: &str) -> String {
    let (mut stream, mut answer) = window(dir, request);
    stream.read_to_string(&mut answer).expect("UTF-8");
    answer
}

fn folder_of(house: &House, name: &str) -> PathBuf {
    let states = house.must(Who::Host, ["ps", "--json"]);
    let states: Value = serde_json::from_slice(&states).expect("JSON");
    let state = states.as_array().expect("a list").iter().find(|state| {
        state["name"] == name && (state["status"] == "serving" || state["status"].is_object())
    });
    let state = state.unwrap_or_else(|| panic!("{name} is not among {states:#}"));
    state["dir"].as_str().expect("a folder").into()
}

/// A container's endpoint on loopback that hands out these words.
fn endpoint(credentials: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                head.push(byte[0]);
            }
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{credentials}",
                credentials.len()
            );
        }
    });
    address
}

const OF_FILE: &str =
    r#"{"Version":1,"AccessKeyId":"OFFILE","SecretAccessKey":"hush-file","SessionToken":"token"}"#;
const OF_CONTAINER: &str = r#"{"AccessKeyId":"OFCONTAINER","SecretAccessKey":"hush-container","Token":"token","Expiration":"2099-01-01T00:00:00Z"}"#;

#[test]
fn run_lets_out_what_it_and_the_manifest_name_and_hands_in_the_credentials_that_were_asked_for() {
    let stage = Stage::new();
    let house = &stage.house;
    let remotes = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [both, measured_alone] = remotes
        .each_ref()
        .map(|remote| remote.local_addr().expect("an address").to_string());
    let manifest = format!(
        "[job]\ncommand = [\"/job\"]\n[egress]\nallow = [\"{both}\", \"{measured_alone}\"]\n[resources]\nmemory_mib = 64\n"
    );
    let image = house.image("enclave/jobs/cards", &manifest, "egress.eif");
    let image = image.to_str().expect("UTF-8");
    let file = house.write("credentials.json", OF_FILE);
    let file = format!("file:{}", file.display());
    let uri = format!("http://{}/of-the-task", endpoint(OF_CONTAINER));

    // A target that the measured manifest does not name is refused before anything starts.
    let refused = house.must_fail(
        Who::Host,
        [
            "run",
            image,
            "--backend",
            "sandbox",
            "--allow",
            "127.0.0.1:1",
        ],
    );
    assert!(refused.contains("measured manifest"), "{refused}");

    let looked_at = |how: &str| {
        for (name, source, handed_in) in [
            ("of-file", file.as_str(), "OFFILE"),
            ("of-container", "container", "OFCONTAINER"),
            ("of-nobody", "nothing", ""),
        ] {
            let name = format!("{name}-{how}");
            let arguments = ["run", image, "--backend", "sandbox", "--name", &name];
            let mut run = house.command(Who::Host, arguments);
            run.args(["--allow", &both, "--credentials", source]);
            let output = run
                .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri)
                .output()
                .expect("run runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}");

            let dir = folder_of(house, &name);
            let answer = whole(&dir, "GET /credentials");
            if handed_in.is_empty() {
                assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
            } else {
                let id = format!("\"AccessKeyId\":\"{handed_in}\"");
                assert!(
                    answer.contains(&id) && answer.contains("\"Token\":\"token\""),
                    "{answer}"
                );
            }
            let (_, head) = window(&dir, &format!("CONNECT {both}"));
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            for other in [measured_alone.as_str(), "127.0.0.1:1", "169.254.169.254:80"] {
                let answer = whole(&dir, &format!("CONNECT {other}"));
                assert!(
                    answer.starts_with("HTTP/1.1 403 ") && answer.contains("allowlist"),
                    "{answer}"
                );
            }
            // They are in nothing that stays.
            for entry in std::fs::read_dir(&dir).expect("its folder").flatten() {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes);
                assert!(!text.contains("hush"), "{}", entry.path().display());
            }
            house.must(Who::Host, ["stop", &name]);
        }
    };
    looked_at("alone");
    // The same by a daemon, whose environment it is then that names the container's endpoint.
    let mut daemon = stage.command();
    daemon.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &uri);
    let mut daemon = daemon
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the daemon starts");
    eventually("the daemon serves", || {
        (stage.raw("GET", "/v1/health", "").0 == 200).then_some(())
    });
    looked_at("daemon");
    let (_, all) = stage.raw("GET", "/v1/enclaves", "");
    assert!(all.contains("of-file-daemon") && !all.contains("hush"));
    let _ = daemon.kill();
    let _ = daemon.wait();
}

#[test]
fn doctor_asks_the_source_of_credentials_that_run_would_ask() {
    let mut house = House::new();
    let service = house.key_service(&[]);
    let manifest = house.manifest(&["/job"], "alias/cards", "");
    let image = house.image("enclave/jobs/cards", &manifest, "cards.eif");
    let image = image.to_str().expect("UTF-8");
    let good = house.write("good.json", OF_FILE);
    let old = OF_CONTAINER.replace("2099", "2009");
    let old = house.write("old.json", old);
    let sso = house.write("config", "[profile far]\nsso_session = x\n");
    let uri = format!("http://{}/", endpoint(OF_CONTAINER));
    let https = "https://127.0.0.1/";
    let found = |source: &str, uri: &str| -> (String, String) {
        let arguments = ["doctor", image, "--json", "--credentials", source];
        let mut doctor = house.command(Who::Host, arguments);
        let output = doctor
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)
            .env("AWS_CONFIG_FILE", &sso)
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .output()
            .expect("doctor runs");
        let findings: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let all = findings.as_array().expect("a list");
        let finding = all.iter().find(|one| one["subject"] == "credentials");
        let finding = finding.unwrap_or_else(|| panic!("{findings:#}"));
        let text = |name: &str| finding[name].as_str().expect("text").to_owned();
        (text("verdict"), text("said"))
    };
    let file = |path: &Path| format!("file:{}", path.display());
    for (source, uri, verdict, part) in [
        (file(&good).as_str(), uri.as_str(), "good", "come from"),
        ("container", &uri, "good", "fetched anew before"),
        ("environment", &uri, "good", "in the environment"),
        ("nothing", &uri, "bad", "there are none"),
        (&file(&old), &uri, "bad", "expired"),
        ("file:/nowhere", &uri, "bad", "cannot be read"),
        ("container", https, "bad", "https"),
        ("profile:far", &uri, "bad", "sso_session"),
    ] {
        let (judged, said) = found(source, uri);
        assert!(
            judged == verdict && said.contains(part),
            "{source}: {judged}: {said}"
        );
        assert!(!said.contains("hush"), "{said}");
    }
    drop(service);
}

#[test]
fn a_declarations_limits_of_egress_count_and_change_while_it_runs() {
    let stage = Stage::new();
    let remote = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = remote.local_addr().expect("an address");
    // It hangs up on whoever hangs up.
    std::thread::spawn(move || {
        for mut stream in remote.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    let manifest = format!(
        "[job]\ncommand = [\"/job\"]\n[egress]\nallow = [\"{target}\"]\n[resources]\nmemory_mib = 64\n"
    );
    let image = stage
        .house
        .image("enclave/jobs/cards", &manifest, "egress.eif");
    let pcr0 = stage.house.measurements(&image)["PCR0"].clone();
    let declare = |limits: &str| {
        let text = format!(
            "image = {image:?}\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\negress = [\"{target}\"]\n{limits}"
        );
        std::fs::write(stage.file("cards"), text).expect("a file");
    };
    declare("[egress_limits]\nidle_ms = 100\n");
    let _daemon = stage.daemon();
    let instance = stage.serves("cards");
    let refused = |reason: &str| {
        let text = stage.raw("GET", "/v1/metrics", "").1;
        let line = format!(
            "anchorhold_window_refusals_total{{enclave=\"cards\",window=\"egress\",reason=\"{reason}\"}} 1"
        );
        text.lines().any(|found| found == line)
    };
    // In it nothing moves.
    let (mut flow, head) = window(&instance.dir, &format!("CONNECT {target}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(flow.read(&mut [0]).expect("it is closed"), 0);
    eventually("it is counted", || refused("idle").then_some(()));

    declare("[egress_limits]\nconnections = 1\n");
    let said = stage.house.must(Who::Host, ["reload"]);
    assert_eq!(String::from_utf8_lossy(&said), "changed: cards\n");
    // The first may stay now; of two at once the second waits for the first.
    let (first, second) = eventually("the new limits", || {
        let (flow, head) = window(&instance.dir, &format!("CONNECT {target}"));
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut other =
            UnixStream::connect(instance.dir.join("vsock.sock_8000")).expect("a window");
        let request = b"GET /credentials HTTP/1.1\r\nHost: parent\r\nConnection: close\r\n\r\n";
        other.write_all(request).expect("a request");
        other
            .set_read_timeout(Some(std::time::Duration::from_millis(300)))
            .expect("a time");
        other.read(&mut [0]).is_err().then_some((flow, other))
    });
    drop(first);
    let mut second = second;
    second.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut answer = String::new();
    second
        .read_to_string(&mut answer)
        .expect("its turn has come");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(stage.serves("cards"), instance);
}
