//! Starts the job, finds out when it is ready, and starts it again by the manifest's rules.
//!
//! A job that keeps failing must never be started without a pause, and never twice at a time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, timeout};

use super::{Place, Service, State, again};
use crate::jobs::{Kept, Launcher};
use crate::reaper::Exit;
use crate::sys::SpawnError;

/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A job that lived this long has not failed at its start: pauses begin anew.
const STEADY: Duration = Duration::from_secs(60);
/// Between two attempts to find the job ready; each further one is twice as long, up to the longest.
const FIRST_PROBE: Duration = Duration::from_millis(2);
const LONGEST_PROBE: Duration = Duration::from_millis(200);
/// How long the job may take to answer one of them.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a service ended for good.
#[derive(Debug)]
pub enum Ended {
    /// The job ended, and the manifest says that this is the end.
    Job(Exit),
    /// The job could not be started at all.
    Spawn(SpawnError),
}

/// How one life of the job went.
enum Life {
    Ended(Exit),
    NotReady,
}

/// Keeps the job running until it has ended for good.
pub(super) async fn keep(service: &Service, launcher: &Arc<Launcher>) -> Ended {
    let Service {
        terms,
        state,
        tally,
        ..
    } = service;
    let mut pauses = Pauses::default();
    let ended = loop {
        if let Place::Socket(path) = &terms.place {
            // What an earlier one left there would refuse this one its address.
            let _ = std::fs::remove_file(path);
        }
        tally.starts.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        let job = match launcher.start_service().await {
            Ok(job) => job,
            // Neither the program nor the walls change: another attempt at those would end the same way.
            Err(error @ (SpawnError::Fork(_) | SpawnError::Pipe(_))) => {
                let pause = pauses.next(Duration::ZERO);
                crate::log!("{error}. Another attempt in {} ms", pause.as_millis());
                sleep(pause).await;
                continue;
            }
            Err(error) => break Ended::Spawn(error),
        };
        let life = live(job, service).await;
        state.send_replace(State::NotReady);
        service.idle.clear();
        let (success, exit) = match life {
            Life::Ended(exit) => {
                crate::log!("the job {exit}");
                (exit.success(), exit)
            }
            Life::NotReady => {
                crate::log!(
                    "the job was not ready {} seconds after its start, and was ended. It must accept connections on {}{}",
                    terms.http.ready_seconds,
                    terms.place,
                    terms
                        .http
                        .ready_path
                        .as_ref()
                        .map_or_else(String::new, |path| format!(
                            ", and answer GET {path} with 200 to 299"
                        )),
                );
                (false, Exit::Signal(libc::SIGKILL))
            }
        };
        if !again(terms.http.restart, success) {
            break Ended::Job(exit);
        }
        let pause = pauses.next(begun.elapsed());
        crate::log!("the job is started again in {} ms", pause.as_millis());
        sleep(pause).await;
    };
    state.send_replace(State::Ended);
    ended
}

/// From its start to its end.
async fn live(mut job: Kept, service: &Service) -> Life {
    let gone = |_| Exit::Signal(libc::SIGKILL);
    let ready = timeout(
        Duration::from_secs(service.terms.http.ready_seconds),
        wait_until_ready(service),
    );
    tokio::select! {
        exit = &mut job.exit => return Life::Ended(exit.unwrap_or_else(gone)),
        ready = ready => if ready.is_err() {
            // Awaited, so that the next one does not run beside it.
            drop(job.guard);
            let _ = job.exit.await;
            return Life::NotReady;
        }
    }
    crate::log!("the job is ready");
    service.state.send_replace(State::Ready);
    Life::Ended(job.exit.await.unwrap_or_else(gone))
}

async fn wait_until_ready(service: &Service) {
    let mut pause = FIRST_PROBE;
    loop {
        if let Ok(true) = timeout(PROBE_TIMEOUT, is_ready(service)).await {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PROBE);
    }
}

async fn is_ready(service: &Service) -> bool {
    let Ok(stream) = service.dial().await else {
        return false;
    };
    let Some(path) = &service.terms.http.ready_path else {
        return true;
    };
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
        return false;
    };
    let connection = tokio::spawn(connection);
    let request = Request::get(path.as_str())
        .header(http::header::HOST, "job")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .expect("the manifest's path was checked");
    let answer = sender.send_request(request).await;
    connection.abort();
    answer.is_ok_and(|answer| answer.status().is_success())
}

/// How long to wait before each next start.
#[derive(Debug, Default)]
struct Pauses {
    failures: u32,
}

impl Pauses {
    fn next(&mut self, lived: Duration) -> Duration {
        if lived >= STEADY {
            self.failures = 0;
        }
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_PAUSE);
        self.failures += 1;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_steady_life() {
        let mut pauses = Pauses::default();
        let first: Vec<_> = (0..12).map(|_| pauses.next(Duration::ZERO)).collect();
        assert_eq!(first[0], FIRST_PAUSE);
        assert!(
            first
                .windows(2)
                .all(|two| two[1] == (two[0] * 2).min(LONGEST_PAUSE))
        );
        assert_eq!(first[11], LONGEST_PAUSE);
        for _ in 0..1000 {
            assert_eq!(pauses.next(STEADY / 2), LONGEST_PAUSE);
        }
        assert_eq!(pauses.next(STEADY), FIRST_PAUSE);
    }
}
