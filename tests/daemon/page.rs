//! The status page: one file for a browser, and data for whoever shows the token. With a Chromium it is looked at as well.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::stage::{Stage, eventually, free_port, ingress, through};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn staged() -> (Stage, SocketAddr) {
    let stage = Stage::new();
    let address = free_port();
    let token = stage.house.write("etc/page.token", format!("{TOKEN}\n"));
    std::fs::set_permissions(token, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    stage.settings(&format!(
        "[page]\nlisten = \"{address}\"\ntoken_file = \"page.token\"\n"
    ));
    stage.declare("cards", "1", &ingress(free_port()));
    (stage, address)
}

fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("the page");
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn data_are_for_whoever_shows_the_token_under_a_name_of_this_host() {
    let (stage, address) = staged();
    let _daemon = stage.daemon();
    stage.serves("cards");
    let host = "Host: localhost:1\r\n";
    let page = get(address, "/", host);
    assert!(
        page.starts_with("HTTP/1.1 200") && page.contains("default-src 'none'"),
        "{page}"
    );
    assert!(!page.contains("cards"), "the page itself tells nothing");
    // The form has a display of its own, and is hidden all the same once the token was right.
    assert!(page.contains("[hidden] { display: none !important; }"));
    let own = page.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!own.contains(outside), "it loads something: {outside}");
    }
    let wrong = TOKEN.replace('f', "e");
    for headers in [
        host.to_owned(),
        format!("{host}Authorization: Bearer {wrong}\r\n"),
        format!("{host}Authorization: {TOKEN}\r\n"),
    ] {
        let answer = get(address, "/data", &headers);
        assert!(
            answer.starts_with("HTTP/1.1 401") && !answer.contains("cards"),
            "{answer}"
        );
    }
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let stranger = get(address, "/data", &format!("Host: evil.example\r\n{right}"));
    assert!(stranger.starts_with("HTTP/1.1 403"), "{stranger}");
    eventually("what passed its ingress", || {
        let data = get(address, "/data", &format!("{host}{right}"));
        let (_, body) = data.split_once("\r\n\r\n").expect("a body");
        let data: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(data[0]["enclave"]["name"], "cards");
        data[0]["windows"]["ingress/web"]["flows"]
            .is_u64()
            .then_some(())
    });
}

#[test]
fn a_token_that_others_may_read_is_refused() {
    let (stage, _) = staged();
    let token = stage.house.path("etc/page.token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    let output = stage.command().output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("chmod 600"),
        "{said}"
    );
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    std::fs::write(&token, "short").expect("a file");
    let output = stage.command().output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("16 to 512"));
}

/// What tests/status-page/setup installs, or is there.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("ANCHORHOLD_CHROMIUM").map(PathBuf::from);
    let paths = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].map(PathBuf::from);
    named.into_iter().chain(paths).find(|path| path.exists())
}

#[test]
fn a_browser_shows_enclaves_measurements_and_the_verified_chain() {
    let Some(chromium) = chromium() else {
        eprintln!("NOT TESTED: there is no Chromium (Debian: chromium; tests/status-page/setup)");
        assert_ne!(
            std::env::var("ANCHORHOLD_PAGE").as_deref(),
            Ok("true"),
            "it was asked for"
        );
        return;
    };
    let (stage, address) = staged();
    // Some that serve, of which one is asked by clients that it does not let in, and one that is not what was declared.
    let (web, admin) = (free_port(), free_port());
    let more = format!(
        "{}[ingress.admin]\nlisten = \"{admin}\"\nport = 5000\nrules = {{ deny = [\"127.0.0.0/8\"] }}\n",
        ingress(web)
    );
    stage.declare("cards", "1", &more);
    stage.declare("statements", "2", "");
    stage.declare("tokens", "1", "");
    let wrong = std::fs::read_to_string(stage.file("tokens")).expect("the file");
    let wrong = wrong.replace(&crate::stage::image("1").1, &"5a".repeat(48));
    std::fs::write(stage.file("tokens"), wrong).expect("the file");
    let _daemon = stage.daemon();
    let instance = stage.serves("cards");
    stage.serves("statements");
    for _ in 0..40 {
        assert_eq!(through(web), 200);
    }
    for _ in 0..3 {
        assert_eq!(through(admin), 0);
    }
    // As an enclave that has been taken over may ask.
    for target in ["169.254.169.254:80", "evil.example:443"] {
        let mut window = UnixStream::connect(instance.dir.join("vsock.sock_8000")).expect("it");
        write!(
            window,
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
        )
        .expect("a request");
        let mut answer = String::new();
        window.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    eventually("a start that failed", || {
        stage.view("tokens")["last_error"].is_string().then_some(())
    });
    let pcr0 = crate::stage::image("1").1;
    let look = |token: &str, more: &[&str]| {
        let output = Command::new(&chromium)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .arg(format!(
                "--user-data-dir={}",
                stage.house.path("browser").display()
            ))
            .args(["--virtual-time-budget=4000", "--window-size=1200,1390"])
            .args(more)
            .arg(format!("http://{address}/#token={token}"))
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let shown = look(TOKEN, &["--dump-dom"]);
    for part in [
        pcr0.as_str(),
        "3 enclaves, 2 serving",
        "3 denied",
        "2 host-list",
        "not what was declared",
        "class=\"chain\"",
        "this enclave",
        "data-name=\"cards\"",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert!(!shown.contains(TOKEN), "the token is nowhere in the page");
    let refused = look("wrong", &["--dump-dom"]);
    assert!(
        !refused.contains(&pcr0) && refused.contains("That is not the token."),
        "{refused}"
    );
    if let Some(picture) = std::env::var_os("ANCHORHOLD_SCREENSHOT") {
        look(
            TOKEN,
            &[&format!(
                "--screenshot={}",
                PathBuf::from(picture).display()
            )],
        );
    }
}
