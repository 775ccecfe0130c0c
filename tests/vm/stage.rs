//! What these tests have in common: images of the test guest, and machines that run them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anchorhold_images::cargo_static::StaticBuild;
use anchorhold_images::{BuildOptions, DEFAULT_COMMAND_LINE, Source};
use anchorhold_parent::{Backend, Enclave, Ended, Launch, LaunchError, launch, sandbox};
use anchorhold_simulator::DevelopmentRoot;

use crate::common::{WORKSPACE, vm_folder};

/// Longest wait for something that must come, on a busy machine that emulates another.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

fn program(package: &str, bin: &str) -> PathBuf {
    let mut build = StaticBuild::new(&Path::new(WORKSPACE).join(package));
    build.bin = Some(bin.to_owned());
    build.target_dir = Some(Path::new(WORKSPACE).join("target/static"));
    build.run(&mut |_| ()).unwrap().path
}

/// The test guest.
pub(crate) fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| program("tests/vm/guest", "guest"))
}

/// The enclave's runtime.
pub(crate) fn runtime() -> &'static Path {
    static RUNTIME: OnceLock<PathBuf> = OnceLock::new();
    RUNTIME.get_or_init(|| program("enclave", "anchorhold-enclave"))
}

/// Builds an image with a kernel.
pub(crate) fn image(folder: &Path, init: &Path, change: impl FnOnce(&mut BuildOptions)) -> PathBuf {
    let path = folder.join("image.eif");
    let source = Source::Program {
        file: guest().to_owned(),
    };
    let mut options = BuildOptions::new(source, init.to_owned(), path.clone());
    options.kernel = Some(vm_folder().join("vmlinuz"));
    change(&mut options);
    anchorhold_images::build(&options, &mut |_| ()).unwrap();
    path
}

/// An image whose guest does that.
pub(crate) fn told(folder: &Path, word: &str) -> PathBuf {
    image(folder, guest(), |options| {
        options.command_line = Some(format!("{DEFAULT_COMMAND_LINE} guest={word}"));
    })
}

/// A machine with its folder, and who answers its heartbeats.
pub(crate) struct Machine {
    pub(crate) enclave: Enclave,
    pub(crate) folder: tempfile::TempDir,
    beats: Receiver<()>,
    answers: Option<std::thread::JoinHandle<()>>,
    over: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

pub(crate) fn folder() -> tempfile::TempDir {
    // Short, since sockets' paths are bounded.
    tempfile::Builder::new()
        .prefix("ah-")
        .tempdir_in("/tmp")
        .unwrap()
}

/// What starts an image in a machine of 96 MiB.
pub(crate) fn order(image: &Path, folder: &Path) -> Launch {
    static CID: AtomicU32 = AtomicU32::new(7000);
    let mut launch = Launch::new(
        image,
        CID.fetch_add(1, Ordering::Relaxed),
        folder.join("enclave"),
    );
    launch.backend = Backend::Qemu;
    launch.qemu = Some(vm_folder().join("bin/qemu-system-x86_64"));
    launch.memory_mib = Some(96);
    launch
}

pub(crate) fn start(folder: tempfile::TempDir, launch_as: Launch) -> Result<Machine, LaunchError> {
    std::fs::create_dir_all(&launch_as.dir).unwrap();
    let heartbeat = sandbox::listen(&launch_as.dir, 9000).unwrap();
    let (sender, beats) = channel();
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let theirs = std::sync::Arc::clone(&over);
    let answers = std::thread::spawn(move || answer_beats(&heartbeat, &sender, &theirs));
    let root = DevelopmentRoot::load_or_create(&folder.path().join("root")).unwrap();
    let enclave = launch(launch_as, &root)?;
    Ok(Machine {
        enclave,
        folder,
        beats,
        answers: Some(answers),
        over,
    })
}

fn answer_beats(
    listener: &UnixListener,
    sender: &std::sync::mpsc::Sender<()>,
    over: &std::sync::atomic::AtomicBool,
) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        if over.load(Ordering::Acquire) {
            return;
        }
        let mut beat = [0];
        if stream.read_exact(&mut beat).is_ok() && beat == [0xb7] {
            let _ = stream.write_all(&beat);
            if sender.send(()).is_err() {
                return;
            }
        }
    }
}

/// A machine whose guest does that.
pub(crate) fn run(word: &str) -> Machine {
    let folder = folder();
    let image = told(folder.path(), word);
    let order = order(&image, folder.path());
    start(folder, order).unwrap()
}

impl Machine {
    /// Waits for the next heartbeat.
    pub(crate) fn beat(&self) {
        let beat = self.beats.recv_timeout(PATIENCE);
        assert!(beat.is_ok(), "no heartbeat:\n{}", self.console());
    }

    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.enclave.console()).unwrap()).into_owned()
    }

    /// The end of a machine that ends by itself.
    pub(crate) fn ended(&mut self) -> Ended {
        let begun = Instant::now();
        loop {
            if let Some(ended) = self.enclave.ended() {
                return ended;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "it runs on:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A connection to the guest, which does `what` with it.
    pub(crate) fn ask(&self, what: u8, numbers: &[u64]) -> UnixStream {
        let mut stream = self.enclave.connect(5000).unwrap();
        let mut order = vec![what];
        for number in numbers {
            order.extend(number.to_le_bytes());
        }
        stream.write_all(&order).unwrap();
        stream
    }

    /// Ends the thread that answers heartbeats.
    fn silence(&mut self) {
        if let Some(answers) = self.answers.take() {
            self.over.store(true, Ordering::Release);
            let _ = UnixStream::connect(self.enclave.dir().join("vsock.sock_9000"));
            let _ = answers.join();
        }
    }

    /// What the guest says until it hangs up.
    pub(crate) fn hear(stream: &mut UnixStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("console:\n{}", self.console());
        }
        self.silence();
    }
}
