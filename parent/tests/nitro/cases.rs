//! The tests themselves.

use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, OnceLock};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::device::{Host, PAGE, Point, Shared, eventually, lock, serve};
use super::runner::{Test, run};

const TESTS: &[Test] = &[
    (
        "an_image_goes_through_the_driver_and_its_enclave_beats_is_reached_and_dials",
        whole,
    ),
    ("an_enclave_in_debug_mode_has_a_console", debug),
    (
        "each_error_at_each_step_is_said_with_its_remedy_and_leaves_nothing",
        errors,
    ),
    (
        "a_hypervisor_that_gives_another_cid_is_not_taken_at_its_word",
        other_cid,
    ),
    (
        "what_the_host_lacks_is_said_before_anything_is_taken",
        lacks,
    ),
    (
        "two_enclaves_share_the_hosts_ports_and_outlive_the_keeper_of_them",
        sharing,
    ),
    ("an_enclave_ends_with_its_supervisor", killed),
    ("an_image_without_a_kernel_is_refused", no_kernel),
];

pub(crate) fn main(arguments: &[String]) {
    run(TESTS, arguments);
}

/// The image: a static program as its first process, and something for a kernel.
fn image() -> &'static Path {
    static IMAGE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    &IMAGE
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("image.eif");
            build(folder.path(), &path, true);
            (folder, path)
        })
        .1
}

fn build(folder: &Path, image: &Path, with_kernel: bool) {
    let (source, init) = (folder.join("program.rs"), folder.join("init"));
    std::fs::write(&source, include_str!("program.rs")).unwrap();
    let compiled = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--edition=2024", "-O", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "-A", "warnings", "-o"])
        .arg(&init)
        .arg(&source)
        .output()
        .unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755)).unwrap();
    let source = anchorhold_images::Source::Program { file: init.clone() };
    let mut options = anchorhold_images::BuildOptions::new(source, init, image.to_owned());
    if with_kernel {
        let kernel = folder.join("kernel");
        std::fs::write(&kernel, vec![b'k'; 3_000_000]).unwrap();
        options.kernel = Some(kernel);
    }
    anchorhold_images::build(&options, &mut |_| {}).unwrap();
}

/// A program under test, whose calls a host answers.
struct Program {
    child: Child,
    input: UnixStream,
    output: BufReader<ChildStdout>,
    dir: PathBuf,
}

impl Program {
    fn start(
        host: &Shared,
        folder: &Path,
        image: &Path,
        resources: [u32; 3],
        mode: &str,
    ) -> Program {
        let [cid, memory, cpus] = resources;
        let dir = folder.join(format!("enclave-{cid}"));
        let (input, theirs) = UnixStream::pair().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .arg("--under-test")
            .args([image, &dir, &folder.join("ports")])
            .args([cid, memory, cpus].map(|number| number.to_string()))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped());
        if !mode.is_empty() {
            command.arg(mode);
        }
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let calls = receive(&input);
        let (host, pid) = (Arc::clone(host), child.id());
        std::thread::spawn(move || serve(&host, &calls, pid));
        Program {
            child,
            input,
            output,
            dir,
        }
    }

    /// Its next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(
            self.output.read_line(&mut line).unwrap() > 0,
            "the program under test ended without a word"
        );
        line.trim().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.line()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn receive(line: &UnixStream) -> OwnedFd {
    let mut byte = [0];
    let mut room = cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(
        line.as_raw_fd(),
        &mut parts,
        Some(&mut room),
        MsgFlags::empty(),
    )
    .unwrap();
    let file = message.cmsgs().unwrap().find_map(|message| match message {
        ControlMessageOwned::ScmRights(files) => files.first().copied(),
        _ => None,
    });
    super::sys::own(file.expect("a descriptor"))
}

const CID: u32 = 20;
/// MiB: room for the image behind the first 8, and for the sandbox that plays the enclave.
const MEMORY: u32 = 128;

fn host(pages: u32) -> (tempfile::TempDir, Shared) {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::new(folder.path(), pages);
    (folder, host)
}

fn plenty() -> (tempfile::TempDir, Shared) {
    host(1000)
}

fn whole() {
    let (folder, host) = plenty();
    let mut program = Program::start(&host, folder.path(), image(), [CID, MEMORY, 2], "");
    assert_eq!(program.line(), "started: Nitro enclave, 128 MiB, 2 CPUs");
    assert_eq!(program.ask("echo"), "echoed: true");
    assert_eq!(program.ask("dial"), "dialled: answer of 20 to question");
    assert_eq!(program.ask("nobody"), "refused: ConnectionRefused");
    assert_eq!(lock(&host).running(), 1);
    // What was started is the image, byte for byte: it lay in the memory that was handed over.
    assert_eq!(
        std::fs::read(folder.path().join("started-20.eif")).unwrap(),
        std::fs::read(image()).unwrap()
    );
    assert_eq!(
        program.ask("exit"),
        "ended: the virtual machine ended by itself"
    );
    eventually("an ended enclave gives everything back", || {
        lock(&host).is_idle()
    });
    assert_eq!(program.ask("kill"), "left: []");
}

fn debug() {
    let (folder, host) = plenty();
    let mut program = Program::start(&host, folder.path(), image(), [CID, MEMORY, 2], "debug");
    program.line();
    assert_eq!(program.ask("dial"), "dialled: answer of 20 to question");
    let console = program.dir.join("console.log");
    eventually("the console says what the enclave prints", || {
        std::fs::read_to_string(&console).is_ok_and(|text| text.contains("the enclave is up"))
    });
    assert_eq!(program.ask("kill"), "left: []");
    assert!(console.exists());
    eventually("a killed enclave gives everything back", || {
        lock(&host).is_idle()
    });
}

fn errors() {
    let own = [
        (Point::Open, 1, libc::EACCES, "usermod"),
        (Point::Create, 1, 272, "NE_ERR_NO_CPUS_AVAIL_IN_POOL"),
        (Point::HugePages, 1, libc::ENOMEM, "reserve more huge pages"),
        (Point::LoadInfo, 1, 274, "NE_ERR_INVALID_FLAG_VALUE"),
        (Point::Memory, 1, 259, "NE_ERR_INVALID_MEM_REGION_SIZE"),
        (Point::Memory, 1, 260, "NE_ERR_INVALID_MEM_REGION_ADDR"),
        (Point::Memory, 1, 261, "NE_ERR_UNALIGNED_MEM_REGION_ADDR"),
        (Point::Memory, 1, 262, "NE_ERR_MEM_REGION_ALREADY_USED"),
        (Point::Memory, 1, 263, "NE_ERR_MEM_NOT_HUGE_PAGE"),
        (Point::Memory, 1, 264, "NE_ERR_MEM_DIFFERENT_NUMA_NODE"),
        (Point::Memory, 1, 265, "NE_ERR_MEM_MAX_REGIONS"),
        (Point::Memory, 1, 273, "NE_ERR_INVALID_PAGE_SIZE"),
        (Point::Cpu, 1, 256, "NE_ERR_VCPU_ALREADY_USED"),
        (Point::Cpu, 2, 257, "NE_ERR_VCPU_NOT_IN_CPU_POOL"),
        (Point::Cpu, 1, 258, "NE_ERR_VCPU_INVALID_CPU_CORE"),
        (Point::Cpu, 2, 271, "NE_ERR_INVALID_VCPU"),
        (Point::Start, 1, 266, "NE_ERR_NO_MEM_REGIONS_ADDED"),
        (Point::Start, 1, 267, "NE_ERR_NO_VCPUS_ADDED"),
        (Point::Start, 1, 268, "NE_ERR_ENCLAVE_MEM_MIN_SIZE"),
        (Point::Start, 1, 269, "NE_ERR_FULL_CORES_NOT_USED"),
        (Point::Start, 1, 270, "NE_ERR_NOT_IN_INIT_STATE"),
        (Point::Start, 1, 275, "NE_ERR_INVALID_ENCLAVE_CID"),
        (Point::Start, 1, libc::EINVAL, "dmesg"),
    ];
    let (folder, host) = plenty();
    for (point, count, number, said) in own {
        lock(&host).fail(point, count, number);
        let mut program = Program::start(&host, folder.path(), image(), [CID, MEMORY, 2], "");
        let error = program.line();
        assert!(
            error.starts_with("failed: ") && error.contains(said),
            "{point:?} {number}: {error}"
        );
        assert_eq!(program.line(), "left: []", "{point:?} {number}");
        drop(program);
        eventually("a failed start gives everything back", || {
            lock(&host).is_idle()
        });
    }
}

fn other_cid() {
    let (folder, host) = plenty();
    lock(&host).answers_other_cid = true;
    let mut program = Program::start(&host, folder.path(), image(), [CID, MEMORY, 2], "");
    assert_eq!(
        program.line(),
        "failed: the enclave was started with CID 21 instead of 20, and was stopped again"
    );
    assert_eq!(program.line(), "left: []");
    eventually("it is stopped", || lock(&host).is_idle());
}

fn lacks() {
    let (folder, host) = host(40);
    for (resources, said) in [
        ([CID, MEMORY, 2], "80 MiB of 80 are free"),
        ([CID, 64, 1], "ask for 2 CPUs instead of 1"),
        ([CID, 64, 6], "raise cpu_count"),
        ([CID, 16, 2], "64 MiB at least"),
    ] {
        let mut program = Program::start(&host, folder.path(), image(), resources, "");
        let error = program.line();
        assert!(error.contains(said), "{error}");
        assert_eq!(program.line(), "left: []");
    }
    // The driver was not even asked.
    lock(&host).fail(Point::Open, 1, libc::EIO);
    let mut program = Program::start(&host, folder.path(), image(), [CID, 64, 2], "");
    assert!(program.line().contains("Input/output error"));
    assert_eq!(PAGE, 2 << 20);
}

fn sharing() {
    let (folder, host) = plenty();
    let start = |cid| {
        let mut program = Program::start(&host, folder.path(), image(), [cid, MEMORY, 2], "");
        assert!(program.line().starts_with("started"));
        program
    };
    let (mut keeper, mut follower) = (start(20), start(21));
    assert_eq!(keeper.ask("dial"), "dialled: answer of 20 to question");
    assert_eq!(follower.ask("dial"), "dialled: answer of 21 to question");
    assert_eq!(follower.ask("echo"), "echoed: true");
    // Killed without a chance to say so.
    drop(keeper);
    eventually("its enclave ends with it", || lock(&host).running() == 1);
    let ports = folder.path().join("host-8000");
    eventually("the other one listens in its place", || {
        UnixStream::connect(&ports).is_ok()
    });
    assert_eq!(follower.ask("dial"), "dialled: answer of 21 to question");
    let mut third = start(22);
    assert_eq!(third.ask("dial"), "dialled: answer of 22 to question");
    assert_eq!(follower.ask("dial"), "dialled: answer of 21 to question");
}

fn killed() {
    let (folder, host) = plenty();
    let mut program = Program::start(&host, folder.path(), image(), [CID, MEMORY, 4], "");
    assert_eq!(program.line(), "started: Nitro enclave, 128 MiB, 4 CPUs");
    drop(program);
    eventually("the enclave of a killed supervisor ends", || {
        lock(&host).is_idle()
    });
}

fn no_kernel() {
    let (folder, host) = plenty();
    let image = folder.path().join("plain.eif");
    build(folder.path(), &image, false);
    let mut program = Program::start(&host, folder.path(), &image, [CID, MEMORY, 2], "");
    let error = program.line();
    assert!(
        error.contains("plain.eif has no kernel") && error.contains("--kernel"),
        "{error}"
    );
}
