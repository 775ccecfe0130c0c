//! Documents for channels: one for each question, so many at a time and a second. Never one for anything else than the
//! channel that the question came through.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anchorhold_channel::{EXPORTER_BYTES, Nonce, user_data};
use tokio::sync::Semaphore;

use crate::keys;
use crate::nsm::{Claims, Nsm, NsmError};

/// Documents that the NSM makes at a time: others of this enclave ask it too.
const AT_A_TIME: usize = 4;
/// How long a question waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Too many ask.
    #[error("more documents are asked for than this enclave makes: try again in a second")]
    Busy,
    /// The NSM gave none.
    #[error("{0}")]
    Nsm(#[from] NsmError),
}

/// Makes documents for the channels of one key.
pub struct Documents<N> {
    nsm: Arc<N>,
    public_key: Vec<u8>,
    places: Semaphore,
    bucket: Mutex<Bucket>,
}

impl<N: Nsm> Documents<N> {
    /// For channels that show `public_key` (`SubjectPublicKeyInfo`), at most `a_second` in the long run, and as many at
    /// once.
    pub fn new(nsm: Arc<N>, public_key: Vec<u8>, a_second: u32) -> Documents<N> {
        Documents {
            nsm,
            public_key,
            places: Semaphore::new(AT_A_TIME),
            bucket: Mutex::new(Bucket::new(a_second, Instant::now())),
        }
    }

    /// A document over a client's nonce, for the channel with this exporter value.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub async fn make(
        &self,
        nonce: &Nonce,
        exporter: &[u8; EXPORTER_BYTES],
    ) -> Result<Vec<u8>, DocumentError> {
        let taken = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(Instant::now());
        if !taken {
            return Err(DocumentError::Busy);
        }
        let Ok(place) = tokio::time::timeout(PATIENCE, self.places.acquire()).await else {
            return Err(DocumentError::Busy);
        };
        let place = place.expect("the semaphore is never closed");
        let claims = Claims {
            nonce: Some(nonce.as_bytes().to_vec()),
            user_data: Some(user_data(exporter)),
            public_key: Some(self.public_key.clone()),
        };
        let document = keys::attest(&self.nsm, claims).await;
        drop(place);
        Ok(document?)
    }
}

/// So many a second, and as many at once after a pause. In thousandths, so that no part of a second is lost.
struct Bucket {
    a_second: u32,
    thousandths: u64,
    filled: Instant,
}

impl Bucket {
    fn new(a_second: u32, now: Instant) -> Bucket {
        Bucket {
            a_second,
            thousandths: u64::from(a_second) * 1000,
            filled: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        // What is less than a millisecond stays for the next look.
        self.filled += Duration::from_millis(passed);
        self.thousandths = self
            .thousandths
            .saturating_add(passed.saturating_mul(u64::from(self.a_second)))
            .min(u64::from(self.a_second) * 1000);
        if self.thousandths < 1000 {
            return false;
        }
        self.thousandths -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_made_at_once_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, start);
        let after = |ms| start + Duration::from_millis(ms);
        assert!((0..3).all(|_| bucket.take(start)));
        assert!(!bucket.take(start));
        assert!(!bucket.take(after(333)));
        assert!(bucket.take(after(334)));
        assert!(!bucket.take(after(340)));
        assert!(bucket.take(after(667)));
        // However long nobody asks, no more than three are saved up.
        assert!((0..3).all(|_| bucket.take(after(1 << 40))));
        assert!(!bucket.take(after(1 << 40)));
        // A clock that does not move, or moves back, gives nothing.
        assert!(!bucket.take(start));
    }
}
