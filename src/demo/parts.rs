//! What the demo is made of: the key service's process, the images, the
//! enclave, and the data on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anchorhold_attestation::{Expectations, Time, Unverified};
use anchorhold_envelope::{DEFAULT_FRAME_LENGTH, EncryptionContext, Header, Limits, Parse, Suite};
use anchorhold_images::{BuildOptions, Measurements, Source};
use anchorhold_kms::config::{
    DEV_ACCOUNT, DEV_HOST_ACCESS_KEY_ID, DEV_HOST_SECRET_ACCESS_KEY, DEV_OWNER_ACCESS_KEY_ID,
    DEV_OWNER_SECRET_ACCESS_KEY, DEV_REGION,
};
use anchorhold_kms_wire::client::{Client, Endpoint, Fixed, Tcp, TlsTrust};
use anchorhold_kms_wire::shapes::{CreateAliasRequest, CreateKeyRequest};
use anchorhold_kms_wire::sigv4::Credentials;
use anchorhold_parent::client::Client as EnclaveClient;
use anchorhold_parent::lifecycle::{
    Home, State, SuperviseOptions, SupervisorProgram, spawn, stop, tail,
};
use anchorhold_parent::window::{Allowlist, CredentialsSource, Recorder, SecretSource};
use anchorhold_simulator::DevelopmentRoot;
use anyhow::Context as _;
use serde_json::Value;
use zeroize::Zeroizing;

use super::audit::Audit;
use super::narrator::Narrator;
use crate::commands::{
    build::init_program, build::static_program, open::bind_to, policy::key_policy,
};
use crate::files::BlockingWriter;
use crate::key_service::{OpenRequest, OwnerClient, SealRequest, open, seal};

const ALIAS: &str = "alias/cards";
const SECRET: &str = "tokenization-key";

/// The first digits of a long hexadecimal value.
pub(crate) fn short(hex: &str) -> String {
    format!("{}…", hex.get(..32).unwrap_or(hex))
}

/// Where the demo works: removed at the end unless it is to be kept.
pub(crate) struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    pub(crate) fn new(keep: Option<&Path>) -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;

        let path = match keep {
            Some(path) => std::path::absolute(path)?,
            None => std::env::temp_dir().join(format!("anchorhold-demo-{}", std::process::id())),
        };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("the folder {} cannot be made", path.display()))?;
        Ok(Self {
            path,
            keep: keep.is_some(),
        })
    }

    fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // A folder that stays behind holds nothing but the demo's own data.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// The key service, in a process of its own.
struct KeyService {
    process: Child,
    endpoint: String,
    ca: String,
    state: PathBuf,
}

impl KeyService {
    fn start(folder: &Folder) -> anyhow::Result<Self> {
        let state = folder.join("kms");
        let mut process = Command::new(std::env::current_exe()?)
            .args([
                "kms",
                "serve",
                "--dev",
                "--listen",
                "127.0.0.1:0",
                "--state",
            ])
            .arg(&state)
            .env("ANCHORHOLD_HOME", &folder.path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the key service cannot be started")?;
        let stdout = process
            .stdout
            .take()
            .context("the key service has no output")?;
        let mut endpoint = None;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            if let Some(url) = line.strip_prefix("listening on ") {
                endpoint = Some(url.to_owned());
            }
            if line.starts_with("development preset") {
                break;
            }
        }
        let endpoint = endpoint.context("the key service ended before it listened")?;
        let ca =
            std::fs::read_to_string(state.join("ca.pem")).context("the key service made no CA")?;
        Ok(Self {
            process,
            endpoint,
            ca,
            state,
        })
    }

    fn client(&self, id: &str, secret: &str) -> anyhow::Result<OwnerClient> {
        let endpoint = Endpoint {
            url: self.endpoint.clone(),
            region: DEV_REGION.to_owned(),
            tls: TlsTrust::Ca(self.ca.clone()),
        };
        let credentials = Credentials::new(id, secret.to_owned());
        Ok(Client::new(&endpoint, Tcp, Fixed::new(credentials))?)
    }
}

impl Drop for KeyService {
    fn drop(&mut self) {
        // It may have ended by itself; its store survives being killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Everything that the demo has built so far.
pub(crate) struct Parts<'a> {
    folder: &'a Folder,
    home: Home,
    key_service: KeyService,
    pub(crate) audit: Audit,
    pub(crate) root: DevelopmentRoot,
    init: PathBuf,
    job: PathBuf,
    manifest: PathBuf,
    image: PathBuf,
    pub(crate) measurements: Measurements,
    context: EncryptionContext,
    pub(crate) key: String,
    pub(crate) enclave: Option<State>,
}

impl<'a> Parts<'a> {
    pub(crate) fn build(folder: &'a Folder, say: &mut Narrator) -> anyhow::Result<Self> {
        let home = Home::at(&folder.path)?;
        let root = DevelopmentRoot::load_or_create(&home.development_root())?;
        let key_service = KeyService::start(folder)?;
        say.done(&format!(
            "key service started: {}, its own process, TLS, its own store",
            key_service.endpoint
        ));

        let init = init_program()?;
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("enclave/jobs/cards");
        let job = static_program(&package, None)?;
        say.done("the enclave and the job `cards` built as static programs");

        folder.write("ca.pem", &key_service.ca)?;
        let manifest = folder.write(
            "anchorhold.toml",
            format!(
                "# What the demo's image is for. Measured: another byte here is another PCR0.\n\
                 [image]\nname = \"cards\"\nversion = \"1.0.0\"\n\n\
                 [job]\ncommand = [\"/job\"]\n\n\
                 [key_service]\nendpoint = \"{}\"\nca = \"ca.pem\"\nkey = \"{ALIAS}\"\nregion = \"{DEV_REGION}\"\n\n\
                 [secrets.{SECRET}]\n\n\
                 [resources]\nmemory_mib = 256\ncpus = 2\n",
                key_service.endpoint
            ),
        )?;
        let image = folder.join("cards.eif");
        let measurements = pack(&init, &job, &manifest, &image)?;
        say.done("packed with the service's CA pinned in the measured manifest: cards.eif");
        say.fact("PCR0", &measurements.pcr0.to_string());
        say.fact("PCR1", &measurements.pcr1.to_string());
        say.fact("PCR2", &measurements.pcr2.to_string());
        Ok(Self {
            folder,
            home,
            audit: Audit::new(&key_service.state.join("audit.ndjson")),
            key_service,
            root,
            init,
            job,
            manifest,
            image,
            measurements,
            context: BTreeMap::from([("purpose".to_owned(), "tokens".to_owned())]),
            key: String::new(),
            enclave: None,
        })
    }

    fn owner(&self) -> anyhow::Result<OwnerClient> {
        self.key_service
            .client(DEV_OWNER_ACCESS_KEY_ID, DEV_OWNER_SECRET_ACCESS_KEY)
    }

    /// The parent's own way to the key service.
    pub(crate) fn host(&self) -> anyhow::Result<OwnerClient> {
        self.key_service
            .client(DEV_HOST_ACCESS_KEY_ID, DEV_HOST_SECRET_ACCESS_KEY)
    }

    pub(crate) async fn make_key(&mut self, say: &mut Narrator) -> anyhow::Result<()> {
        let policy = key_policy(
            &self.measurements,
            Some(&format!("arn:aws:iam::{DEV_ACCOUNT}:user/host")),
            Some(&format!("arn:aws:iam::{DEV_ACCOUNT}:user/owner")),
            &self.root.anchor(),
        )?;
        let owner = self.owner()?;
        let created = owner
            .call(&CreateKeyRequest {
                policy: Some(policy.to_string()),
                ..CreateKeyRequest::default()
            })
            .await?;
        let id = created.key_metadata.key_id;
        owner
            .call(&CreateAliasRequest {
                alias_name: ALIAS.to_owned(),
                target_key_id: id.clone(),
            })
            .await?;
        say.done(&format!("key {id}, named {ALIAS}"));
        say.fact(
            "the host may",
            "Decrypt and GenerateDataKey, and only with this PCR0 attested",
        );
        self.key = id;
        Ok(())
    }

    async fn seal_into(
        &self,
        name: &str,
        context: EncryptionContext,
        bytes: &[u8],
    ) -> anyhow::Result<u64> {
        let request = SealRequest {
            key: ALIAS.to_owned(),
            context,
            suite: Suite::CommitKey,
            frame_length: DEFAULT_FRAME_LENGTH,
        };
        let mut message = Vec::new();
        let sealed = seal(&self.owner()?, request, bytes, &mut message).await?;
        self.folder.write(name, message)?;
        Ok(sealed.message_bytes)
    }

    pub(crate) async fn seal(
        &mut self,
        say: &mut Narrator,
        plaintext: &[u8],
    ) -> anyhow::Result<()> {
        let sealed = self
            .seal_into("cards.sealed", self.context.clone(), plaintext)
            .await?;
        let records = plaintext
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count();
        say.done(&format!(
            "{records} records, {} bytes, sealed into {sealed} (AWS Encryption SDK format, AES-256-GCM, key commitment)",
            plaintext.len()
        ));
        say.fact("encryption context", "purpose=tokens");
        let mut key = Zeroizing::new([0_u8; 32]);
        getrandom(&mut *key)?;
        let context = BTreeMap::from([
            ("anchorhold:kind".to_owned(), "secret".to_owned()),
            ("anchorhold:secret".to_owned(), SECRET.to_owned()),
        ]);
        self.seal_into("key.sealed", context, &*key).await?;
        say.done("the tokenization key sealed too: the parent will hand in its ciphertext");
        Ok(())
    }

    /// What the parent starts an enclave with.
    fn options(&self, image: &Path, name: &str, debug: bool) -> anyhow::Result<SuperviseOptions> {
        let authority = self.key_service.endpoint.trim_start_matches("https://");
        let mut options = SuperviseOptions::new(self.home.clone(), image);
        options.name = Some(name.to_owned());
        options.debug = debug;
        options.allowlist = Allowlist::parse([authority])?;
        options.credentials = CredentialsSource::Environment;
        options.secrets = BTreeMap::from([(
            SECRET.to_owned(),
            SecretSource::Path(self.folder.join("key.sealed")),
        )]);
        options.record = Some(self.folder.join("carried"));
        Ok(options)
    }

    /// Starts an enclave as the parent does.
    pub(crate) fn start(&self, image: &Path, name: &str, debug: bool) -> anyhow::Result<State> {
        let mut supervisor = SupervisorProgram::own()?;
        supervisor.environment = vec![
            ("AWS_ACCESS_KEY_ID".into(), DEV_HOST_ACCESS_KEY_ID.into()),
            (
                "AWS_SECRET_ACCESS_KEY".into(),
                DEV_HOST_SECRET_ACCESS_KEY.into(),
            ),
        ];
        Ok(spawn(&self.options(image, name, debug)?, &supervisor)?.state)
    }

    pub(crate) fn end(&self, name: &str) {
        // At worst it runs until its supervisor ends.
        let _ = stop(&self.home, name, Duration::from_secs(5));
    }

    pub(crate) fn client(&self, enclave: &State) -> anyhow::Result<EnclaveClient> {
        let recorder = Recorder::create(&self.folder.join("carried"))?;
        Ok(EnclaveClient::new(&enclave.dir).recorded(recorder))
    }

    /// Sends a sealed file through an enclave. The error is the enclave's own
    /// last word, where there is one.
    pub(crate) async fn call(&self, enclave: &State, message: Vec<u8>) -> anyhow::Result<Vec<u8>> {
        let mut writer = BlockingWriter(Vec::new());
        let client = self.client(enclave)?;
        client
            .call(std::io::Cursor::new(message), &mut writer)
            .await?;
        Ok(writer.0)
    }

    pub(crate) fn sealed(&self) -> anyhow::Result<Vec<u8>> {
        Ok(std::fs::read(self.folder.join("cards.sealed"))?)
    }

    /// The last line of an enclave's console.
    pub(crate) fn last_words(enclave: &State) -> anyhow::Result<String> {
        let lines = tail(&enclave.console(), 1)?;
        Ok(lines.into_iter().next_back().unwrap_or_default())
    }

    pub(crate) async fn run_and_call(&mut self, say: &mut Narrator) -> anyhow::Result<()> {
        let enclave = self.start(&self.image, "cards", false)?;
        say.done(&format!(
            "enclave started in the sandbox, CID {}: it serves",
            enclave.cid
        ));
        let nonce = b"a nonce of the verifier's own";
        let document = self
            .client(&enclave)?
            .attest(Some(nonce), None, false)
            .await?;
        let now = now_ms()?;
        let time = Time::Now {
            now_ms: now,
            max_age_ms: 300_000,
            max_skew_ms: 60_000,
        };
        let expectations = Expectations::new()
            .pcr(0, [self.measurements.pcr0])
            .nonce(nonce);
        let admitted = Unverified::parse(&document)?
            .verify(&[self.root.anchor()], time)?
            .admit(&expectations)?;
        say.done(&format!(
            "attestation document of {} verified: chain, signature, nonce, PCR0",
            admitted.module_id()
        ));
        let result = self.call(&enclave, self.sealed()?).await?;
        say.done(&format!(
            "the sealed file went in, a sealed result of {} bytes came out",
            result.len()
        ));
        self.folder.write("tokens.sealed", result)?;
        self.enclave = Some(enclave);
        Ok(())
    }

    pub(crate) async fn open_result(
        &self,
        say: &mut Narrator,
        plaintext: &[u8],
    ) -> anyhow::Result<()> {
        let mut context = self.context.clone();
        let mut key = None;
        let sealed = self.sealed()?;
        let Parse::Complete { header, .. } = Header::parse(&sealed, &Limits::default())? else {
            anyhow::bail!("the sealed file has no header")
        };
        bind_to(&header, &mut context, &mut key)?;
        let request = OpenRequest { context, key };
        let message = std::fs::read(self.folder.join("tokens.sealed"))?;
        let (_, opened) = open(
            self.owner()?,
            request,
            std::io::Cursor::new(message),
            Vec::new(),
        )
        .await?;
        self.folder.write("tokens.ndjson", &opened)?;
        let lines: Vec<Value> = opened
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()
            .context("the result is not newline-delimited JSON")?;
        let records = plaintext
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .count();
        anyhow::ensure!(
            lines.len() == records,
            "{records} records went in, {} came out",
            lines.len()
        );
        let tokens = lines
            .iter()
            .filter(|line| line["token"].is_string())
            .count();
        say.done(&format!(
            "the owner opens it: {tokens} tokens, {} clear errors",
            lines.len() - tokens
        ));
        if let Some(line) = lines.iter().find(|line| line["token"].is_string()) {
            say.fact(
                "a token",
                &format!(
                    "{} (scheme {}, ends {})",
                    line["token"], line["scheme"], line["last4"]
                ),
            );
        }
        let mut codes = BTreeSet::new();
        for line in &lines {
            let error = &line["error"];
            if let Some(code) = error["code"]
                .as_str()
                .filter(|code| codes.insert((*code).to_owned()))
            {
                say.fact(
                    &format!("an error of kind {code}"),
                    error["message"].as_str().unwrap_or_default(),
                );
            }
        }
        Ok(())
    }

    /// The image with one byte of its job changed, where it does no harm.
    pub(crate) fn changed_image(&self) -> anyhow::Result<PathBuf> {
        let mut program = std::fs::read(&self.job)?;
        // The last byte of the ELF header's padding, which nothing reads: it runs as before.
        let padding = program
            .get_mut(15)
            .context("the job's program is no ELF file")?;
        *padding ^= 1;
        let job = self.folder.write("changed-job", program)?;
        std::fs::set_permissions(&job, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let image = self.folder.join("changed.eif");
        pack(&self.init, &job, &self.manifest, &image)?;
        Ok(image)
    }

    pub(crate) fn image(&self) -> &Path {
        &self.image
    }

    pub(crate) fn search_what_was_carried(
        &self,
        say: &mut Narrator,
        plaintext: &[u8],
    ) -> anyhow::Result<()> {
        let numbers = card_numbers(plaintext);
        anyhow::ensure!(
            !numbers.is_empty(),
            "the input holds no card number to search for"
        );
        let mut carried = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("carried"))? {
            carried.extend(std::fs::read(entry?.path())?);
            carried.push(0);
        }
        let found = occurrences(&carried, &numbers);
        say.done(&format!(
            "{} bytes that the parent carried, searched for {} card numbers: {found} found",
            carried.len(),
            numbers.len()
        ));
        let control = occurrences(plaintext, &numbers);
        say.done(&format!(
            "the same search in the owner's plaintext, so that it can fail: {control} found"
        ));
        anyhow::ensure!(found == 0, "the parent saw {found} card numbers");
        anyhow::ensure!(
            control == numbers.len(),
            "the search finds only {control} in the plaintext"
        );
        Ok(())
    }
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        if let Some(enclave) = &self.enclave {
            self.end(&enclave.name);
        }
    }
}

fn pack(init: &Path, job: &Path, manifest: &Path, image: &Path) -> anyhow::Result<Measurements> {
    let source = Source::Program {
        file: job.to_owned(),
    };
    let mut options = BuildOptions::new(source, init.to_owned(), image.to_owned());
    options.manifest = Some(manifest.to_owned());
    Ok(anchorhold_images::build(&options, &mut |_| ())?.measurements)
}

fn getrandom(bytes: &mut [u8]) -> anyhow::Result<()> {
    use std::io::Read as _;
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(bytes))
        .context("no randomness from /dev/urandom")
}

pub(crate) fn now_ms() -> anyhow::Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

/// The digits of the records' card numbers, where there are at least twelve.
fn card_numbers(plaintext: &[u8]) -> BTreeSet<Vec<u8>> {
    plaintext
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter_map(|record| {
            let digits: Vec<u8> = record["pan"]
                .as_str()?
                .bytes()
                .filter(u8::is_ascii_digit)
                .collect();
            (digits.len() >= 12).then_some(digits)
        })
        .collect()
}

/// How many of the numbers occur, with or without separators between digits.
fn occurrences(haystack: &[u8], numbers: &BTreeSet<Vec<u8>>) -> usize {
    let lengths: BTreeSet<usize> = numbers.iter().map(Vec::len).collect();
    let mut found = BTreeSet::new();
    // Runs of digits, with single spaces and dashes inside taken out.
    let mut run: Vec<u8> = Vec::new();
    let mut separated = false;
    for byte in haystack.iter().chain(b"\0") {
        match byte {
            b'0'..=b'9' => {
                run.push(*byte);
                separated = false;
            }
            b' ' | b'-' if !separated && !run.is_empty() => separated = true,
            _ => {
                for length in &lengths {
                    found.extend(
                        run.windows(*length)
                            .filter(|window| numbers.contains(*window))
                            .map(<[u8]>::to_vec),
                    );
                }
                run.clear();
                separated = false;
            }
        }
    }
    found.len()
}
