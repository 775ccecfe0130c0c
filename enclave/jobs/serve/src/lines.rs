//! Bulk: a body of lines, answered by a line each.
//!
//! The answers are sent when the last line was heard, so that a client which sends all before it reads does not lock
//! itself up, and a request that breaks off has no answer. They are held until then: within [`Room`], which all requests
//! share and which is taken as answers grow, so that who sends slowly holds little.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::{BODY_TIMEOUT, Failure, Request};

/// What room is counted in.
const UNIT: usize = 256 * 1024;

/// Memory for answers, of all requests together.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Room {
        Room(Arc::new(Semaphore::new(bytes.div_ceil(UNIT))))
    }
}

/// What one request may have.
#[derive(Debug, Clone, Copy)]
pub struct LineLimits {
    /// Bytes of its body.
    pub bytes: usize,
    /// Lines.
    pub lines: usize,
    /// Bytes of one line: of a longer one, one more than these are handed on.
    pub line: usize,
}

/// Answers, and the room that they take.
struct Held {
    answers: Zeroizing<Vec<u8>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.answers
    }
}

impl Held {
    fn make_room(&mut self, room: &Room, line: usize) -> Result<(), Failure> {
        let wanted = (self.answers.len() + line).div_ceil(UNIT).max(1);
        let has = self
            .permit
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        if wanted > has {
            let more = u32::try_from(wanted - has).unwrap_or(u32::MAX);
            let more = Arc::clone(&room.0)
                .try_acquire_many_owned(more)
                .map_err(|_| Failure::busy())?;
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                None => self.permit = Some(more),
            }
        }
        Ok(())
    }
}

impl Request {
    /// Has each line of the body answered, in order. A last line without an end counts; one without anything does not.
    ///
    /// # Errors
    /// 413 beyond the limits, 503 where there is no room, 400 or 408 where the body does not come in whole.
    pub async fn answer_lines(
        self,
        limits: LineLimits,
        room: &Room,
        each: impl FnMut(&[u8], &mut Vec<u8>) + Send,
    ) -> Result<Bytes, Failure> {
        let heard = self.hear_lines(limits, room, each);
        match tokio::time::timeout(BODY_TIMEOUT, heard).await {
            Ok(answers) => answers.map(Bytes::from_owner),
            Err(_) => Err(Failure::too_slow()),
        }
    }

    async fn hear_lines(
        self,
        limits: LineLimits,
        room: &Room,
        mut each: impl FnMut(&[u8], &mut Vec<u8>) + Send,
    ) -> Result<Held, Failure> {
        let mut held = Held {
            answers: Zeroizing::default(),
            permit: None,
        };
        let mut line = Zeroizing::new(Vec::new());
        let (mut bytes, mut lines) = (0, 0);
        let mut answer = |line: &[u8], held: &mut Held| {
            lines += 1;
            if lines > limits.lines {
                let message = format!("the body has more than {} lines", limits.lines);
                return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "many", message));
            }
            each(line, &mut held.answers);
            Ok(())
        };
        let mut body = self.body.lock().await;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Failure::broken_off())?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            bytes += data.len();
            if bytes > limits.bytes {
                return Err(Failure::too_large(limits.bytes));
            }
            let mut rest = &data[..];
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                held.make_room(room, line.len() + end)?;
                if line.is_empty() {
                    answer(&rest[..end.min(limits.line + 1)], &mut held)?;
                } else {
                    keep(&mut line, &rest[..end], limits.line);
                    answer(&line, &mut held)?;
                    line.clear();
                }
                rest = &rest[end + 1..];
            }
            keep(&mut line, rest, limits.line);
            held.make_room(room, line.len())?;
        }
        if !line.is_empty() {
            answer(&line, &mut held)?;
            held.make_room(room, 0)?;
        }
        Ok(held)
    }
}

/// One more than the limit, so that the line is seen to be longer.
fn keep(line: &mut Vec<u8>, more: &[u8], limit: usize) {
    let left = (limit + 1).saturating_sub(line.len());
    line.extend_from_slice(&more[..more.len().min(left)]);
}
