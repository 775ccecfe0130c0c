//! The tests themselves.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use anchorhold_attestation::Pcr;
use anchorhold_parent::sandbox::{
    self, Content, Enclave, EnforcedBy, Entry, Program, Start, StartError,
};
use anchorhold_parent::window::{self, Allowlist, Window, WindowConfig};
use anchorhold_parent::{Ended, How, Isolation};
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};

use super::runner::{Test, run};

const CID: u32 = 20;
const MEMORY_MIB: u32 = 256;

const TESTS: &[Test] = &[
    (
        "the_first_process_runs_as_init_and_its_exit_code_and_output_arrive",
        hello,
    ),
    ("nothing_of_the_host_is_visible", view),
    (
        "the_root_is_what_the_entries_say_and_links_lead_nowhere_else",
        links,
    ),
    ("the_host_reaches_ports_of_the_enclave", echo),
    ("the_enclave_reaches_the_parent_and_nobody_else", dial),
    ("vsock_calls_answer_as_the_kernel_does", || {
        passes("addresses")
    }),
    (
        "accepts_wait_are_interrupted_and_end_as_in_a_kernel",
        accepts,
    ),
    ("unix_sockets_of_the_enclave_work_as_ever", || {
        passes("unix")
    }),
    ("the_nsm_answers_as_the_driver_does", nsm),
    (
        "closed_doors_are_closed_inside_and_open_outside",
        closed_doors,
    ),
    ("a_job_without_privileges_has_neither_door", job),
    (
        "racing_descriptors_never_reach_the_hosts_abstract_sockets",
        race,
    ),
    ("odd_arguments_do_not_disturb_the_supervisor", || {
        with_answers("odd", MEMORY_MIB)
    }),
    (
        "sockets_are_forgotten_when_closed_and_bounded_when_not",
        || with_answers("many", MEMORY_MIB),
    ),
    ("a_fork_bomb_is_stopped", || passes("fork-bomb")),
    ("a_memory_bomb_ends_the_enclave_alone", memory_bomb),
    ("a_file_bomb_is_stopped", || passes("file-bomb")),
    ("a_console_flood_is_bounded", flood),
    ("what_was_sent_before_the_end_arrives", last_words),
    ("dropping_the_handle_leaves_nothing", leaves_nothing),
    ("an_enclave_dies_with_its_supervisor", dies_with_supervisor),
    ("a_folder_in_use_and_a_wrong_start_are_refused", refusals),
    ("many_enclaves_live_side_by_side", side_by_side),
    ("reduced_isolation_works_and_says_what_is_missing", reduced),
    ("an_image_is_launched_measured_and_attested", image),
    ("numbers_are_printed", numbers),
];

pub(crate) fn main(arguments: &[String]) {
    run(TESTS, arguments);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// This binary with its loader and libraries, and a command.
fn entries(command: &str) -> Vec<Entry> {
    let own = std::env::current_exe().unwrap();
    let mut entries = vec![
        Entry::new(
            b"/command",
            0o644,
            0,
            0,
            Content::File(command.as_bytes().to_vec()),
        )
        .unwrap(),
        Entry::new(
            b"/init",
            0o755,
            0,
            0,
            Content::File(std::fs::read(&own).unwrap()),
        )
        .unwrap(),
    ];
    let listed = std::process::Command::new("ldd")
        .arg(&own)
        .output()
        .expect("ldd lists libraries");
    let listed = String::from_utf8(listed.stdout).unwrap();
    for path in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let mut parent = PathBuf::new();
        for part in Path::new(path).parent().unwrap().iter().skip(1) {
            parent.push(part);
            entries.push(
                Entry::new(
                    parent.to_str().unwrap().as_bytes(),
                    0o755,
                    0,
                    0,
                    Content::Directory,
                )
                .unwrap(),
            );
        }
        entries.push(
            Entry::new(
                path.as_bytes(),
                0o755,
                0,
                0,
                Content::File(std::fs::read(path).unwrap()),
            )
            .unwrap(),
        );
    }
    entries
}

fn measured() -> [Pcr; 3] {
    [1, 2, 3].map(|number| Pcr::from_bytes([number; 48]))
}

fn start_with(
    dir: &Path,
    mut entries: Vec<Entry>,
    memory_mib: u32,
    isolation: Isolation,
) -> Result<Enclave, StartError> {
    if cid(isolation) != CID {
        let text = cid(isolation).to_string().into_bytes();
        entries.push(Entry::new(b"/cid", 0o644, 0, 0, Content::File(text)).unwrap());
    }
    sandbox::start(Start {
        cid: cid(isolation),
        memory_mib,
        cpus: 1,
        directory: dir.to_owned(),
        isolation,
        loopback: false,
        entries,
        program: Program::init(),
        nsm: Box::new(|| {
            let [pcr0, pcr1, pcr2] = measured();
            let config = NsmConfig {
                pcr0,
                pcr1,
                pcr2,
                ..NsmConfig::default()
            };
            static ROOT: LazyLock<DevelopmentRoot> =
                LazyLock::new(|| DevelopmentRoot::generate().unwrap());
            Ok(Nsm::new(&ROOT, config, SystemTime::now()).unwrap())
        }),
    })
}

/// Without a pid namespace, ending an enclave ends whatever has its user, and that goes by its CID: each run of these tests has
/// one of its own.
fn cid(isolation: Isolation) -> u32 {
    match isolation {
        Isolation::Reduced => 3100 + std::process::id() % 900,
        _ => CID,
    }
}

fn start(dir: &Path, command: &str) -> Enclave {
    start_with(dir, entries(command), MEMORY_MIB, Isolation::Namespaces)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn console(enclave: &Enclave) -> String {
    String::from_utf8_lossy(&std::fs::read(enclave.console()).unwrap()).into_owned()
}

/// Waits until the console holds `text` `count` times.
fn wait_for(enclave: &Enclave, text: &str, count: usize) -> String {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let console = console(enclave);
        if console.matches(text).count() >= count {
            return console;
        }
        assert!(
            Instant::now() < until && enclave.ended().is_none(),
            "no {text:?}, but:\n{console}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn finish(enclave: &mut Enclave) -> String {
    let ended = enclave.wait().unwrap();
    let console = console(enclave);
    assert_eq!(
        ended.how,
        How::Exited(0),
        "the program inside says:\n{console}"
    );
    console
}

fn passes(command: &str) {
    let folder = tempfile::tempdir().unwrap();
    finish(&mut start(folder.path(), command));
}

fn hello() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "hello");
    let ended = enclave.wait().unwrap();
    assert_eq!(
        ended,
        Ended {
            how: How::Exited(7),
            ran_out_of_memory: false
        }
    );
    let console = console(&enclave);
    assert!(console.contains("hello from 1\n"), "{console}");
    assert!(console.contains("Uid:\t0\t0\t0\t0"), "{console}");
    assert!(console.contains("Seccomp:\t2"), "{console}");
    assert!(console.contains("and this is stderr"), "{console}");
    let mode = |name: &str| {
        std::fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("console.log"), 0o600);
}

fn view() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "view");
    let console = finish(&mut enclave);
    let line = |start: &str| {
        console
            .lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_else(|| panic!("no {start:?} in:\n{console}"))
            .to_owned()
    };
    let mut expected: Vec<&str> = vec!["command", "dev", "init", "proc", "run", "sys", "tmp"];
    let names = line("root: ");
    let names: Vec<&str> = names
        .split(' ')
        .filter(|name| !matches!(*name, "lib" | "lib64" | "usr"))
        .collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(line("host name: "), "enclave");
    assert_eq!(line("processes: "), "[1]");
    assert_eq!(
        line("environment: "),
        r#"[("HOME", "/"), ("TERM", "linux")]"#
    );
    assert_eq!(line("descriptors: "), "3");
    assert_eq!(line("core: "), "1");
    // The loopback device, down, below two lines of heading.
    assert_eq!(line("network: "), "3");
    assert!(console.contains("by the console"));
    for part in line("cgroup: ").split(' ') {
        assert!(
            part.ends_with(":/") || !is_root(),
            "a host's control group is visible: {part}"
        );
    }
    let dir = folder.path().to_str().unwrap();
    assert!(
        !console.contains(dir),
        "the host's folder is visible:\n{console}"
    );
    for line in console.lines().filter(|line| line.contains(" - ")) {
        let kind = line.split(" - ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(matches!(kind, "tmpfs" | "proc" | "devtmpfs"), "{line}");
    }
}

fn links() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("host-file");
    std::fs::write(&target, "the host's").unwrap();
    let mut entries = entries("exit 0");
    let mut add = |path: &str, content| {
        entries.push(Entry::new(path.as_bytes(), 0o777, 0, 0, content).unwrap())
    };
    let text = |text: &str| std::ffi::CString::new(text).unwrap();
    // A link to a folder of the host, and a file written through it.
    add(
        "/out",
        Content::Symlink(text(folder.path().to_str().unwrap())),
    );
    add("/out/host-file", Content::File(b"the image's".to_vec()));
    add("/up", Content::Symlink(text("../../../../../../../../..")));
    add(
        &format!("/up{}", target.display()),
        Content::File(b"the image's".to_vec()),
    );
    add(
        "/../../../../../../etc/anchorhold-must-not-exist",
        Content::File(Vec::new()),
    );
    let mut enclave =
        start_with(folder.path(), entries, MEMORY_MIB, Isolation::Namespaces).unwrap();
    finish(&mut enclave);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "the host's");
    assert!(!Path::new("/etc/anchorhold-must-not-exist").exists());
}

fn ask(enclave: &Enclave, port: u32, question: &[u8]) -> Vec<u8> {
    let mut stream = enclave.connect(port).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let question = question.to_vec();
    let writer = std::thread::spawn(move || {
        writing.write_all(&question).unwrap();
        writing.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    writer.join().unwrap();
    answer
}

fn echo() {
    let folder = tempfile::tempdir().unwrap();
    let enclave = start(folder.path(), "echo");
    wait_for(&enclave, "listening", 1);
    assert_eq!(ask(&enclave, 5000, b"hello"), b"hello");
    let big: Vec<u8> = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
    assert!(ask(&enclave, 5000, &big) == big);
    assert_eq!(ask(&enclave, 5001, &big), b"5000000");
    let mode = std::fs::metadata(folder.path().join("vsock.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let refused = enclave.connect(4999).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    // By hand, with the first bytes right behind the line.
    let mut stream = UnixStream::connect(folder.path().join("vsock.sock")).unwrap();
    stream.write_all(b"CONNECT 5000\nearly").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("OK ") && answer.ends_with("\nearly"),
        "{answer:?}"
    );
    for nonsense in [
        "HELLO\n",
        "CONNECT x\n",
        "a line that is much too long to be a port\n",
    ] {
        let mut stream = UnixStream::connect(folder.path().join("vsock.sock")).unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }

    // Many at once.
    let threads: Vec<_> = (0..200u32)
        .map(|number| {
            let dir = folder.path().to_owned();
            std::thread::spawn(move || {
                let mut stream = sandbox::connect(&dir, 5000).unwrap();
                let text = format!("number {number}");
                stream.write_all(text.as_bytes()).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert_eq!(answer, text);
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Answers `question` with `answer to question` on a port, for ever.
fn answering(listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut question = String::new();
                if stream.read_to_string(&mut question).is_ok() {
                    let _ = write!(stream, "answer to {question}");
                }
            });
        }
    });
}

fn with_answers(command: &str, memory_mib: u32) {
    let folder = tempfile::tempdir().unwrap();
    answering(sandbox::listen(folder.path(), 8000).unwrap());
    let mut enclave = start_with(
        folder.path(),
        entries(command),
        memory_mib,
        Isolation::Namespaces,
    )
    .unwrap();
    finish(&mut enclave);
}

fn dial() {
    let folder = tempfile::tempdir().unwrap();
    let listener = sandbox::listen(folder.path(), 8000).unwrap();
    let mode = std::fs::metadata(folder.path().join("vsock.sock_8000"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        sandbox::listen(folder.path(), 8000).unwrap_err().kind(),
        std::io::ErrorKind::AddrInUse
    );
    answering(listener);
    let mut enclave = start(folder.path(), "dial");
    finish(&mut enclave);
}

fn accepts() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "accepts");
    let mut connected = 0;
    let mut streams = Vec::new();
    while enclave.ended().is_none() {
        let wanted = console(&enclave).matches("connect\n").count();
        while connected < wanted {
            let mut stream = enclave.connect(5000).unwrap();
            stream.write_all(&[connected as u8]).unwrap();
            streams.push(stream);
            connected += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    finish(&mut enclave);
    assert_eq!(connected, 8);
}

fn nsm() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "nsm");
    let console = finish(&mut enclave);
    let document = console
        .lines()
        .find_map(|line| line.strip_prefix("document "))
        .unwrap();
    let document = hex::decode(document).unwrap();
    let claimed = anchorhold_attestation::Unverified::parse(&document);
    assert!(claimed.is_ok(), "the document cannot be parsed");
}

fn closed_doors() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "doors");
    let console = finish(&mut enclave);
    let outside = super::doors::attempts();
    let mut seen_open = Vec::new();
    for attempt in &outside {
        assert!(
            !console.contains(&format!("{}: OPEN", attempt.name)),
            "{} is open inside",
            attempt.name
        );
        assert!(
            console.contains(&format!("{}: ", attempt.name)),
            "{} was not tried inside:\n{console}",
            attempt.name
        );
        if attempt.works_outside {
            assert!(
                attempt.result.is_ok(),
                "{} does not work outside either ({:?}), so that its refusal inside means nothing",
                attempt.name,
                attempt.result
            );
            seen_open.push(attempt.name.as_str());
        }
    }
    assert!(!console.contains("OPEN"), "{console}");
    println!(
        "     {} doors closed inside, {} of them seen open outside",
        console.lines().count(),
        seen_open.len()
    );
}

fn job() {
    if !is_root() {
        eprintln!(
            "     (only 0 is mapped for an unprivileged caller, so that there is no other user inside; run as root for this one)"
        );
        return;
    }
    passes("job");
}

fn race() {
    use std::os::linux::net::SocketAddrExt;
    let folder = tempfile::tempdir().unwrap();
    let name = format!("anchorhold-race-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    // So that the test can fail: from outside it is there.
    drop(UnixStream::connect_addr(&address).unwrap());
    listener.accept().unwrap();
    let mut enclave = start(folder.path(), &format!("race {name}"));
    finish(&mut enclave);
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );
}

fn memory_bomb() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "memory-bomb");
    let by = enclave.limits().memory;
    let ended = enclave.wait().unwrap();
    let console = console(&enclave);
    match by {
        EnforcedBy::ControlGroup => {
            assert_eq!(
                ended,
                Ended {
                    how: How::Killed(9),
                    ran_out_of_memory: true
                },
                "{console}"
            );
        }
        _ => assert!(
            ended.how == How::Exited(3) || ended.ran_out_of_memory,
            "{ended} {console}"
        ),
    }
    drop(enclave);
    let mut enclave = start(folder.path(), "memory-bombs");
    let ended = enclave.wait().unwrap();
    assert!(
        ended.ran_out_of_memory && ended.how != How::Exited(0),
        "{ended}"
    );
}

fn flood() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "flood");
    enclave.wait().unwrap();
    let size = std::fs::metadata(enclave.console()).unwrap().len();
    assert!((16 << 20..(16 << 20) + 200).contains(&size), "{size}");
}

fn last_words() {
    let folder = tempfile::tempdir().unwrap();
    let listener = sandbox::listen(folder.path(), 8000).unwrap();
    let mut enclave = start(folder.path(), "last-words");
    enclave.wait().unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut words = Vec::new();
    stream.read_to_end(&mut words).unwrap();
    assert_eq!(words.len(), 150_000);
}

/// What an enclave could leave behind in this process and on this machine.
fn belongings() -> (usize, usize, String, Vec<PathBuf>, usize) {
    let count = |path: &str| std::fs::read_dir(path).unwrap().count();
    let mut groups = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("anchorhold-{}-", std::process::id()))
                {
                    groups.push(entry.path());
                }
                folders.push(entry.path());
            }
        }
    }
    let children = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| {
                stat.rsplit(')')
                    .next()
                    .unwrap_or("")
                    .split_whitespace()
                    .nth(1)
                    == Some(&std::process::id().to_string())
            })
        })
        .count();
    (
        count("/proc/self/fd"),
        count("/proc/self/task"),
        std::fs::read_to_string("/proc/self/mountinfo").unwrap(),
        groups,
        children,
    )
}

fn leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let before = belongings();
    for round in 0..5 {
        let enclave = start(folder.path(), "echo");
        wait_for(&enclave, "listening", 1);
        let streams: Vec<_> = (0..10).map(|_| enclave.connect(5000).unwrap()).collect();
        let inside = enclave.report().pid;
        assert!(Path::new(&format!("/proc/{inside}")).exists());
        let during = belongings();
        assert!(during.4 > before.4, "the test does not see processes");
        drop(enclave);
        drop(streams);
        assert!(
            !Path::new(&format!("/proc/{inside}")).exists(),
            "round {round}"
        );
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.retain(|name| name != "console.log" && name != "log.ndjson");
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(belongings(), before);
}

/// A host program that starts an enclave and does nothing more.
pub(crate) fn host_that_hangs(dir: &str) {
    let enclave = start(Path::new(dir), "sleep");
    println!("{}", enclave.report().pid);
    std::thread::sleep(Duration::from_secs(600));
}

fn dies_with_supervisor() {
    use std::io::BufRead;
    let folder = tempfile::tempdir().unwrap();
    let mut host = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--host", folder.path().to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(host.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let inside: u32 = line.trim().parse().unwrap();
    assert!(Path::new(&format!("/proc/{inside}")).exists());
    host.kill().unwrap();
    host.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while std::fs::read_to_string(format!("/proc/{inside}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
    {
        assert!(
            Instant::now() < until,
            "the enclave outlives its supervisor"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    // What the killed supervisor could not remove does not stand in the next one's way.
    let mut enclave = start(folder.path(), "exit 0");
    finish(&mut enclave);
}

fn refusals() {
    let folder = tempfile::tempdir().unwrap();
    let enclave = start(folder.path(), "echo");
    let error = start_with(
        folder.path(),
        entries("echo"),
        MEMORY_MIB,
        Isolation::Namespaces,
    )
    .unwrap_err();
    assert!(matches!(error, StartError::InUse { .. }), "{error}");
    wait_for(&enclave, "listening", 1);
    assert_eq!(ask(&enclave, 5000, b"alive"), b"alive");
    drop(enclave);

    let error =
        start_with(folder.path(), Vec::new(), MEMORY_MIB, Isolation::Namespaces).unwrap_err();
    assert!(
        matches!(
            error,
            StartError::Init {
                errno: nix::errno::Errno::ENOENT
            }
        ),
        "{error}"
    );
    let error = start_with(folder.path(), entries("echo"), 2, Isolation::Namespaces).unwrap_err();
    assert!(
        matches!(
            error,
            StartError::DoesNotFit { .. } | StartError::TooLittleMemory { .. }
        ),
        "{error}"
    );
    let script = Entry::new(
        b"init",
        0o644,
        0,
        0,
        Content::File(b"not a program".to_vec()),
    )
    .unwrap();
    let error = start_with(
        folder.path(),
        vec![script],
        MEMORY_MIB,
        Isolation::Namespaces,
    )
    .unwrap_err();
    assert!(
        matches!(
            error,
            StartError::Init {
                errno: nix::errno::Errno::EACCES
            }
        ),
        "{error}"
    );
    for cid in [0, 3, 15, u32::MAX] {
        let refused = sandbox::start(Start {
            cid,
            memory_mib: 64,
            cpus: 1,
            directory: folder.path().to_owned(),
            isolation: Isolation::Namespaces,
            loopback: false,
            entries: Vec::new(),
            program: Program::init(),
            nsm: Box::new(|| unreachable!("nothing is started")),
        });
        assert!(matches!(refused, Err(StartError::Cid(_))));
    }
    // An image that is not what it says never runs.
    let refused = sandbox::start(Start {
        cid: CID,
        memory_mib: MEMORY_MIB,
        cpus: 1,
        directory: folder.path().to_owned(),
        isolation: Isolation::Namespaces,
        loopback: false,
        entries: entries("hello"),
        program: Program::init(),
        nsm: Box::new(|| Err(StartError::Nsm("wrong checksum".into()))),
    });
    assert!(matches!(refused, Err(StartError::Nsm(_))));
    assert_eq!(
        std::fs::read(folder.path().join("console.log")).unwrap(),
        b""
    );
    if is_root() {
        // Without a network namespace, the loopback interface would be the host's.
        let refused = sandbox::start(Start {
            cid: CID,
            memory_mib: MEMORY_MIB,
            cpus: 1,
            directory: folder.path().to_owned(),
            isolation: Isolation::Reduced,
            loopback: true,
            entries: entries("hello"),
            program: Program::init(),
            nsm: Box::new(|| unreachable!("nothing is started")),
        });
        assert!(matches!(refused, Err(StartError::LoopbackIsTheHosts)));
    }
    if !is_root() {
        let error = start_with(
            folder.path(),
            entries("echo"),
            MEMORY_MIB,
            Isolation::Reduced,
        )
        .unwrap_err();
        assert!(matches!(error, StartError::ReducedNeedsRoot), "{error}");
    }
}

fn side_by_side() {
    let folders: Vec<_> = (0..8).map(|_| tempfile::tempdir().unwrap()).collect();
    let enclaves: Vec<_> = folders
        .iter()
        .map(|folder| folder.path().to_owned())
        .map(|dir| std::thread::spawn(move || start(&dir, "echo")))
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    for enclave in &enclaves {
        wait_for(enclave, "listening", 1);
        assert_eq!(ask(enclave, 5000, b"each"), b"each");
    }
}

fn reduced() {
    if !is_root() {
        eprintln!("     (reduced isolation needs root; run as root for this one)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let reduced = |command: &str| {
        start_with(
            folder.path(),
            entries(command),
            MEMORY_MIB,
            Isolation::Reduced,
        )
        .unwrap_or_else(|error| panic!("{error}"))
    };
    let mut enclave = reduced("unix");
    assert!(
        enclave
            .report()
            .missing
            .iter()
            .any(|line| line.contains("network namespace"))
    );
    println!("     {}", enclave.report());
    finish(&mut enclave);
    drop(enclave);
    answering(sandbox::listen(folder.path(), 8000).unwrap());
    finish(&mut reduced("dial"));
    finish(&mut reduced("nsm"));
    let mut enclave = reduced("doors");
    let console = finish(&mut enclave);
    assert!(!console.contains("OPEN"), "{console}");
    drop(enclave);

    // Abstract sockets of the host, without a network namespace.
    use std::os::linux::net::SocketAddrExt;
    let name = format!("anchorhold-reduced-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    finish(&mut reduced(&format!("race {name}")));
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        std::io::ErrorKind::WouldBlock
    );

    // Processes that outlive the first one are found and ended.
    let enclave = reduced("echo");
    wait_for(&enclave, "listening", 1);
    assert_eq!(ask(&enclave, 5000, b"hello"), b"hello");
    let before = enclave.report().pid;
    let user = user_of(before.to_string().as_ref()).unwrap();
    assert_ne!(user, "0");
    drop(enclave);
    assert!(!Path::new(&format!("/proc/{before}")).exists());
    let mut enclave = reduced("fork-bomb");
    finish(&mut enclave);
    drop(enclave);
    let left = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| user_of(entry.file_name().as_ref()).as_ref() == Some(&user))
        .count();
    assert_eq!(left, 0, "processes of a reduced enclave are left");
}

/// The user of a process that lives.
fn user_of(process: &Path) -> Option<String> {
    let status = std::fs::read_to_string(Path::new("/proc").join(process).join("status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next().map(str::to_owned)
    };
    field("Uid:").filter(|_| field("State:").as_deref() != Some("Z"))
}

fn image() {
    use anchorhold_attestation::{Time, Unverified};
    use anchorhold_parent::{Launch, launch};
    let folder = tempfile::tempdir().unwrap();
    let root = DevelopmentRoot::generate().unwrap();
    let path = folder.path().join("not-an-image.eif");
    std::fs::write(&path, b"nothing").unwrap();
    let start = Launch::new(&path, CID, folder.path().join("enclave"));
    let error = launch(start, &root).unwrap_err().to_string();
    assert!(error.contains("not-an-image.eif"), "{error}");

    let Some(init) = small_program(ATTESTING) else {
        eprintln!("     (no rustc for a small static program: no image is built)");
        return;
    };
    let program = folder.path().join("program");
    std::fs::write(&program, init).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = folder.path().join("image.eif");
    let source = anchorhold_images::Source::Program {
        file: program.clone(),
    };
    let options = anchorhold_images::BuildOptions::new(source, program, path.clone());
    let built = anchorhold_images::build(&options, &mut |_| {}).unwrap();

    for debug in [false, true] {
        let mut start = Launch::new(&path, CID, folder.path().join("enclave"));
        start.debug = debug;
        let mut enclave = launch(start, &root).unwrap();
        assert_eq!(enclave.limits().memory_mib, 256);
        assert_eq!(enclave.wait().unwrap().how, How::Exited(0));
        let console = std::fs::read_to_string(enclave.console()).unwrap();
        let answer = hex::decode(console.trim()).unwrap();
        // {"Attestation": {"document": bytes}}: the document follows its name and a length of two bytes.
        let name = answer
            .windows(8)
            .position(|window| window == b"document")
            .unwrap();
        let document = &answer[name + 8 + 3..];
        let verified = Unverified::parse(document)
            .unwrap()
            .verify(&[root.anchor()], Time::Document)
            .unwrap();
        let expected = if debug {
            Pcr::ZERO
        } else {
            built.measurements.pcr0
        };
        assert_eq!(verified.pcr(0), Some(expected));
        assert_eq!(verified.is_debug(), debug);
        assert!(verified.module_id().starts_with("i-051b051b051b051b0-enc"));
    }

    // One byte changed: nothing of it runs.
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(10)
        .position(|window| window == b"changeable")
        .unwrap();
    bytes[at] = b'C';
    std::fs::write(&path, bytes).unwrap();
    let error = launch(
        Launch::new(&path, CID, folder.path().join("enclave")),
        &root,
    )
    .unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with(path.to_str().unwrap()) && error.contains("checksum"),
        "{error}"
    );
    assert_eq!(
        std::fs::read(folder.path().join("enclave/console.log")).unwrap(),
        b""
    );
}

/// A first process that prints the NSM's answer to an attestation request.
const ATTESTING: &str = r#"
use std::os::fd::AsRawFd;
unsafe extern "C" { fn ioctl(fd: i32, request: u64, ...) -> i32; }
static MARK: &str = "changeable";
fn main() {
    let nsm = std::fs::File::options().read(true).write(true).open("/dev/nsm").unwrap();
    let request = b"\xa1\x6bAttestation\xa3\x69user_data\xf6\x65nonce\xf6\x6apublic_key\xf6";
    let mut response = [0u8; 0x3000];
    let mut message = [request.as_ptr() as usize, request.len(), response.as_mut_ptr() as usize, response.len()];
    assert_eq!(unsafe { ioctl(nsm.as_raw_fd(), 0xC0200A00, message.as_mut_ptr()) }, 0, "{MARK}");
    let hex: String = response[..message[3]].iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{hex}");
}
"#;

/// The whole way: enclave, sandbox, window, a TCP target.
fn through_the_window() {
    const MIB: f64 = 512.0;
    let folder = tempfile::tempdir().unwrap();
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap().to_string();
    let listener = window::bind(folder.path(), 8000).unwrap();
    let config = WindowConfig {
        allowlist: Allowlist::parse([address.as_str()]).unwrap(),
        ..WindowConfig::default()
    };
    // As in a supervisor: one thread.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            Window::new(config).serve(listener).await;
        });
    });
    let mut enclave = start(folder.path(), &format!("window {address}"));
    let mut buffer = vec![0u8; 256 << 10];
    let rate = |begun: Instant| MIB / begun.elapsed().as_secs_f64();
    let (mut stream, _) = target.accept().unwrap();
    let begun = Instant::now();
    while stream.read(&mut buffer).unwrap() > 0 {}
    println!(
        "     through the window, out of the enclave: {:.0} MiB/s",
        rate(begun)
    );
    drop(stream);
    let (mut stream, _) = target.accept().unwrap();
    let begun = Instant::now();
    for _ in 0..(1 << 29) / buffer.len() {
        stream.write_all(&buffer).unwrap();
    }
    drop(stream);
    println!(
        "     through the window, into the enclave: {:.0} MiB/s",
        rate(begun)
    );
    let (mut stream, _) = target.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    let begun = Instant::now();
    let mut rounds = 0u32;
    while let Ok(1..) = stream.read(&mut buffer) {
        stream.write_all(&[1]).unwrap();
        rounds += 1;
    }
    println!(
        "     through the window, one byte there and back: {:?}",
        begun.elapsed() / rounds.max(1)
    );
    finish(&mut enclave);
}

fn numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut enclave = start(folder.path(), "rounds");
    print!("     {}", finish(&mut enclave));
    drop(enclave);

    let (out, back) = (
        sandbox::listen(folder.path(), 8000).unwrap(),
        sandbox::listen(folder.path(), 8001).unwrap(),
    );
    let ping = sandbox::listen(folder.path(), 8002).unwrap();
    let mut enclave = start(folder.path(), "throughput");
    let rate = |begun: Instant| 1024.0 / begun.elapsed().as_secs_f64();
    let (mut stream, _) = out.accept().unwrap();
    let mut buffer = vec![0u8; 256 << 10];
    let begun = Instant::now();
    while stream.read(&mut buffer).unwrap() > 0 {}
    println!("     out of the enclave: {:.0} MiB/s", rate(begun));
    let (mut stream, _) = back.accept().unwrap();
    let begun = Instant::now();
    for _ in 0..(1 << 30) / buffer.len() {
        stream.write_all(&buffer).unwrap();
    }
    drop(stream);
    println!("     into the enclave: {:.0} MiB/s", rate(begun));
    let (mut stream, _) = ping.accept().unwrap();
    let begun = Instant::now();
    let mut rounds = 0u32;
    while stream.read(&mut buffer).unwrap() > 0 {
        stream.write_all(&[1]).unwrap();
        rounds += 1;
    }
    println!(
        "     one byte there and back: {:?}",
        begun.elapsed() / rounds.max(1)
    );
    finish(&mut enclave);
    drop(enclave);

    through_the_window();

    // Beside a Unix socket pair without anything between.
    let (mut one, mut other) = UnixStream::pair().unwrap();
    let begun = Instant::now();
    let writer = std::thread::spawn(move || {
        let block = vec![7u8; 256 << 10];
        for _ in 0..(1 << 30) / block.len() {
            one.write_all(&block).unwrap();
        }
    });
    while other.read(&mut buffer).unwrap() > 0 {}
    writer.join().unwrap();
    println!(
        "     a socket pair, for comparison: {:.0} MiB/s",
        rate(begun)
    );

    // A small static program, so that the start is measured and not the unpacking of this binary.
    let Some(init) = small_program("fn main() { println!(\"first line\"); }") else {
        eprintln!("     (no rustc for a small static program: the start is not measured)");
        return;
    };
    let entry = || vec![Entry::new(b"init", 0o755, 0, 0, Content::File(init.clone())).unwrap()];
    let before = processor_time();
    let mut starts = Vec::new();
    let mut lines = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let mut enclave = start_with(folder.path(), entry(), 64, Isolation::Namespaces).unwrap();
        starts.push(begun.elapsed());
        while std::fs::metadata(enclave.console()).unwrap().len() == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        lines.push(begun.elapsed());
        enclave.wait().unwrap();
    }
    starts.sort_unstable();
    lines.sort_unstable();
    println!(
        "     start to return {:?}, to first line {:?} (medians of 20), processor time of host and enclave {:?} each",
        starts[10],
        lines[10],
        (processor_time() - before) / 20
    );
}

/// What this process and the children that it has collected have used so far.
fn processor_time() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .map(|who| {
            let usage = getrusage(who).unwrap();
            let micros = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
            Duration::from_micros((micros(usage.user_time()) + micros(usage.system_time())) as u64)
        })
        .sum()
}

fn small_program(text: &str) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().ok()?;
    let source = folder.path().join("init.rs");
    std::fs::write(&source, text).ok()?;
    let done = std::process::Command::new("rustc")
        .args([
            "--edition=2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
            "-o",
        ])
        .arg(folder.path().join("init"))
        .arg(&source)
        .output()
        .ok()?;
    done.status
        .success()
        .then(|| std::fs::read(folder.path().join("init")).ok())?
}
