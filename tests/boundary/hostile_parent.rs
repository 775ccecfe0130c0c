//! A parent that lies: an enclave in this process, and a window in which each test answers what it likes.
//!
//! It is honest until told otherwise, so that each test can show first that the same set-up works.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anchorhold_parent::client::ClientError;
use anchorhold_parent::{Enclave, launch, sandbox};

use crate::common::{House, Who};
use crate::stage;

/// Longest wait for something that must come.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a `CONNECT` leads to: given the enclave's end, the target, and a ledger of what is carried.
type Handler = Arc<dyn Fn(UnixStream, &str, &Ledger) + Send + Sync>;

/// What the window answers. All but `connect` are whole HTTP answers, or what a liar sends in their place.
#[derive(Clone)]
struct Ways {
    connect: Handler,
    credentials: Vec<u8>,
    secrets: BTreeMap<String, Vec<u8>>,
}

/// One relayed connection.
#[derive(Default)]
pub(crate) struct Carried {
    /// From the enclave.
    pub(crate) up: Vec<u8>,
    /// To the enclave.
    pub(crate) down: Vec<u8>,
}

/// What all relays have carried, and which are open.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<(Mutex<Book>, Condvar)>);

#[derive(Default)]
struct Book {
    carried: Vec<Arc<Mutex<Carried>>>,
    open: BTreeMap<usize, UnixStream>,
}

/// How many bytes a relay carries in each direction before it is cut.
#[derive(Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) up: usize,
    pub(crate) down: usize,
}

impl Cut {
    pub(crate) const NEVER: Cut = Cut {
        up: usize::MAX,
        down: usize::MAX,
    };
}

/// An enclave and its parent. It ends with the value.
pub(crate) struct HostileParent {
    enclave: Enclave,
    folder: PathBuf,
    ways: Arc<Mutex<Ways>>,
    honest: Ways,
    ledger: Ledger,
    ended: Arc<AtomicBool>,
}

impl HostileParent {
    /// Starts an image and waits until it serves.
    pub(crate) fn start(house: &House, name: &str, image: &Path) -> Self {
        Self::with_secrets(house, name, image, &[])
    }

    /// Hands in sealed secrets.
    pub(crate) fn with_secrets(
        house: &House,
        name: &str,
        image: &Path,
        secrets: &[(&str, Vec<u8>)],
    ) -> Self {
        Self::at(house, name, image, secrets, 0)
    }

    /// Attestation documents' time is so many seconds ahead of the system's clock, which the enclave shares with this host.
    pub(crate) fn at(
        house: &House,
        name: &str,
        image: &Path,
        secrets: &[(&str, Vec<u8>)],
        ahead: i64,
    ) -> Self {
        // Sandboxes have no common address space of CIDs, but keep them apart as a machine would.
        static CID: AtomicU32 = AtomicU32::new(5000);
        let (id, secret) = Who::Host.credentials();
        let credentials = serde_json::json!({
            "AccessKeyId": id,
            "SecretAccessKey": secret,
            // Long ago, so that they are asked for each time and a later lie is heard.
            "Expiration": "2000-01-01T00:00:00Z",
        });
        let honest = Ways {
            connect: Arc::new(|enclave, target, ledger| match TcpStream::connect(target) {
                Ok(remote) => relay(enclave, remote, Cut::NEVER, ledger),
                Err(error) => panic!("{target}: {error}"),
            }),
            credentials: http(200, credentials.to_string().as_bytes()),
            secrets: secrets
                .iter()
                .map(|(name, sealed)| ((*name).to_owned(), http(200, sealed)))
                .collect(),
        };
        let folder = house.path(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .expect("the enclave's folder");
        let ways = Arc::new(Mutex::new(honest.clone()));
        let ledger = Ledger::default();
        let ended = Arc::new(AtomicBool::new(false));

        let window = sandbox::listen(&folder, 8000).expect("the window's socket");
        {
            let (ways, ledger, ended) = (Arc::clone(&ways), ledger.clone(), Arc::clone(&ended));
            std::thread::spawn(move || serve_window(&window, &ways, &ledger, &ended));
        }
        let heartbeat = sandbox::listen(&folder, 9000).expect("the heartbeat's socket");
        let (beats, serving) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut stream, _) = heartbeat.accept().expect("a heartbeat");
            let mut beat = [0];
            stream.read_exact(&mut beat).expect("a beat");
            stream.write_all(&beat).expect("an echo");
            let _ = beats.send(beat[0]);
        });

        let cid = CID.fetch_add(1, Ordering::Relaxed);
        let mut order = crate::common::launch(image, cid, &folder);
        order.nsm_clock_offset = ahead;
        let enclave = launch(order, &stage::root(house)).expect("the enclave starts");
        let parent = Self {
            enclave,
            folder,
            ways,
            honest,
            ledger,
            ended,
        };
        match serving.recv_timeout(PATIENCE) {
            Ok(beat) => assert_eq!(beat, 0xB7),
            Err(mpsc::RecvTimeoutError::Timeout | mpsc::RecvTimeoutError::Disconnected) => {
                panic!("the enclave does not serve:\n{}", parent.console())
            }
        }
        parent
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Sends a sealed message through the enclave.
    pub(crate) fn call(&self, message: &[u8]) -> Result<Vec<u8>, ClientError> {
        stage::call(&self.folder, message)
    }

    /// Sends a message through the enclave, which must refuse it for one of these reasons, to the caller and on its
    /// console.
    pub(crate) fn must_refuse(&self, message: &[u8], reasons: &[&str]) -> String {
        let before = self.console().len();
        let Err(error) = self.call(message) else {
            panic!("the call succeeded; it should have failed with one of {reasons:?}");
        };
        let said = error.to_string();
        assert!(
            reasons.iter().any(|reason| said.contains(reason)),
            "{said}\n(expected one of {reasons:?})"
        );
        let console = self.console_after(before, "a call failed: ");
        assert!(
            reasons.iter().any(|reason| console.contains(reason)),
            "{console}\n(expected one of {reasons:?})"
        );
        said
    }

    /// All that the enclave has printed.
    pub(crate) fn console(&self) -> String {
        let bytes = std::fs::read(self.enclave.console()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines that it has printed after the first `before` bytes, once one of them holds `word`. (A console comes in pieces.)
    pub(crate) fn console_after(&self, before: usize, word: &str) -> String {
        let since = Instant::now();
        loop {
            let console = self.console();
            let new = console.get(before..).unwrap_or_default();
            let whole = new.rfind('\n').map_or("", |end| &new[..end]);
            if whole.contains(word) {
                return whole.to_owned();
            }
            assert!(
                since.elapsed() < PATIENCE,
                "the console never said {word:?}:\n{console}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Tells the truth again. Connections that lies were told on are gone once this returns.
    pub(crate) fn be_honest(&self) {
        *lock(&self.ways) = self.honest.clone();
        self.ledger.end_relays();
    }

    /// Answers `CONNECT` with 200 and then as the handler does. Older connections are gone once this returns.
    pub(crate) fn connects_to(
        &self,
        handler: impl Fn(UnixStream, &str, &Ledger) + Send + Sync + 'static,
    ) {
        lock(&self.ways).connect = Arc::new(move |mut enclave, target, ledger| {
            // An enclave that has hung up meanwhile needs no answer.
            if enclave.write_all(ESTABLISHED).is_ok() {
                handler(enclave, target, ledger);
            }
        });
        self.ledger.end_relays();
    }

    /// Answers `CONNECT` with these bytes and hangs up.
    pub(crate) fn answers_connect_with(&self, answer: Vec<u8>) {
        lock(&self.ways).connect = Arc::new(move |enclave, _, _| say(enclave, &answer));
        self.ledger.end_relays();
    }

    /// Relays to the true target, and cuts each connection.
    pub(crate) fn cuts(&self, cut: Cut) {
        self.connects_to(
            move |enclave, target, ledger| match TcpStream::connect(target) {
                Ok(remote) => carry(enclave, remote, cut, ledger),
                Err(error) => panic!("{target}: {error}"),
            },
        );
    }

    /// Answers `GET /credentials` with these bytes and hangs up.
    pub(crate) fn answers_credentials_with(&self, answer: Vec<u8>) {
        lock(&self.ways).credentials = answer;
        self.ledger.end_relays();
    }

    /// The answer that an honest parent gives to `GET /credentials`.
    pub(crate) fn honest_credentials(&self) -> Vec<u8> {
        self.honest.credentials.clone()
    }

    /// Answers `GET /secrets/<name>` with these bytes and hangs up.
    pub(crate) fn answers_secret_with(&self, name: &str, answer: Vec<u8>) {
        lock(&self.ways).secrets.insert(name.to_owned(), answer);
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl Drop for HostileParent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("console of {}:\n{}", self.folder.display(), self.console());
        }
        self.enclave.kill();
        self.ended.store(true, Ordering::Release);
        // Wakes the window, so that its thread ends.
        let _ = UnixStream::connect(self.folder.join("vsock.sock_8000"));
    }
}

impl Ledger {
    /// What each connection since the last call of this has carried, the finished and the open.
    pub(crate) fn take_carried(&self) -> Vec<Arc<Mutex<Carried>>> {
        std::mem::take(&mut lock(&self.0.0).carried)
    }

    /// A new connection; returns its number.
    pub(crate) fn open(&self, enclave: &UnixStream) -> (usize, Arc<Mutex<Carried>>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) as usize;
        let carried = Arc::new(Mutex::new(Carried::default()));
        let mut book = lock(&self.0.0);
        book.carried.push(Arc::clone(&carried));
        book.open
            .insert(number, enclave.try_clone().expect("another handle"));
        (number, carried)
    }

    pub(crate) fn close(&self, number: usize) {
        lock(&self.0.0).open.remove(&number);
        self.0.1.notify_all();
    }

    /// Ends all connections, and returns when the enclave has let go of them.
    fn end_relays(&self) {
        let (book, ended) = &*self.0;
        let book = lock(book);
        for stream in book.open.values() {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let (book, outcome) = ended
            .wait_timeout_while(book, PATIENCE, |book| !book.open.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            !outcome.timed_out(),
            "the enclave holds on to {} ended connections",
            book.open.len()
        );
    }
}

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// A whole HTTP answer.
pub(crate) fn http(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn serve_window(
    listener: &UnixListener,
    ways: &Arc<Mutex<Ways>>,
    ledger: &Ledger,
    ended: &AtomicBool,
) {
    while let Ok((stream, _)) = listener.accept() {
        if ended.load(Ordering::Acquire) {
            return;
        }
        let (ways, ledger) = (lock(ways).clone(), ledger.clone());
        std::thread::spawn(move || answer(stream, &ways, &ledger));
    }
}

fn answer(mut stream: UnixStream, ways: &Ways, ledger: &Ledger) {
    // Byte by byte, since what follows the head of a CONNECT is not for the window.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).expect("requests are ASCII");
    let mut words = head.split(' ');
    match (words.next(), words.next()) {
        (Some("CONNECT"), Some(target)) => (ways.connect)(stream, target, ledger),
        (Some("GET"), Some("/credentials")) => say(stream, &ways.credentials),
        (Some("GET"), Some(path)) => {
            let secret = path
                .strip_prefix("/secrets/")
                .and_then(|name| ways.secrets.get(name));
            say(stream, secret.map_or(&http(404, b"{}"), |answer| answer));
        }
        _ => panic!("the enclave asked its parent {head:?}"),
    }
}

/// Says it and hangs up.
pub(crate) fn say(mut enclave: UnixStream, bytes: &[u8]) {
    // A liar does not mind when nobody listens any more.
    let _ = enclave.write_all(bytes);
    let _ = enclave.shutdown(Shutdown::Both);
}

/// Answers `CONNECT` and carries.
fn relay(mut enclave: UnixStream, remote: TcpStream, cut: Cut, ledger: &Ledger) {
    if enclave.write_all(ESTABLISHED).is_ok() {
        carry(enclave, remote, cut, ledger);
    }
}

/// Carries bytes both ways until both sides have finished, or until it is time to cut.
pub(crate) fn carry(enclave: UnixStream, remote: TcpStream, cut: Cut, ledger: &Ledger) {
    let (number, carried) = ledger.open(&enclave);
    let _ = remote.set_nodelay(true);
    let (enclave, remote) = (Arc::new(enclave), Arc::new(remote));
    let sever = {
        let (enclave, remote) = (Arc::clone(&enclave), Arc::clone(&remote));
        Arc::new(move || {
            let _ = enclave.shutdown(Shutdown::Both);
            let _ = remote.shutdown(Shutdown::Both);
        })
    };
    let up = {
        let (enclave, remote) = (Arc::clone(&enclave), Arc::clone(&remote));
        let (carried, sever) = (Arc::clone(&carried), Arc::clone(&sever));
        move || {
            let note = |bytes: &[u8]| lock(&carried).up.extend_from_slice(bytes);
            if copy(&*enclave, &*remote, cut.up, note).is_err() {
                sever();
            } else {
                let _ = remote.shutdown(Shutdown::Write);
            }
        }
    };
    let down = {
        let carried = Arc::clone(&carried);
        move || {
            let note = |bytes: &[u8]| lock(&carried).down.extend_from_slice(bytes);
            if copy(&*remote, &*enclave, cut.down, note).is_err() {
                sever();
            } else {
                let _ = enclave.shutdown(Shutdown::Write);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(up);
        scope.spawn(down);
    });
    ledger.close(number);
}

/// Copies until the end, or an error, which `limit` bytes are as well.
fn copy(
    mut from: impl Read,
    mut to: impl Write,
    limit: usize,
    note: impl Fn(&[u8]),
) -> io::Result<()> {
    let mut left = limit;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if left == 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let room = buffer.len().min(left);
        let count = from.read(&mut buffer[..room])?;
        if count == 0 {
            return Ok(());
        }
        left -= count;
        note(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
