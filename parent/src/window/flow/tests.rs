//! Flows between real Unix and TCP sockets.

use super::*;

use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

struct Flowing {
    enclave: UnixStream,
    other: TcpStream,
    counters: Arc<Counters>,
    task: JoinHandle<FlowEnd>,
}

struct Bounds {
    idle: Duration,
    most_bytes: Option<u64>,
    pace: Option<Arc<dyn Pace + Send + Sync>>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(1),
            most_bytes: None,
            pace: None,
        }
    }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

async fn flowing(bounds: Bounds) -> Flowing {
    let (enclave, inner) = UnixStream::pair().unwrap();
    let (outer, other) = tcp().await;
    let counters = Arc::new(Counters::default());
    let counted = counters.clone();
    let task = tokio::spawn(async move {
        let pace = bounds.pace;
        let carriage = Carriage {
            idle: bounds.idle,
            most_bytes: bounds.most_bytes,
            pace: pace
                .as_deref()
                .map(|pace| pace as &(dyn Pace + Send + Sync)),
            counters: &counted,
        };
        carry(
            inner.into(),
            outer.into(),
            (b"early ".to_vec(), Vec::new()),
            carriage,
        )
        .await
    });
    Flowing {
        enclave,
        other,
        counters,
        task,
    }
}

fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ seed).collect()
}

async fn both_ways(length: usize) {
    let Flowing {
        enclave,
        other,
        counters,
        task,
    } = flowing(Bounds::default()).await;
    let talk = |mut reader: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
                mut writer: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
                seed: u8| async move {
        let writing = tokio::spawn(async move {
            writer.write_all(&pattern(length, seed)).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        writing.await.unwrap();
        received
    };
    let (enclave_reads, enclave_writes) = enclave.into_split();
    let (other_reads, other_writes) = other.into_split();
    let (inside, outside) = tokio::join!(
        talk(Box::new(enclave_reads), Box::new(enclave_writes), 1),
        talk(Box::new(other_reads), Box::new(other_writes), 2)
    );
    assert!(inside == pattern(length, 2), "what reached the enclave");
    assert!(outside[..6] == *b"early " && outside[6..] == pattern(length, 1));
    assert_eq!(task.await.unwrap(), FlowEnd::Finished);
    let counts = counters.counts();
    assert_eq!(counts.bytes_from_enclave, length as u64 + 6);
    assert_eq!(counts.bytes_to_enclave, length as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_arrive_whole_though_both_sides_write_first() {
    both_ways(9_000_001).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_pipes_bytes_are_copied_and_arrive_just_as_whole() {
    let pipes: Vec<Pipe> = std::iter::from_fn(Pipe::take).take(1000).collect();
    assert!(Pipe::take().is_none() && pipes.len() < 1000);
    both_ways(3_000_001).await;
}

#[tokio::test]
async fn an_end_that_finishes_leaves_the_other_sending() {
    let mut flow = flowing(Bounds::default()).await;
    flow.enclave.shutdown().await.unwrap();
    let mut question = Vec::new();
    flow.other.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"early ");
    flow.other.write_all(b"answer").await.unwrap();
    flow.other.shutdown().await.unwrap();
    let mut answer = Vec::new();
    flow.enclave.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    assert_eq!(flow.task.await.unwrap(), FlowEnd::Finished);
}

#[tokio::test]
async fn a_reset_ends_the_flow_for_the_other_side_too() {
    let mut flow = flowing(Bounds::default()).await;
    flow.other.read_exact(&mut [0; 6]).await.unwrap();
    flow.other.write_all(b"cut").await.unwrap();
    flow.enclave.read_exact(&mut [0; 3]).await.unwrap();
    flow.other.set_zero_linger().unwrap();
    drop(flow.other);
    assert_eq!(flow.task.await.unwrap(), FlowEnd::Broken);
    let mut rest = Vec::new();
    // A Unix socket's peer sees the end; writing fails at once.
    let _ = flow.enclave.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert!(flow.enclave.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn a_flow_that_is_cut_is_a_reset_and_never_a_clean_end() {
    let mut flow = flowing(Bounds::default()).await;
    flow.enclave.write_all(b"half of it").await.unwrap();
    let mut half = [0; 16];
    flow.other.read_exact(&mut half).await.unwrap();
    flow.task.abort();
    let error = flow.other.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_a_gone_peer_had_said_still_arrives() {
    let Flowing {
        mut enclave,
        mut other,
        task,
        ..
    } = flowing(Bounds::default()).await;
    // More than anybody holds on the way, so that something of it is refused.
    let writing = tokio::spawn(async move {
        let (mut reads, mut writes) = other.split();
        let sending = async { while writes.write_all(&[7; 8192]).await.is_ok() {} };
        let mut said = Vec::new();
        let hearing = async {
            let _ = reads.read_to_end(&mut said).await;
        };
        tokio::join!(hearing, sending);
        said
    });
    enclave.read_exact(&mut vec![0; 100_000]).await.unwrap();
    enclave.write_all(b"last words").await.unwrap();
    drop(enclave);
    assert_eq!(task.await.unwrap(), FlowEnd::Finished);
    assert_eq!(writing.await.unwrap(), b"early last words");
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_up_instead_of_filling_memory() {
    let flow = flowing(Bounds::default()).await;
    let mut taken = 0;
    let mut refused = 0;
    while refused < 20 {
        match flow.enclave.try_write(&[0; 8192]) {
            Ok(count) => taken += count,
            Err(_) => {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    let counts = flow.counters.counts();
    // Most of it lies in the sockets' own queues, which the kernel bounds.
    assert!(taken < 32 << 20, "{taken} bytes were taken");
    assert!(taken as u64 + 6 - counts.bytes_from_enclave < 1 << 20);
    drop(flow.other);
    drop(flow.enclave);
    flow.task.await.unwrap();
}

#[tokio::test]
async fn who_waits_for_room_hears_that_the_reader_is_gone_though_the_other_way_is_full() {
    let (enclave, inner) = UnixStream::pair().unwrap();
    let (outer, other) = UnixStream::pair().unwrap();
    let carrying = tokio::spawn(async move {
        let counters = Counters::default();
        let carriage = Carriage {
            idle: Duration::from_mins(1),
            most_bytes: None,
            pace: None,
            counters: &counters,
        };
        carry(inner.into(), outer.into(), Default::default(), carriage).await
    });
    for stream in [&enclave, &other] {
        // Full for as long as it takes to be sure.
        while timeout(Duration::from_millis(100), stream.writable())
            .await
            .is_ok()
        {
            let _ = stream.try_write(&[0; 8192]);
        }
    }
    let other = other.into_std().unwrap();
    other.shutdown(std::net::Shutdown::Both).unwrap();
    timeout(Duration::from_secs(30), enclave.writable())
        .await
        .expect("it waits for room that never comes")
        .unwrap();
    let refused = enclave.try_write(&[0; 8192]).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::BrokenPipe);
    drop((enclave, other));
    assert_ne!(carrying.await.unwrap(), FlowEnd::Idle);
}

#[tokio::test]
async fn descriptors_that_an_enclave_sends_along_are_thrown_away_however_much_comes() {
    use crate::sandbox::sys::socket::send_descriptor;

    for before in [0, 4 * TURN] {
        let mut flow = flowing(Bounds::default()).await;
        let (mut held, given) = std::io::pipe().unwrap();
        let sending = async {
            // Much makes it move bytes through a pipe.
            flow.enclave.write_all(&vec![1; before]).await.unwrap();
            flow.enclave.writable().await.unwrap();
            send_descriptor(flow.enclave.as_fd(), b'!', Some(given.as_fd())).unwrap();
            drop(given);
            flow.enclave.write_all(&vec![2; before]).await.unwrap();
            flow.enclave.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(flow.other.read_to_end(&mut heard), sending);
        assert_eq!(read.unwrap(), b"early ".len() + 2 * before + 1);
        // Nobody has the other end of the pipe any more: reading ends.
        let mut nothing = Vec::new();
        std::io::Read::read_to_end(&mut held, &mut nothing).unwrap();
        assert!(nothing.is_empty());
    }
}

#[tokio::test]
async fn an_idle_flow_ends_and_one_that_carried_enough_too() {
    let idle = Bounds {
        idle: Duration::from_millis(50),
        ..Bounds::default()
    };
    let flow = flowing(idle).await;
    assert_eq!(flow.task.await.unwrap(), FlowEnd::Idle);

    let bounds = Bounds {
        most_bytes: Some(100_000),
        ..Bounds::default()
    };
    let mut flow = flowing(bounds).await;
    let reading = tokio::spawn(async move {
        let mut rest = Vec::new();
        let end = flow.other.read_to_end(&mut rest).await;
        (rest.len(), end.is_err())
    });
    let _ = flow.enclave.write_all(&pattern(1_000_000, 3)).await;
    assert_eq!(flow.task.await.unwrap(), FlowEnd::Spent);
    let (received, reset) = reading.await.unwrap();
    assert!(reset && received < 1_000_000, "{received}");
}

/// Allows 1,000 bytes for each 10 ms.
struct Slow(Mutex<(Instant, usize)>);

impl Pace for Slow {
    fn allows(&self, now: Instant, most: usize) -> Result<usize, Instant> {
        let state = *self.0.lock().unwrap();
        let due = state.0 + Duration::from_millis(10) * (state.1 / 1000) as u32;
        if now < due {
            Err(due)
        } else {
            Ok(most.min(1000))
        }
    }

    fn spend(&self, _: Instant, bytes: usize) {
        self.0.lock().unwrap().1 += bytes;
    }
}

#[tokio::test]
async fn a_flow_is_no_faster_than_its_pace_and_is_not_idle_while_it_rests() {
    let begun = Instant::now();
    let bounds = Bounds {
        idle: Duration::from_millis(200),
        pace: Some(Arc::new(Slow(Mutex::new((begun, 0))))),
        ..Bounds::default()
    };
    let Flowing {
        mut enclave,
        mut other,
        task,
        ..
    } = flowing(bounds).await;
    let writing = tokio::spawn(async move {
        enclave.write_all(&pattern(50_000, 5)).await.unwrap();
        enclave.shutdown().await.unwrap();
        enclave
    });
    let mut received = Vec::new();
    other.read_to_end(&mut received).await.unwrap();
    assert!(received[6..] == pattern(50_000, 5));
    assert!(begun.elapsed() >= Duration::from_millis(480));
    other.shutdown().await.unwrap();
    assert_eq!(task.await.unwrap(), FlowEnd::Finished);
    drop(writing);
}
