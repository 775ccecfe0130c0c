//! Ingresses as their clients see them, before an enclave that a Unix socket plays.

use super::*;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

/// What the enclave does with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Sends back what it hears, after the end of it.
    Echo,
    /// Reads nothing and says nothing.
    Sits,
    /// Its port has nobody.
    Refuses,
    /// Says something else than that the port has it.
    Lies(&'static [u8]),
    /// Does not answer.
    Ignores,
}

struct Enclave {
    dir: tempfile::TempDir,
    heard_of: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Enclave {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Enclave {
    fn new(does: Does) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("vsock.sock")).unwrap();
        let heard_of = Arc::new(AtomicUsize::new(0));
        let counter = heard_of.clone();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut line = Vec::new();
                    while line.last() != Some(&b'\n') {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        line.push(byte);
                    }
                    assert_eq!(line, b"SOCKET 5000\n");
                    match does {
                        Does::Refuses => return,
                        Does::Ignores => std::future::pending().await,
                        Does::Lies(words) => {
                            while stream.write_all(words).await.is_ok() {}
                            return;
                        }
                        Does::Echo | Does::Sits => {
                            stream.write_all(b"OK 1073741824\n").await.unwrap();
                        }
                    }
                    if does == Does::Sits {
                        std::future::pending::<()>().await;
                    }
                    let mut heard = Vec::new();
                    if stream.read_to_end(&mut heard).await.is_ok() {
                        let _ = stream.write_all(&heard).await;
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        Self {
            dir,
            heard_of,
            task,
        }
    }

    fn heard_of(&self) -> usize {
        self.heard_of.load(Ordering::Relaxed)
    }

    fn door(&self, listener: &std::net::TcpListener, rules: Rules) -> Door {
        let socket = listener.try_clone().unwrap().into();
        Door::open(socket, self.dir.path(), 5000, rules, None).unwrap()
    }
}

struct Served {
    enclave: Enclave,
    door: Door,
    address: SocketAddr,
}

fn served(does: Does, rules: Rules) -> Served {
    let enclave = Enclave::new(does);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let door = enclave.door(&listener, rules);
    Served {
        enclave,
        door,
        address,
    }
}

impl Served {
    /// Connects as one of the addresses 127.0.0.0/8.
    async fn try_connect_as(&self, last: u8) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(Ipv4Addr::new(127, 0, 0, last).into(), 0))?;
        socket.connect(self.address).await
    }

    async fn connect_as(&self, last: u8) -> TcpStream {
        self.try_connect_as(last).await.unwrap()
    }

    /// Whether a connection is turned away, which may show at once, as an end, or as a reset.
    async fn turns_away(&self, last: u8) -> bool {
        match self.try_connect_as(last).await {
            Ok(mut stream) => !matches!(stream.read(&mut [0; 1]).await, Ok(1..)),
            Err(_) => true,
        }
    }

    /// Sends all, ends, and reads all; an error where the connection was turned away or cut.
    async fn exchange_as(&self, last: u8, bytes: &[u8]) -> io::Result<Vec<u8>> {
        exchange(self.try_connect_as(last).await?, bytes).await
    }

    async fn connect(&self) -> TcpStream {
        self.connect_as(1).await
    }

    fn refused(&self, reason: &str) -> u64 {
        *self.door.counts().refused.get(reason).unwrap_or(&0)
    }
}

/// Sends all, ends, and reads all; an error where the connection was reset.
async fn exchange(mut stream: TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    stream.shutdown().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn connections_reach_the_enclaves_port_and_are_counted() {
    let served = served(Does::Echo, Rules::default());
    let bytes = vec![7; 300_000];
    let answer = exchange(served.connect().await, &bytes).await.unwrap();
    assert!(answer == bytes);
    let counts = served.door.counts();
    assert_eq!((counts.flows, counts.bytes_to_enclave), (1, 300_000));
    assert_eq!(counts.bytes_from_enclave, 300_000);
    assert_eq!(counts.latency.counts.iter().sum::<u64>(), 1);
    assert!(counts.refused.is_empty());
}

#[tokio::test]
async fn a_unix_sockets_clients_are_told_apart_by_user() {
    let enclave = Enclave::new(Does::Sits);
    let path = enclave.dir.path().join("ingress");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let rules = Rules {
        source_connections: 1,
        ..Rules::default()
    };
    let door = Door::open(listener.into(), enclave.dir.path(), 5000, rules, None).unwrap();
    let _first = UnixStream::connect(&path).await.unwrap();
    let mut second = UnixStream::connect(&path).await.unwrap();
    assert!(!matches!(second.read(&mut [0; 1]).await, Ok(1..)));
    assert_eq!(door.counts().refused["source-full"], 1);
    assert_eq!(door.flows(), 1);
}

#[tokio::test]
async fn denied_sources_and_those_beyond_their_places_are_turned_away_unheard() {
    let rules = Rules {
        deny: vec!["127.0.0.9/32".parse().unwrap()],
        connections: 3,
        source_connections: 2,
        ..Rules::default()
    };
    let served = served(Does::Sits, rules);
    assert!(served.turns_away(9).await);
    let first = served.connect_as(1).await;
    let _second = served.connect_as(1).await;
    assert!(served.turns_away(1).await);
    let _third = served.connect_as(2).await;
    assert!(served.turns_away(3).await);
    let refusals = ["denied", "source-full", "full"].map(|reason| served.refused(reason));
    assert_eq!(refusals, [1, 1, 1]);
    // A place that is given back is had by the next.
    first.set_zero_linger().unwrap();
    drop(first);
    while served.door.flows() > 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let _again = served.connect_as(1).await;
    while served.enclave.heard_of() < 4 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(served.enclave.heard_of(), 4);
}

#[tokio::test]
async fn a_flood_is_shed_before_the_enclave_hears_of_it_and_others_keep_their_service() {
    let rules = Rules {
        source_new_per_second: Some(5),
        ..Rules::default()
    };
    let served = served(Does::Echo, rules);
    let begun = Instant::now();
    for _ in 0..200 {
        let _ = served.exchange_as(66, b"flood").await;
    }
    let let_in = served.door.counts().flows;
    let most = 5 + 5 * begun.elapsed().as_millis() / 1000 + 1;
    assert!(u128::from(let_in) <= most, "{let_in} of at most {most}");
    assert_eq!(served.enclave.heard_of() as u64, let_in);
    assert_eq!(served.refused("source-fast"), 200 - let_in);
    let answer = served.exchange_as(1, b"service").await;
    assert_eq!(answer.unwrap(), b"service");
}

#[tokio::test]
async fn heads_are_heard_whole_before_the_enclave_hears_of_them() {
    let rules = Rules {
        kind: IngressKind::Http,
        head_ms: 150,
        head_bytes: 300,
        ..Rules::default()
    };
    let served = served(Does::Echo, rules);
    for (bytes, status) in [
        (&b""[..], "408"),
        (b"GET / HTTP/1.1\r\nHost: sl", "408"),
        (b"\x16\x03\x01\x02\x00\x01", "400"),
    ] {
        let mut stream = served.connect().await;
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    let mut giant = served.connect().await;
    let _ = giant
        .write_all(&[b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; 400]].concat())
        .await;
    let mut answer = [0; 12];
    let _ = giant.read(&mut answer).await;
    assert!(
        answer == *b"HTTP/1.1 431" || answer == [0; 12],
        "{answer:?}"
    );
    // One byte now and then is no head either.
    let mut slow = served.connect().await;
    for byte in b"GET / HTTP/1.1\r\n".iter().cycle() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if slow.write_all(&[*byte]).await.is_err() || slow.try_read(&mut [0; 64]).is_ok() {
            break;
        }
    }
    assert_eq!(served.enclave.heard_of(), 0);
    for (reason, count) in [
        ("silent", 1),
        ("slow-head", 2),
        ("bad-head", 1),
        ("large-head", 1),
    ] {
        assert_eq!(served.refused(reason), count, "{reason}");
    }
    // Time enough for whoever is only slow, as this machine may be.
    let patient = Rules {
        kind: IngressKind::Http,
        ..Rules::default()
    };
    served.door.change(patient).unwrap();
    let head = b"POST / HTTP/1.1\r\nHost: enclave\r\n\r\nand a body";
    let mut stream = served.connect().await;
    stream.write_all(&head[..20]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(exchange(stream, &head[20..]).await.unwrap(), head);
}

#[tokio::test]
async fn balancers_alone_may_connect_and_say_whose_connection_it_is() {
    let rules = Rules {
        proxy_from: vec!["127.0.0.5/32".parse().unwrap()],
        deny: vec!["192.0.2.66/32".parse().unwrap()],
        proxy_to_enclave: Some(ProxyVersion::V1),
        source_connections: 1,
        ..Rules::default()
    };
    let impatient = Rules {
        head_ms: 150,
        ..rules.clone()
    };
    let patient = rules.clone();
    let served = served(Does::Echo, rules);
    let local = served.address;
    let header = |client: &str| format!("PROXY TCP4 {client} 192.0.2.200 4000 443\r\n");
    let told = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4000 {}\r\n", local.port());

    let said = header("192.0.2.1") + "bytes";
    let answer = served.exchange_as(5, said.as_bytes()).await;
    assert_eq!(answer.unwrap(), (told("192.0.2.1") + "bytes").as_bytes());
    // Nobody else is believed, whatever he says.
    assert!(served.turns_away(1).await);
    // The client is judged by its own address.
    let denied = served.exchange_as(5, header("192.0.2.66").as_bytes()).await;
    assert!(denied.is_err() || denied.unwrap().is_empty());
    let no_header = served.exchange_as(5, b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(no_header.is_err() || no_header.unwrap().is_empty());
    served.door.change(impatient).unwrap();
    assert!(served.turns_away(5).await);
    served.door.change(patient).unwrap();
    let refusals = ["bad-proxy", "denied", "slow-head"].map(|reason| served.refused(reason));
    assert_eq!(refusals, [2, 1, 1]);
    // Limits of a source are the client's, not the balancer's.
    let mut first = served.connect_as(5).await;
    first
        .write_all(header("192.0.2.7").as_bytes())
        .await
        .unwrap();
    while served.enclave.heard_of() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let again = served.exchange_as(5, header("192.0.2.7").as_bytes()).await;
    assert!(again.is_err() || again.unwrap().is_empty());
    assert_eq!(served.refused("source-full"), 1);
    let other = served.exchange_as(5, header("192.0.2.8").as_bytes()).await;
    assert_eq!(other.unwrap(), told("192.0.2.8").as_bytes());
}

#[tokio::test]
async fn an_enclave_that_lies_about_its_port_ends_its_own_connections_only() {
    for (does, reason) in [
        // Each of them at once, but for the last.
        (Does::Refuses, "unreachable"),
        (Does::Lies(b"NO\n"), "unreachable"),
        (Does::Lies(b"OK"), "unreachable"),
        (Does::Lies(b"endless without a line's end "), "unreachable"),
        (Does::Ignores, "timed-out"),
    ] {
        let rules = Rules {
            connect_ms: if reason == "timed-out" { 100 } else { 60_000 },
            ..Rules::default()
        };
        let served = served(does, rules);
        assert!(served.turns_away(1).await);
        assert_eq!(served.refused(reason), 1);
        assert_eq!(served.door.counts().flows, 0);
        while served.door.flows() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    // No socket at all: the enclave has ended.
    let gone = served(Does::Echo, Rules::default());
    std::fs::remove_file(gone.enclave.dir.path().join("vsock.sock")).unwrap();
    assert!(gone.turns_away(1).await);
}

#[tokio::test]
async fn a_flow_is_paced_and_cut_when_it_has_carried_enough() {
    let rules = Rules {
        source_bytes_per_second: Some(100_000),
        ..Rules::default()
    };
    let served = served(Does::Echo, rules);
    let begun = Instant::now();
    let bytes = vec![3; 60_000];
    let answer = exchange(served.connect().await, &bytes).await.unwrap();
    assert!(answer == bytes);
    // There and back, less what may pass at once.
    assert!(begun.elapsed() >= Duration::from_millis(150));

    let cut = Rules {
        flow_bytes: Some(10_000),
        ..Rules::default()
    };
    served.door.change(cut).unwrap();
    assert!(served.exchange_as(2, &bytes).await.is_err());
    assert_eq!(served.refused("spent"), 1);
    let rules = Rules {
        connections: 0,
        ..Rules::default()
    };
    assert!(served.door.change(rules).is_err());
}

/// Sends numbered blocks and ends; the enclave sends all of it back.
async fn checked(address: SocketAddr, number: u64) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut sent = Vec::new();
    for block in 0..40u64 {
        let bytes: Vec<u8> = (0..2000u64)
            .flat_map(|at| (number ^ (block << 32) ^ (at << 16)).to_le_bytes())
            .collect();
        stream.write_all(&bytes).await.unwrap();
        sent.extend(bytes);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert!(back == sent, "flow {number} came back changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_handed_over_loses_no_connection_and_no_byte() {
    let (old, new) = (Enclave::new(Does::Echo), Enclave::new(Does::Echo));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut first = old.door(&listener, Rules::default());
    let clients = tokio::spawn(async move {
        let mut running = tokio::task::JoinSet::new();
        for number in 0..60 {
            running.spawn(checked(address, number));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A client that was refused, cut or answered wrongly has panicked.
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
    });
    while old.heard_of() < 15 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // As supervisors do it: the new one takes the socket from the old one, then the old one lets go and drains.
    let handed = first.socket().unwrap().try_clone_to_owned().unwrap();
    let second = Door::open(handed, new.dir.path(), 5000, Rules::default(), None).unwrap();
    first.close();
    assert!(!first.is_open() && first.socket().is_none());
    clients.await.unwrap();
    assert_eq!(first.counts().flows + second.counts().flows, 60);
    assert!(first.counts().flows >= 15 && second.counts().flows > 0);
    assert_eq!((first.flows(), second.flows()), (0, 0));
    assert!(first.counts().refused.is_empty() && second.counts().refused.is_empty());
}

#[tokio::test]
async fn what_comes_in_is_recorded_where_that_was_asked_for() {
    let enclave = Enclave::new(Does::Echo);
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::create(folder.path()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let rules = Rules {
        proxy_to_enclave: Some(ProxyVersion::V1),
        ..Rules::default()
    };
    let socket = listener.into();
    let _door = Door::open(socket, enclave.dir.path(), 5000, rules, Some(recorder)).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let answer = exchange(stream, b"what came in").await.unwrap();
    assert!(answer.ends_with(b"what came in"));
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(text.starts_with("PROXY TCP4 127.0.0.1 ") && text.ends_with("what came in"));
    }
}
