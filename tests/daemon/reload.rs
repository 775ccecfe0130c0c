//! A reload changes what changed and nothing else; a new version takes over without a lost byte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::Signal;

use crate::common::Who;
use crate::stage::{Stage, eventually, free_port, image, image_of_guest, ingress, runs, through};

#[test]
fn a_reload_changes_what_changed_and_nothing_else() {
    let stage = Stage::new();
    let (one, two) = (free_port(), free_port());
    stage.declare("same", "1", "");
    stage.declare("moved", "1", &ingress(one));
    stage.declare("gone", "1", "");
    let _daemon = stage.daemon();
    let [same, moved, gone] = ["same", "moved", "gone"].map(|name| stage.serves(name));
    assert_eq!(through(one), 200);

    stage.declare(
        "moved",
        "1",
        &format!("egress = [\"a.example:443\"]\n{}", ingress(two)),
    );
    std::fs::remove_file(stage.file("gone")).expect("it is there");
    stage.declare("added", "1", "");
    let said = stage.house.must(Who::Host, ["reload"]);
    let said = String::from_utf8_lossy(&said).into_owned();
    for line in ["added: added", "changed: moved", "drains: gone"] {
        assert!(said.contains(line), "{said}");
    }
    stage.serves("added");
    eventually("the ingress has moved", || {
        (through(two) == 200).then_some(())
    });
    eventually("the old place is closed", || {
        TcpStream::connect(one).is_err().then_some(())
    });
    eventually("what was taken away has ended", || {
        (!runs(gone.supervisor)).then_some(())
    });
    // The very same processes.
    assert_eq!(stage.serves("same"), same);
    assert_eq!(stage.serves("moved"), moved);
    let said = stage.house.must(Who::Host, ["reload"]);
    assert_eq!(String::from_utf8_lossy(&said), "nothing changed\n");
}

#[test]
fn a_file_with_an_error_leaves_everything_as_it_is_and_says_so() {
    let stage = Stage::new();
    stage.declare("cards", "1", "");
    let daemon = stage.daemon();
    let before = stage.serves("cards");
    stage.declare("other", "1", "");
    stage.declare("cards", "2", "cpus = 0\n");
    let said = stage.house.must_fail(Who::Host, ["reload"]);
    assert!(said.contains("cards.toml:4:8: cpus is 1 to 1024"), "{said}");
    daemon.signal(Signal::SIGHUP);
    eventually("SIGHUP says the same", || {
        (stage.log().matches("nothing was reloaded").count() == 2).then_some(())
    });
    assert_eq!(stage.serves("cards"), before);
    assert!(stage.view("other").is_null());
    // Put right, SIGHUP takes it.
    stage.declare("cards", "1", "cpus = 2\n");
    daemon.signal(Signal::SIGHUP);
    stage.serves("other");
}

#[test]
fn a_new_version_takes_over_and_no_flow_or_request_is_lost() {
    let stage = Stage::new();
    let address = free_port();
    stage.declare("cards", "1", &ingress(address));
    let _daemon = stage.daemon();
    let old = stage.serves("cards");
    let mut flow = TcpStream::connect(address).expect("the ingress");
    flow.write_all(b"GET /health HTTP/1.1\r\nHost: e\r\n")
        .expect("half a request");

    let stop = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(through(address), 200, "a request was lost");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        stage.declare("cards", "2", &ingress(address));
        let said = stage.house.must(Who::Host, ["reload"]);
        assert_eq!(String::from_utf8_lossy(&said), "rolls over: cards\n");
        let new = eventually("the new version", || {
            let instances = stage.instances("cards");
            instances
                .into_iter()
                .find(|one| one.admitted && one.image == image("2").0)
        });
        eventually("the old one drains", || {
            stage
                .instances("cards")
                .iter()
                .any(|one| one.name == old.name && one.draining)
                .then_some(())
        });
        assert_eq!(stage.serves("cards").name, new.name);
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 0);
    // The flow on the old one goes on to its end, and the old one ends with it.
    assert!(runs(old.supervisor));
    flow.write_all(b"Connection: close\r\n\r\n")
        .expect("the other half");
    let mut answer = String::new();
    flow.read_to_string(&mut answer).expect("the answer");
    assert!(answer.contains("\"version\":\"1\""), "{answer}");
    eventually("the old one has ended", || {
        (!runs(old.supervisor)).then_some(())
    });
    assert_eq!(through(address), 200);
}

/// Sends so many bytes through the mirror, a piece at a time, and reads them back meanwhile; they must all be there.
fn mirrored(address: SocketAddr, seed: u64, length: u64) {
    let byte = move |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes()[5];
    let stream = TcpStream::connect(address).expect("the ingress");
    let mut out = stream.try_clone().expect("the same socket");
    let writer = std::thread::spawn(move || {
        let mut at = 0;
        while at < length {
            let end = (at + 8192).min(length);
            let piece: Vec<u8> = (at..end).map(byte).collect();
            out.write_all(&piece).expect("a piece is taken");
            at = end;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        out.shutdown(std::net::Shutdown::Write)
            .expect("the end of it");
    });
    let mut at = 0;
    let mut back = std::io::BufReader::new(stream);
    let mut buffer = [0; 8192];
    loop {
        let count = back.read(&mut buffer).expect("what was sent");
        if count == 0 {
            break;
        }
        for found in &buffer[..count] {
            assert_eq!(*found, byte(at), "byte {at}");
            at += 1;
        }
    }
    writer.join().expect("all was sent");
    assert_eq!(at, length, "bytes are missing");
}

#[test]
fn streams_that_run_while_one_supervisor_takes_over_from_another_lose_no_byte() {
    let stage = Stage::new();
    let address = free_port();
    let entrance = ingress(address).replace("port = 5000", "port = 7000");
    let images = ["", "-2", "-3"].map(|note| image_of_guest(&stage.house, "mirror-init", note));
    let declare = |(image, pcr0): &(std::path::PathBuf, String)| {
        let text =
            format!("image = {image:?}\npcr0 = \"{pcr0}\"\nbackend = \"sandbox\"\n{entrance}");
        std::fs::write(stage.file("mirror"), text).expect("a file");
    };
    declare(&images[0]);
    let daemon = stage.daemon();
    let mut before = stage.serves("mirror");
    let (stop, whole) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (stop, whole) = (&stop, &whole);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    mirrored(address, seed, 1 << 20);
                    whole.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for image in &images[1..] {
            declare(image);
            stage.house.must(Who::Host, ["reload"]);
            eventually("the new version, alone", || {
                let now = stage.instances("mirror");
                let serving = now.iter().find(|one| one.admitted && one.image == image.0);
                (serving.is_some() && !runs(before.supervisor)).then_some(())
            });
            before = stage.serves("mirror");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(whole.load(Ordering::Relaxed) >= 4);
    let text = stage.raw("GET", "/v1/metrics", "").1;
    let cut = text
        .lines()
        .find(|line| line.contains("window_refusals_total{enclave=\"mirror\""));
    assert_eq!(cut, None);
    daemon.terminate();
}

#[test]
fn a_new_version_that_does_not_attest_leaves_the_old_one_serving() {
    let stage = Stage::new();
    let address = free_port();
    stage.declare("cards", "1", &ingress(address));
    let _daemon = stage.daemon();
    let old = stage.serves("cards");
    stage.declare("cards", "2", &ingress(address));
    let text = std::fs::read_to_string(stage.file("cards")).expect("the file");
    let wrong = text.replace(&image("2").1, &image("1").1);
    std::fs::write(stage.file("cards"), wrong).expect("the file");
    stage.house.must(Who::Host, ["reload"]);
    eventually("it is tried more than once", || {
        (stage.log().matches("not what was declared").count() > 1).then_some(())
    });
    assert!(runs(old.supervisor));
    assert_eq!(through(address), 200);
    assert_eq!(stage.serves("cards").name, old.name);
}
