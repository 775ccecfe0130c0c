//! The local API as a hostile job writes to it: bytes on a connection.
//!
//! Whatever comes in: no panic, an end, and nothing that was not granted. The first byte says whether all of it was.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anchorhold_enclave::api::Api;
use anchorhold_enclave::clock::{Clock, Sample};
use anchorhold_enclave::keys::{KeyService, Keys, Recipient};
use anchorhold_enclave::nsm::{Claims, Description, Nsm, NsmError};
use anchorhold_enclave::reaper::{Orphans, Reaper};
use anchorhold_enclave::secrets::Secrets;
use anchorhold_kms_wire::client::ClientError;
use anchorhold_kms_wire::shapes::{
    DecryptRequest, DecryptResponse, GenerateDataKeyRequest, GenerateDataKeyResponse,
};
use anchorhold_manifest::{Api as Granted, Grant};
use libfuzzer_sys::fuzz_target;
use nix::unistd::{Pid, getpid, getsid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

struct Module;

impl Nsm for Module {
    fn attest(&self, _: Claims) -> Result<Vec<u8>, NsmError> {
        Ok(b"document".to_vec())
    }

    fn describe(&self) -> Result<Description, NsmError> {
        Err(NsmError::Absent)
    }

    fn pcr(&self, index: u16) -> Result<Vec<u8>, NsmError> {
        assert!((16..=31).contains(&index));
        Ok(vec![1; 48])
    }

    fn extend(&self, index: u16, data: Vec<u8>) -> Result<Vec<u8>, NsmError> {
        assert_eq!(index, 17, "only this one may be extended");
        Ok(data)
    }

    fn random(&self) -> Result<Zeroizing<Vec<u8>>, NsmError> {
        Err(NsmError::Absent)
    }
}

/// Refuses everything.
struct Service;

fn refusal() -> ClientError {
    ClientError::Service {
        status: 400,
        kind: "AccessDeniedException".to_owned(),
        message: "no".to_owned(),
        request_id: None,
    }
}

impl KeyService for Service {
    async fn decrypt(&self, _: &DecryptRequest) -> Result<DecryptResponse, ClientError> {
        Err(refusal())
    }

    async fn generate_data_key(
        &self,
        _: &GenerateDataKeyRequest,
    ) -> Result<GenerateDataKeyResponse, ClientError> {
        Err(refusal())
    }
}

struct Stage {
    runtime: Runtime,
    nothing: Arc<Api<Module, Service>>,
    everything: Arc<Api<Module, Service>>,
    peer: Pid,
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let (nothing, everything) = runtime.block_on(async {
            let jobs = Reaper::start(Orphans::Leave).expect("signals work");
            // Whose session this process is in counts as a job, and so does this process.
            let leader = getsid(None).expect("a session");
            jobs.register(&mut || Ok(leader)).expect("a job");
            let recipient = Recipient::generate();
            let now = Instant::now();
            let clock = Arc::new(Clock::new(&Sample {
                unix_ms: 1_800_000_000_000,
                before: now,
                after: now,
            }));
            let api = |granted: Granted| {
                let keys = Keys::new(Arc::new(Module), Service, recipient.clone(), "k".to_owned());
                let secrets = Secrets::new([].into(), "/nowhere".into(), None);
                Api::new(
                    granted,
                    Arc::new(Module),
                    Some(Arc::new(keys)),
                    Arc::new(secrets),
                    Arc::clone(&clock),
                    Arc::clone(&jobs),
                    0,
                )
            };
            let everything = Granted {
                grant: Grant::ALL.iter().map(|(_, grant)| *grant).collect(),
                extend_pcrs: [17].into(),
                ..Granted::default()
            };
            (api(Granted::default()), api(everything))
        });
        Stage {
            runtime,
            nothing,
            everything,
            peer: getpid(),
        }
    })
}

/// What is answered to bytes on a connection, after which nothing more comes.
fn answered(stage: &Stage, api: &Arc<Api<Module, Service>>, bytes: &[u8]) -> String {
    stage.runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let serving = Arc::clone(api).connection(theirs, Some(stage.peer));
        let asking = async move {
            let (mut read, mut write) = tokio::io::split(ours);
            let bytes = bytes.to_vec();
            let writing = tokio::spawn(async move {
                let _ = write.write_all(&bytes).await;
                let _ = write.shutdown().await;
            });
            let mut answer = Vec::new();
            let _ = read.read_to_end(&mut answer).await;
            let _ = writing.await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let ((), answer) = tokio::join!(serving, asking);
        answer
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let stage = stage();
    if first & 1 == 1 {
        answered(stage, &stage.everything, bytes);
        return;
    }
    let answer = answered(stage, &stage.nothing, bytes);
    let good = answer.matches("HTTP/1.1 200 ").count() + answer.matches("HTTP/1.0 200 ").count();
    let granted = answer
        .matches("{\"grant\":[],\"secrets\":[],\"extend_pcrs\":[]}")
        .count();
    assert_eq!(good, granted, "something was granted: {answer}");
});
