//! The supervisor with an enclave made of threads: a heartbeat, a control port that answers as a test wants, an end.

use super::*;

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::sync::{Arc, Condvar, Mutex};

use super::super::control::{Control, Ingress, Reply, Request};
use super::super::guest::Facts;
use super::super::state::MeasuredAs;
use crate::window::heartbeat::BEAT;

/// What a test decides of an enclave, and when it ends.
#[derive(Clone, Default)]
struct Plan {
    beats: bool,
    health: &'static str,
    /// How often the control port is refused before it answers.
    refusals: u32,
    end: Arc<(Mutex<Option<GuestEnd>>, Condvar)>,
}

impl Plan {
    fn healthy() -> Self {
        Self {
            beats: true,
            health: r#"{"status":"serving","name":"test"}"#,
            ..Self::default()
        }
    }

    fn end_as(&self, code: Option<i32>, reason: &str) {
        let mut end = self.end.0.lock().unwrap();
        end.get_or_insert(GuestEnd {
            code,
            reason: reason.into(),
        });
        self.end.1.notify_all();
    }

    fn launch(
        self,
    ) -> impl FnOnce(&SuperviseOptions, u32, &Path) -> Result<Threads, SuperviseError> {
        move |_, cid, dir| {
            assert!(cid >= 16);
            std::fs::write(dir.join("console.log"), "booting\n").unwrap();
            let control = StdListener::bind(dir.join("vsock.sock")).unwrap();
            let (health, mut refusals) = (self.health, self.refusals);
            std::thread::spawn(move || {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{health}",
                    health.len()
                );
                // A client that gives up is the test's business.
                let serve = |mut stream: StdStream| {
                    let mut request = [0; 1024];
                    stream.read_exact(&mut request[..12])?;
                    stream.write_all(b"OK 1\n")?;
                    let _ = stream.read(&mut request)?;
                    stream.write_all(answer.as_bytes())
                };
                for stream in control.incoming().map_while(Result::ok) {
                    if refusals > 0 {
                        refusals -= 1;
                        continue;
                    }
                    let _: io::Result<()> = serve(stream);
                }
            });
            if self.beats {
                // Dialled at once, as an enclave may that is quicker than its parent.
                let mut beat = StdStream::connect(dir.join("vsock.sock_9000")).unwrap();
                std::thread::spawn(move || {
                    let _ = beat.write_all(&[BEAT]);
                    let _ = beat.read_exact(&mut [0]);
                });
            }
            Ok(Threads(self))
        }
    }
}

struct Threads(Plan);

impl Guest for Threads {
    fn facts(&self) -> Facts {
        Facts {
            isolation: None,
            has_control_port: true,
            reach: None,
            memory_mib: Some(64),
            cpus: Some(2),
            limits: vec!["memory: none".into()],
        }
    }

    fn measure(&self) -> Box<dyn FnOnce() -> Option<MeasuredAs> + Send> {
        Box::new(|| {
            Some(MeasuredAs {
                pcr0: "00".into(),
                pcr1: "11".into(),
                pcr2: "22".into(),
                pcr8: None,
            })
        })
    }

    fn killer(&self) -> Box<dyn Fn() + Send> {
        let plan = self.0.clone();
        Box::new(move || plan.end_as(None, "ended by signal 9"))
    }

    fn wait(&mut self) -> GuestEnd {
        let (end, changed) = &*self.0.end;
        let mut end = end.lock().unwrap();
        while end.is_none() {
            end = changed.wait(end).unwrap();
        }
        end.clone().unwrap()
    }
}

/// Hears that the enclave serves, and then does what a test wants.
struct Hearing<F: FnMut(&State) -> bool>(F);

impl<F: FnMut(&State) -> bool> Audience for Hearing<F> {
    fn serving(&mut self, state: &State) -> bool {
        self.0(state)
    }
}

fn options() -> (tempfile::TempDir, SuperviseOptions) {
    let dir = tempfile::tempdir().unwrap();
    let mut options = SuperviseOptions::new(Home::at(dir.path()).unwrap(), "/images/test.eif");
    options.start_limit_ms = 5_000;
    (dir, options)
}

fn sockets_in(dir: &Path) -> usize {
    std::fs::read_dir(dir)
        .unwrap()
        .filter(|entry| {
            entry
                .as_ref()
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .contains("sock")
        })
        .count()
}

#[test]
fn an_enclave_serves_ends_by_itself_and_leaves_its_state_and_console() {
    let (_dir, mut options) = options();
    options.name = Some("cards".into());
    let plan = Plan {
        refusals: 3,
        ..Plan::healthy()
    };
    let ender = plan.clone();
    let home = options.home.clone();
    let mut heard = Hearing(|state: &State| {
        assert_eq!(state.status, Status::Serving);
        let found = registry::find(&home, "cards").unwrap();
        assert_eq!(&found, state);
        assert_eq!(
            (found.memory_mib, found.cpus, found.cid),
            (Some(64), Some(2), 16)
        );
        assert_eq!(found.limits, ["memory: none"]);
        assert!(matches!(
            registry::claim(
                &home,
                registry::Wanted {
                    name: Some("cards"),
                    of: None,
                    image: Path::new("x"),
                },
                |_, _, _| unreachable!()
            ),
            Err(RegistryError::Taken(_))
        ));
        ender.end_as(Some(3), "exited with code 3");
        true
    });
    let ended = run(&options, &mut heard, plan.launch(), |_| Ok(())).unwrap();
    assert_eq!((ended.code, ended.exit_code()), (Some(3), 3));
    let last = registry::find(&options.home, "cards").unwrap();
    assert_eq!(
        last.status,
        Status::Ended {
            code: Some(3),
            reason: "exited with code 3".into()
        }
    );
    assert_eq!(last, ended.state);
    assert_eq!(sockets_in(&last.dir), 0);
    assert_eq!(std::fs::read(last.console()).unwrap(), b"booting\n");
}

#[test]
fn an_enclave_without_a_heartbeat_or_health_is_ended_and_the_missing_part_named() {
    let (_dir, mut options) = options();
    options.start_limit_ms = 150;
    let silent = Plan {
        beats: false,
        ..Plan::healthy()
    };
    let sick = Plan {
        health: r#"{"status":"starting"}"#,
        ..Plan::healthy()
    };
    let garbled = Plan {
        health: "\u{1b}[2J",
        ..Plan::healthy()
    };
    for (plan, missing) in [
        (silent, "no heartbeat"),
        (sick, "control port"),
        (garbled, "control port"),
    ] {
        let seen = plan.clone();
        let mut nobody = Hearing(|_: &State| panic!("it does not serve"));
        let error = run(&options, &mut nobody, plan.launch(), |_| Ok(())).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(missing) && text.contains("booting"), "{text}");
        assert!(seen.end.0.lock().unwrap().is_some(), "it was not ended");
        let last = registry::list(&options.home).unwrap().pop().unwrap();
        assert!(matches!(last.status, Status::Ended { code: None, .. }));
        assert_eq!(sockets_in(&last.dir), 0);
    }
}

#[test]
fn an_enclave_that_ends_before_it_serves_is_no_error_of_the_supervisor() {
    let (_dir, options) = options();
    let plan = Plan {
        beats: false,
        ..Plan::healthy()
    };
    plan.end_as(Some(0), "exited with code 0");
    let mut nobody = Hearing(|_: &State| panic!("it does not serve"));
    let ended = run(&options, &mut nobody, plan.launch(), |_| Ok(())).unwrap();
    assert_eq!(ended.code, Some(0));
}

#[test]
fn a_launch_that_fails_is_kept_as_the_reason() {
    let (_dir, options) = options();
    let launch = |_: &SuperviseOptions, _: u32, _: &Path| -> Result<Threads, SuperviseError> {
        Err(SuperviseError::Launch("no user namespaces here".into()))
    };
    let mut nobody = Hearing(|_: &State| panic!("it does not serve"));
    let error = run(&options, &mut nobody, launch, |_| Ok(())).unwrap_err();
    assert_eq!(error.to_string(), "no user namespaces here");
    let last = registry::list(&options.home).unwrap().pop().unwrap();
    assert_eq!(
        last.status,
        Status::Ended {
            code: None,
            reason: "no user namespaces here".into()
        }
    );
    assert_eq!(sockets_in(&last.dir), 0);
}

#[test]
fn what_is_to_be_handed_in_is_checked_before_anything_starts() {
    let (_dir, options) = options();
    let launch = |_: &SuperviseOptions, _: u32, _: &Path| -> Result<Threads, SuperviseError> {
        panic!("it must not start")
    };
    let mut bad = options.clone();
    bad.secrets
        .insert("key".into(), SecretSource::Path("/nowhere".into()));
    let mut nobody = Hearing(|_: &State| true);
    let error = run(&bad, &mut nobody, launch, |_| Ok(())).unwrap_err();
    assert!(matches!(error, SuperviseError::Secret(_)), "{error}");
    let mut bad = options;
    bad.credentials = CredentialsSource::File("/nowhere".into());
    let error = run(&bad, &mut nobody, launch, |_| Ok(())).unwrap_err();
    assert!(matches!(error, SuperviseError::Credentials(_)), "{error}");
    assert!(registry::list(&bad.home).unwrap().is_empty());
}

#[test]
fn an_enclave_that_nobody_waits_for_any_more_is_ended() {
    let (_dir, options) = options();
    let mut gone = Hearing(|_: &State| false);
    let error = run(&options, &mut gone, Plan::healthy().launch(), |_| Ok(())).unwrap_err();
    assert!(matches!(error, SuperviseError::Abandoned), "{error}");
}

#[test]
fn in_the_foreground_the_console_is_shown_to_its_last_line() {
    let (_dir, options) = options();
    let plan = Plan::healthy();
    let ender = plan.clone();
    let home = options.home.clone();
    let writer = std::thread::spawn(move || {
        let state = loop {
            match registry::list(&home).unwrap().pop() {
                Some(state) if state.status == Status::Serving => break state,
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let mut console = File::options().append(true).open(state.console()).unwrap();
        console.write_all(b"last \x1b[2Jwords").unwrap();
        ender.end_as(Some(5), "exited with code 5");
    });
    let mut out = Vec::new();
    let ended = supervise_with(&options, &mut out, plan.launch()).unwrap();
    writer.join().unwrap();
    assert_eq!(ended.exit_code(), 5);
    assert_eq!(String::from_utf8(out).unwrap(), "booting\nlast  [2Jwords\n");
}

#[test]
fn measurements_follow_once_the_enclave_has_been_left_in_peace() {
    let (_dir, options) = options();
    let plan = Plan::healthy();
    let ender = plan.clone();
    let home = options.home.clone();
    let reader = std::thread::spawn(move || {
        let measured = loop {
            match registry::list(&home).unwrap().pop() {
                Some(State {
                    measurements: Some(measured),
                    ..
                }) => break measured,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        ender.end_as(Some(0), "exited with code 0");
        measured
    });
    let ended = run(
        &options,
        &mut Hearing(|_: &State| true),
        plan.launch(),
        |_| Ok(()),
    )
    .unwrap();
    assert_eq!(Some(reader.join().unwrap()), ended.state.measurements);
}

/// Waits for an enclave that serves and steers it, until its control socket ends.
fn steered<T: Send + 'static>(
    home: &Home,
    steer: impl FnOnce(&State, &mut Control) -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let home = home.clone();
    std::thread::spawn(move || {
        let state = loop {
            match registry::list(&home).unwrap().pop() {
                Some(state) if state.status == Status::Serving => break state,
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let mut control = Control::connect(&state.dir).unwrap();
        steer(&state, &mut control)
    })
}

fn status(control: &mut Control) -> (State, u64, Vec<String>) {
    let Reply::Status {
        state,
        flows,
        accepting,
    } = control.ask(&Request::Status, &[]).unwrap().0
    else {
        panic!("not a status");
    };
    (*state, flows, accepting)
}

fn door(control: &mut Control, name: &str) -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ingress = vec![Ingress {
        name: name.into(),
        port: 5000,
        rules: crate::window::ingress::Rules::default(),
    }];
    control
        .order(&Request::Listen { ingress }, &[listener.as_fd()])
        .unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_drain_takes_nothing_new_waits_for_the_last_flow_and_ends_the_enclave() {
    let (_dir, options) = options();
    let steering = steered(&options.home, |state, control| {
        control.order(&Request::Admit { at_ms: 7 }, &[]).unwrap();
        let address = door(control, "web");
        let (now, flows, accepting) = status(control);
        assert_eq!((now.admitted_ms, flows), (Some(7), 0));
        assert_eq!(accepting, ["web"]);
        assert_eq!(State::read(&state.dir).unwrap(), now);

        let mut flow = std::net::TcpStream::connect(address).unwrap();
        while status(control).1 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Copies of the sockets go to whoever takes over, and both take connections meanwhile.
        let (reply, sockets) = control.ask(&Request::Listeners, &[]).unwrap();
        let Reply::Listeners { ingress } = reply else {
            panic!("not listeners");
        };
        assert_eq!((ingress[0].name.as_str(), ingress[0].port), ("web", 5000));
        let copy = std::net::TcpListener::from(sockets.into_iter().next().unwrap());
        assert_eq!(copy.local_addr().unwrap(), address);
        drop(copy);

        control
            .order(&Request::Drain { limit_ms: 600_000 }, &[])
            .unwrap();
        let (now, flows, accepting) = status(control);
        assert!(now.draining && State::read(&state.dir).unwrap().draining);
        assert_eq!((flows, accepting.len()), (1, 0));
        assert!(std::net::TcpStream::connect(address).is_err());
        // What runs goes on.
        flow.write_all(b"GET /health HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        flow.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("serving"), "{answer}");
    });
    let plan = Plan::healthy();
    let ended = run(
        &options,
        &mut Hearing(|_: &State| true),
        plan.launch(),
        |_| Ok(()),
    )
    .unwrap();
    steering.join().unwrap();
    assert_eq!(ended.reason, "drained");
    assert_eq!(sockets_in(&ended.state.dir), 0);
}

#[test]
fn a_drain_waits_for_what_the_enclave_still_sends_out() {
    let (_dir, mut options) = options();
    let remote = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = remote.local_addr().unwrap().to_string();
    options.allowlist = Allowlist::parse([target.as_str()]).unwrap();
    let steering = steered(&options.home, move |state, control| {
        // As the enclave does it.
        let mut enclave = StdStream::connect(window::socket(&state.dir, WINDOW_PORT)).unwrap();
        write!(
            enclave,
            "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            enclave.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(
            head.starts_with(b"HTTP/1.1 200 "),
            "{}",
            head.escape_ascii()
        );
        let (mut far, _) = remote.accept().unwrap();
        while status(control).1 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        control
            .order(&Request::Drain { limit_ms: 600_000 }, &[])
            .unwrap();
        // Many looks later it is there still, and nothing of it is lost.
        for part in 0..20u8 {
            std::thread::sleep(LOOK * 10);
            enclave.write_all(&[part; 1000]).unwrap();
        }
        assert_eq!(status(control).1, 1);
        drop(enclave);
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        all.len()
    });
    let ended = run(
        &options,
        &mut Hearing(|_: &State| true),
        Plan::healthy().launch(),
        |_| Ok(()),
    )
    .unwrap();
    assert_eq!(steering.join().unwrap(), 20_000);
    assert_eq!(ended.reason, "drained");
}

#[test]
fn a_flow_that_outlasts_a_drains_limit_is_cut_and_that_is_said() {
    let (_dir, options) = options();
    let steering = steered(&options.home, |_, control| {
        let address = door(control, "web");
        let flow = std::net::TcpStream::connect(address).unwrap();
        while status(control).1 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        control.order(&Request::Drain { limit_ms: 1 }, &[]).unwrap();
        flow
    });
    let ended = run(
        &options,
        &mut Hearing(|_: &State| true),
        Plan::healthy().launch(),
        |_| Ok(()),
    )
    .unwrap();
    let mut flow = steering.join().unwrap();
    assert!(ended.reason.contains("was cut"), "{}", ended.reason);
    assert_eq!(flow.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn limits_change_while_it_runs_and_what_was_refused_is_counted() {
    let (_dir, options) = options();
    let steering = steered(&options.home, |_, control| {
        let address = door(control, "web");
        let nobody = crate::window::ingress::Rules {
            deny: vec!["127.0.0.0/8".parse().unwrap()],
            ..Default::default()
        };
        let limits = |name: &str, rules| Request::Limits {
            egress: Some(crate::window::Limits::default()),
            ingress: [(name.to_owned(), rules)].into(),
        };
        let unknown = control.order(&limits("other", nobody.clone()), &[]);
        assert!(unknown.unwrap_err().to_string().contains("other"));
        control.order(&limits("web", nobody), &[]).unwrap();
        // Refused so early that connecting may fail already.
        let refused = std::net::TcpStream::connect(address).and_then(|mut s| s.read(&mut [0]));
        assert_eq!(refused.unwrap_or(0), 0);
        loop {
            let (Reply::Counters { counters }, _) = control.ask(&Request::Counters, &[]).unwrap()
            else {
                panic!("counters were asked for");
            };
            if counters.refusals["ingress/web"].get("denied") == Some(&1) {
                assert_eq!(counters.windows["ingress/web"]["flows"], 0);
                assert_eq!(counters.windows["egress"]["flows"], 0);
                let times = &counters.seconds["egress"]["until_flow"];
                assert_eq!(times.counts.len(), times.bounds.len() + 1);
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        control.order(&Request::End, &[]).unwrap();
    });
    let ended = run(
        &options,
        &mut Hearing(|_: &State| true),
        Plan::healthy().launch(),
        |_| Ok(()),
    );
    steering.join().unwrap();
    ended.unwrap();
}

#[test]
fn what_is_wrong_in_a_request_changes_nothing_and_is_named() {
    let (_dir, options) = options();
    let steering = steered(&options.home, |_, control| {
        let pipe = std::io::pipe().unwrap().0;
        let ingress = vec![Ingress {
            name: "web".into(),
            port: 5000,
            rules: crate::window::ingress::Rules::default(),
        }];
        let mut refused = |request: &Request, sockets: &[std::os::fd::BorrowedFd<'_>]| {
            control.order(request, sockets).unwrap_err().to_string()
        };
        let listen = Request::Listen { ingress };
        assert!(refused(&listen, &[]).contains("0 listening sockets"));
        assert!(refused(&listen, &[pipe.as_fd()]).contains("web"));
        let sealed = [("Not A Name".to_owned(), String::new())].into();
        assert!(refused(&Request::Secrets { sealed }, &[]).contains("Not A Name"));
        let (_, flows, accepting) = status(control);
        assert_eq!((flows, accepting.len()), (0, 0));
        control.order(&Request::End, &[]).unwrap();
    });
    let ended = run(
        &options,
        &mut Hearing(|_: &State| true),
        Plan::healthy().launch(),
        |_| Ok(()),
    )
    .unwrap();
    steering.join().unwrap();
    assert_eq!(ended.reason, "stopped");
}
