//! What the lies have in common: a key service, an image of a job that echoes its lines, a key for that image alone.

use std::future::Future;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anchorhold_envelope::{Header, Limits, Parse};
use anchorhold_images::cargo_static::StaticBuild;
use anchorhold_images::{BuildOptions, Image, Measurements, Source};
use anchorhold_kms::config::DEV_REGION;
use anchorhold_kms_wire::client::{
    Client as KeyClient, ClientError as KeyError, Endpoint, Fixed, Tcp, TlsTrust,
};
use anchorhold_kms_wire::shapes::{
    Blob, DecryptRequest, DecryptResponse, Operation, RecipientInfo,
};
use anchorhold_kms_wire::sigv4::Credentials;
use anchorhold_parent::client::{Client, ClientError};
use anchorhold_parent::lifecycle::Home;
use anchorhold_simulator::{DevelopmentRoot, Nsm, NsmConfig};
use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use serde_bytes::ByteBuf;

use crate::common::{House, KeyService, WORKSPACE, Who};

/// The key that the image's manifest names.
pub(crate) const KEY: &str = "alias/odd";

/// What most calls carry; the job echoes it.
pub(crate) const LINES: &[u8] = b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n";

/// Two processors are four calls at a time.
pub(crate) const RESOURCES: &str = "[resources]\nmemory_mib = 128\ncpus = 2\n";

/// Everything that is needed for an honest call.
pub(crate) struct Stage {
    pub(crate) house: House,
    /// The image that the key's policy names.
    pub(crate) image: PathBuf,
    _service: KeyService,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With more in the manifest.
    pub(crate) fn with(more: &str) -> Self {
        let mut house = House::new();
        let service = house.key_service(&[]);
        let manifest = manifest(&house, more);
        let image = pack(&house, &programs().job, &manifest, "odd.eif");
        house.key(KEY, &house.policy(&image, "odd.json"));
        Self {
            house,
            image,
            _service: service,
        }
    }

    /// Packs another image beside the honest one.
    pub(crate) fn pack(&self, job: &Path, manifest: &str, name: &str) -> PathBuf {
        pack(&self.house, job, manifest, name)
    }

    /// The honest image's manifest, with more in it.
    pub(crate) fn manifest(&self, more: &str) -> String {
        manifest(&self.house, more)
    }

    /// Seals as the owner, under the image's key.
    pub(crate) fn sealed(&self, plaintext: &[u8], more: &[&str]) -> Vec<u8> {
        self.sealed_under(KEY, plaintext, more)
    }

    pub(crate) fn sealed_under(&self, key: &str, plaintext: &[u8], more: &[&str]) -> Vec<u8> {
        let path = self.house.seal(key, more, plaintext, &unique("sealed"));
        std::fs::read(path).expect("a sealed file")
    }

    /// Opens as the owner.
    pub(crate) fn opened(&self, sealed: &[u8], more: &[&str]) -> Vec<u8> {
        self.house
            .open(&self.house.write(&unique("result"), sealed), more)
    }

    /// What the owner is told who tries to open it.
    pub(crate) fn not_opened(&self, sealed: &[u8], more: &[&str]) -> String {
        let path = self.house.write(&unique("result"), sealed);
        let output = self.house.path(&unique("opened"));
        let mut arguments = vec!["open", "--input", text(&path), "--output", text(&output)];
        arguments.extend(more);
        let said = self.house.must_fail(Who::Owner, arguments);
        assert!(!output.exists(), "what cannot be opened left a file");
        said
    }

    /// The folder of an enclave that `House::enclave` has started.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        home(&self.house).enclave(name)
    }

    pub(crate) fn measurements(&self) -> Measurements {
        *Image::open(&self.image).expect("an image").measurements()
    }

    /// Asks the key service.
    pub(crate) fn ask<O: Operation>(&self, who: Who, request: &O) -> Result<O::Response, KeyError> {
        let (id, secret) = who.credentials();
        let endpoint = Endpoint {
            url: self.house.endpoint().to_owned(),
            region: DEV_REGION.to_owned(),
            tls: TlsTrust::Ca(
                std::fs::read_to_string(self.house.path("kms/ca.pem")).expect("the CA"),
            ),
        };
        block_on(async {
            let credentials = Fixed::new(Credentials::new(id.to_owned(), secret.to_owned()));
            KeyClient::new(&endpoint, Tcp, credentials)
                .expect("the endpoint")
                .call(request)
                .await
        })
    }

    /// Asks for a sealed message's data key with the host's credentials, as the parent may by itself.
    pub(crate) fn decrypt(
        &self,
        message: &[u8],
        document: Option<Vec<u8>>,
    ) -> Result<DecryptResponse, KeyError> {
        let header = header(message);
        self.ask(
            Who::Host,
            &DecryptRequest {
                ciphertext_blob: Some(Blob(header.data_keys()[0].ciphertext.clone())),
                encryption_context: header.context().clone(),
                key_id: Some(KEY.to_owned()),
                recipient: document.map(RecipientInfo::new),
                ..DecryptRequest::default()
            },
        )
    }

    /// Why the key service refused what it must refuse.
    pub(crate) fn refusal<T>(&self, attempt: impl FnOnce() -> Result<T, KeyError>) -> String {
        let seen = self.house.audit().len();
        let Err(error) = attempt() else {
            panic!("the key service did not refuse");
        };
        assert!(matches!(error, KeyError::Service { .. }), "{error}");
        self.house.refusal_after(seen)
    }

    /// Calls an enclave that `House::enclave` has started, which must not get its key; says why, by the audit log.
    pub(crate) fn refused_call(&self, name: &str, message: &[u8]) -> String {
        let seen = self.house.audit().len();
        let input = self.house.write(&unique("input"), message);
        self.house
            .must_not_call(name, &input, &self.house.path(&unique("output")));
        self.house.refusal_after(seen)
    }

    /// Calls an enclave honestly and opens its result.
    pub(crate) fn honest_call(&self, folder: &Path, message: &[u8]) -> Vec<u8> {
        let result =
            call(folder, message).unwrap_or_else(|error| panic!("an honest call failed: {error}"));
        self.opened(&result, &[])
    }
}

/// The development root of a house, whose documents its key service believes.
pub(crate) fn root(house: &House) -> DevelopmentRoot {
    DevelopmentRoot::load_or_create(&home(house).development_root()).expect("a development root")
}

fn home(house: &House) -> Home {
    Home::at(&house.path("")).expect("a home")
}

/// A document with these measurements, signed under `root` at `when`, by an NSM that was there by then.
pub(crate) fn document(
    root: &DevelopmentRoot,
    measurements: &Measurements,
    public_key: &[u8],
    when: SystemTime,
) -> Vec<u8> {
    let config = NsmConfig {
        pcr0: measurements.pcr0,
        pcr1: measurements.pcr1,
        pcr2: measurements.pcr2,
        ..NsmConfig::default()
    };
    let nsm = Nsm::new(root, config, when.min(SystemTime::now())).expect("an NSM");
    let request = Request::Attestation {
        user_data: None,
        nonce: None,
        public_key: Some(ByteBuf::from(public_key)),
    };
    let request = serde_cbor::to_vec(&request).expect("CBOR");
    match serde_cbor::from_slice(&nsm.handle(&request, when)).expect("CBOR") {
        Response::Attestation { document } => document,
        other => panic!("the simulated NSM answered {other:?}"),
    }
}

/// The static programs that images are packed from.
pub(crate) struct Programs {
    pub(crate) init: PathBuf,
    pub(crate) job: PathBuf,
}

/// Built once for all tests.
pub(crate) fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let build = |package: &str, bin: Option<&str>| {
            let mut build = StaticBuild::new(&Path::new(WORKSPACE).join(package));
            build.target_dir = Some(Path::new(WORKSPACE).join("target/static"));
            build.bin = bin.map(str::to_owned);
            build
                .run(&mut |line| eprintln!("{line}"))
                .expect("a static program")
                .path
        };
        Programs {
            init: build("enclave", Some("anchorhold-enclave")),
            job: build("tests/whole/odd-job", None),
        }
    })
}

/// The manifest of the echoing job.
pub(crate) fn manifest(house: &House, more: &str) -> String {
    house.manifest(&["/job"], KEY, &format!("{RESOURCES}{more}"))
}

/// Packs an image.
pub(crate) fn pack(house: &House, job: &Path, manifest: &str, name: &str) -> PathBuf {
    let image = house.path(name);
    let source = Source::Program {
        file: job.to_owned(),
    };
    let mut options = BuildOptions::new(source, programs().init.clone(), image.clone());
    options.manifest = Some(house.write(&format!("{name}.toml"), manifest));
    options.kernel = crate::common::kernel();
    anchorhold_images::build(&options, &mut |_| ()).expect("an image");
    image
}

/// Sends a sealed message through the enclave of a folder. A result comes whole or not at all.
pub(crate) fn call(folder: &Path, message: &[u8]) -> Result<Vec<u8>, ClientError> {
    let message = Cursor::new(message.to_vec());
    block_on(async {
        let mut result = Vec::new();
        // Far longer than anything here takes, so that what hangs is seen to hang.
        let client = Client::new(folder).stall_limit(Duration::from_mins(1));
        client.call(message, &mut result).await?;
        Ok(result)
    })
}

/// The header of a sealed message.
pub(crate) fn header(message: &[u8]) -> Header {
    match Header::parse(message, &Limits::default()) {
        Ok(Parse::Complete { header, .. }) => *header,
        other => panic!("no header: {other:?}"),
    }
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// A file's name that no other has.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
