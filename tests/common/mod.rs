//! What the whole-system tests share: the command, a key service, an image,
//! a key, and the data beside the clone.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    clippy::new_without_default,
    reason = "each suite uses a part of it, as its own module"
)]

pub mod aws_layout;
pub mod channel;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anchorhold_kms::config::{
    DEV_ACCOUNT, DEV_HOST_ACCESS_KEY_ID, DEV_HOST_SECRET_ACCESS_KEY, DEV_OWNER_ACCESS_KEY_ID,
    DEV_OWNER_SECRET_ACCESS_KEY, DEV_REGION,
};
use serde_json::Value;

/// Where the suites' enclaves run: in the sandbox, or where `ANCHORHOLD_TEST_BACKEND` is `qemu` in virtual machines, with the
/// QEMU and the kernel of the folder `ANCHORHOLD_VM` (tests/vm/setup makes it).
pub fn virtual_machines() -> Option<PathBuf> {
    match std::env::var("ANCHORHOLD_TEST_BACKEND").as_deref() {
        Err(_) | Ok("" | "sandbox") => None,
        Ok("qemu") => Some(vm_folder()),
        Ok(other) => panic!("ANCHORHOLD_TEST_BACKEND is sandbox or qemu, not {other}"),
    }
}

/// What tests/vm/setup has made.
pub fn vm_folder() -> PathBuf {
    let folder = std::env::var_os("ANCHORHOLD_VM")
        .expect("ANCHORHOLD_VM names what tests/vm/setup has made");
    let folder = PathBuf::from(folder);
    assert!(
        folder.join("vmlinuz").is_file(),
        "{} holds no kernel: run tests/vm/setup",
        folder.display()
    );
    folder
}

/// The backend as `run --backend` has it.
pub fn backend() -> &'static str {
    if virtual_machines().is_some() {
        "qemu"
    } else {
        "sandbox"
    }
}

/// The kernel for images, where they need one.
pub fn kernel() -> Option<PathBuf> {
    virtual_machines().map(|folder| folder.join("vmlinuz"))
}

/// What starts an image on the backend of this run.
pub fn launch(image: &Path, cid: u32, folder: &Path) -> anchorhold_parent::Launch {
    let mut launch = anchorhold_parent::Launch::new(image, cid, folder);
    if let Some(qemu) = qemu() {
        launch.backend = anchorhold_parent::Backend::Qemu;
        launch.qemu = Some(qemu);
    }
    launch
}

/// QEMU, where enclaves run in it.
pub fn qemu() -> Option<PathBuf> {
    virtual_machines().map(|folder| folder.join("bin/qemu-system-x86_64"))
}

/// The workspace's folder.
pub const WORKSPACE: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the data beside the clone. Absent, it says so out loud, and fails
/// where `CI` is `true`.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(WORKSPACE).join("../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("NOT TESTED: {} is not there", path.display());
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{} must be there in CI",
        path.display()
    );
    None
}

/// The command under test; `ANCHORHOLD_UNDER_TEST` names a copy for users who cannot reach the folder it was built in.
pub fn anchorhold() -> PathBuf {
    std::env::var_os("ANCHORHOLD_UNDER_TEST")
        .map_or_else(|| env!("CARGO_BIN_EXE_anchorhold").into(), PathBuf::from)
}

/// Which of the key service's published credentials to use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Owner,
    Host,
}

impl Who {
    pub fn arn(self) -> String {
        let user = match self {
            Who::Owner => "owner",
            Who::Host => "host",
        };
        format!("arn:aws:iam::{DEV_ACCOUNT}:user/{user}")
    }

    pub fn credentials(self) -> (&'static str, &'static str) {
        match self {
            Who::Owner => (DEV_OWNER_ACCESS_KEY_ID, DEV_OWNER_SECRET_ACCESS_KEY),
            Who::Host => (DEV_HOST_ACCESS_KEY_ID, DEV_HOST_SECRET_ACCESS_KEY),
        }
    }
}

/// A folder of a test's own, and the `anchorhold` command within it.
pub struct House {
    folder: tempfile::TempDir,
    endpoint: Option<String>,
}

impl House {
    pub fn new() -> Self {
        // Short, since sockets' paths are bounded.
        let folder = tempfile::Builder::new()
            .prefix("ah-")
            .tempdir_in("/tmp")
            .expect("a temporary folder");
        Self {
            folder,
            endpoint: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a file in the temporary folder");
        path
    }

    /// The command, with the credentials of `who`.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        who: Who,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let (id, secret) = who.credentials();
        let mut command = Command::new(anchorhold());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("ANCHORHOLD_HOME", self.folder.path())
            .env("AWS_ACCESS_KEY_ID", id)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env("AWS_REGION", DEV_REGION)
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_CA_BUNDLE")
            .env_remove("AWS_ENDPOINT_URL")
            .stdin(Stdio::null());
        if let Some(qemu) = qemu() {
            command.env("ANCHORHOLD_QEMU", qemu);
        }
        if let Some(endpoint) = &self.endpoint {
            command
                .env("AWS_ENDPOINT_URL_KMS", endpoint)
                .env("AWS_CA_BUNDLE", self.path("kms/ca.pem"));
        }
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, who: Who, arguments: impl IntoIterator<Item = S>) -> Output {
        self.command(who, arguments)
            .output()
            .expect("anchorhold runs")
    }

    /// Runs the command, which must succeed; returns what it printed.
    pub fn must<S: AsRef<OsStr>>(
        &self,
        who: Who,
        arguments: impl IntoIterator<Item = S>,
    ) -> Vec<u8> {
        let output = self.run(who, arguments);
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// Runs the command, which must fail; returns what it said.
    pub fn must_fail<S: AsRef<OsStr>>(
        &self,
        who: Who,
        arguments: impl IntoIterator<Item = S>,
    ) -> String {
        let mut command = self.command(who, arguments);
        let output = command.output().expect("anchorhold runs");
        assert!(
            !output.status.success(),
            "{command:?} succeeded: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs the command with `input` on its standard input; it must succeed.
    pub fn must_with<S: AsRef<OsStr>>(
        &self,
        who: Who,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> Vec<u8> {
        let mut child = self
            .command(who, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("anchorhold runs");
        let mut stdin = child.stdin.take().expect("standard input was asked for");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("anchorhold ends");
        let _ = writer.join();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    pub fn endpoint(&self) -> &str {
        self.endpoint.as_deref().expect("a key service was started")
    }

    /// What enclaves' manifests call `host:port`.
    pub fn authority(&self) -> &str {
        self.endpoint().split_once("://").expect("a URL").1
    }

    /// Starts the development key service. Its state is in `kms`.
    pub fn key_service(&mut self, extra: &[&str]) -> KeyService {
        self.key_service_within(&[], extra)
    }

    /// The same by another program, which runs what its arguments say.
    pub fn key_service_within(&mut self, wrapper: &[OsString], extra: &[&str]) -> KeyService {
        let serve = "kms serve --dev --listen 127.0.0.1:0 --state kms";
        let plain = self.command(Who::Owner, serve.split(' '));
        let mut command = match wrapper.split_first() {
            None => plain,
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command
                    .args(arguments)
                    .arg(plain.get_program())
                    .args(plain.get_args())
                    .current_dir(self.folder.path())
                    .stdin(Stdio::null());
                for (name, value) in plain.get_envs() {
                    match value {
                        Some(value) => command.env(name, value),
                        None => command.env_remove(name),
                    };
                }
                command
            }
        };
        let mut process = command
            .args(extra)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the key service starts");
        let stdout = process
            .stdout
            .take()
            .expect("standard output was asked for");
        let mut lines = BufReader::new(stdout).lines();
        for line in &mut lines {
            let line = line.expect("UTF-8");
            if let Some(endpoint) = line.strip_prefix("listening on ") {
                self.endpoint = Some(endpoint.to_owned());
            }
            if line.starts_with("development preset") {
                break;
            }
        }
        assert!(
            self.endpoint.is_some(),
            "the key service ended before it listened"
        );
        KeyService { process }
    }

    /// Starts a key service in plain HTTP by a configuration, with more in its environment.
    pub fn configured_key_service(
        &mut self,
        config: &str,
        environment: &[(&str, &Path)],
    ) -> KeyService {
        self.write("kms.toml", config);
        let mut process = self
            .command(Who::Owner, ["kms", "serve", "--config", "kms.toml"])
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the key service starts");
        let stdout = process
            .stdout
            .take()
            .expect("standard output was asked for");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let endpoint = lines.find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()));
        self.endpoint = Some(endpoint.expect("the key service ended before it listened"));
        // It says more, and must have somebody to say it to.
        std::thread::spawn(move || lines.count());
        KeyService { process }
    }

    /// Why the last refused request was refused, after the first `seen` requests.
    pub fn refusal_after(&self, seen: usize) -> String {
        let lines = self.audit();
        let refused = lines
            .iter()
            .skip(seen)
            .rev()
            .find(|line| line["errorCode"].is_string())
            .unwrap_or_else(|| panic!("no refusal among {} requests", lines.len() - seen));
        refused["anchorhold"]["reason"]
            .as_str()
            .expect("a refusal has a reason")
            .to_owned()
    }

    /// The audit log's lines.
    pub fn audit(&self) -> Vec<Value> {
        std::fs::read_to_string(self.path("kms/audit.ndjson"))
            .expect("an audit log")
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }

    /// Packs a package of this workspace into an image.
    pub fn image(&self, package: &str, manifest: &str, image: &str) -> PathBuf {
        let manifest_path = self.write(&format!("{image}.toml"), manifest);
        let path = self.path(image);
        let package = Path::new(WORKSPACE).join(package);
        let kernel = kernel();
        let mut arguments = vec![
            OsStr::new("build"),
            OsStr::new("--cargo"),
            package.as_os_str(),
            OsStr::new("--manifest"),
            manifest_path.as_os_str(),
            OsStr::new("-o"),
            path.as_os_str(),
        ];
        if let Some(kernel) = &kernel {
            arguments.extend([OsStr::new("--kernel"), kernel.as_os_str()]);
        }
        self.must(Who::Owner, arguments);
        path
    }

    /// A manifest for a job that uses this house's key service.
    pub fn manifest(&self, command: &[&str], key: &str, more: &str) -> String {
        let ca = self.path("ca.pem");
        std::fs::copy(self.path("kms/ca.pem"), ca).expect("the key service made a CA");
        format!(
            "[job]\ncommand = {command:?}\n\n[key_service]\nendpoint = \"{}\"\nca = \"ca.pem\"\nkey = \"{key}\"\nregion = \"{DEV_REGION}\"\n\n{more}",
            self.endpoint()
        )
    }

    /// The measurements of an image, as `describe --json` has them.
    pub fn measurements(&self, image: &Path) -> BTreeMap<String, String> {
        let described = self.must(
            Who::Owner,
            [
                OsStr::new("describe"),
                image.as_os_str(),
                OsStr::new("--json"),
            ],
        );
        let described: Value = serde_json::from_slice(&described).expect("JSON");
        described["Measurements"]
            .as_object()
            .expect("measurements")
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect()
    }

    /// Writes the key policy for an image: it may use the key through the host, and the owner may do all. The
    /// development root's documents count.
    pub fn policy(&self, image: &Path, name: &str) -> PathBuf {
        let root = self.path("development-root/root.pem");
        self.policy_with(image, name, &["--anchor", root.to_str().expect("UTF-8")])
    }

    /// The same with other arguments in place of `--anchor`.
    pub fn policy_with(&self, image: &Path, name: &str, more: &[&str]) -> PathBuf {
        let owner = Who::Owner.arn();
        let host = Who::Host.arn();
        let mut arguments = vec![
            OsStr::new("policy"),
            image.as_os_str(),
            OsStr::new("--principal"),
            OsStr::new(&host),
            OsStr::new("--owner"),
            OsStr::new(&owner),
        ];
        arguments.extend(more.iter().map(OsStr::new));
        let policy = self.must(Who::Owner, arguments);
        self.write(name, policy)
    }

    /// Makes a key of that alias and policy; returns its ARN.
    pub fn key(&self, alias: &str, policy: &Path) -> String {
        let made = self.must(
            Who::Owner,
            [
                OsStr::new("kms"),
                OsStr::new("create-key"),
                OsStr::new("--alias"),
                OsStr::new(alias),
                OsStr::new("--policy"),
                policy.as_os_str(),
            ],
        );
        String::from_utf8(made).expect("UTF-8").trim().to_owned()
    }

    /// Seals bytes as the owner.
    pub fn seal(&self, key: &str, more: &[&str], plaintext: &[u8], name: &str) -> PathBuf {
        let input = self.write(&format!("{name}.plain"), plaintext);
        let output = self.path(name);
        let mut arguments = vec![OsStr::new("seal"), OsStr::new("--key"), OsStr::new(key)];
        arguments.extend(more.iter().map(OsStr::new));
        arguments.extend([
            OsStr::new("--input"),
            input.as_os_str(),
            OsStr::new("--output"),
            output.as_os_str(),
        ]);
        self.must(Who::Owner, arguments);
        output
    }

    /// Opens a sealed file as the owner.
    pub fn open(&self, sealed: &Path, more: &[&str]) -> Vec<u8> {
        let mut arguments = vec![
            OsStr::new("open"),
            OsStr::new("--input"),
            sealed.as_os_str(),
        ];
        arguments.extend(more.iter().map(OsStr::new));
        self.must(Who::Owner, arguments)
    }

    /// Starts an enclave as the host; it ends with the value.
    pub fn enclave(&self, image: &Path, name: &'static str, more: &[&str]) -> Running<'_> {
        self.started(image, name, more).0
    }

    /// The same, with what `run` printed.
    pub fn started(
        &self,
        image: &Path,
        name: &'static str,
        more: &[&str],
    ) -> (Running<'_>, String) {
        let mut arguments = vec![
            OsStr::new("run"),
            image.as_os_str(),
            OsStr::new("--name"),
            OsStr::new(name),
            OsStr::new("--backend"),
            OsStr::new(backend()),
        ];
        arguments.extend(more.iter().map(OsStr::new));
        let said = self.must(Who::Host, arguments);
        let said = String::from_utf8_lossy(&said).into_owned();
        (Running { house: self, name }, said)
    }

    /// Streams a sealed file through an enclave as the host.
    pub fn call(&self, name: &str, input: &Path, output: &Path) -> Output {
        self.run(
            Who::Host,
            [
                OsStr::new("call"),
                OsStr::new(name),
                OsStr::new("--input"),
                input.as_os_str(),
                OsStr::new("--output"),
                output.as_os_str(),
            ],
        )
    }

    pub fn must_call(&self, name: &str, input: &Path, output: &Path) {
        let outcome = self.call(name, input, output);
        assert!(
            outcome.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&outcome.stderr),
            self.console(name)
        );
    }

    /// A call that must fail: no output file may appear. Returns what was said.
    pub fn must_not_call(&self, name: &str, input: &Path, output: &Path) -> String {
        let outcome = self.call(name, input, output);
        assert!(!outcome.status.success(), "the call succeeded");
        assert!(!output.exists(), "a failed call left a result");
        String::from_utf8_lossy(&outcome.stderr).into_owned()
    }

    /// What an enclave has written on its console.
    pub fn console(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.run(Who::Host, ["logs", name]).stdout).into_owned()
    }
}

impl House {
    /// Waits until an enclave's console holds `word` after its first `before` bytes: it may be told to the caller earlier.
    pub fn console_says(&self, name: &str, before: usize, word: &str) {
        let since = std::time::Instant::now();
        loop {
            let console = self.console(name);
            if console.get(before..).is_some_and(|new| new.contains(word)) {
                return;
            }
            assert!(
                since.elapsed() < std::time::Duration::from_mins(1),
                "the console never said {word:?}:\n{console}"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A key service that ends with the value.
pub struct KeyService {
    process: Child,
}

impl KeyService {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// By SIGKILL, without a chance to do anything.
    pub fn kill(self) {
        drop(self);
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = i32::try_from(self.process.id()).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).expect("it runs");
    }

    pub fn try_wait(&mut self) -> Option<std::process::ExitStatus> {
        self.process.try_wait().expect("it can be waited for")
    }
}

impl Drop for KeyService {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An enclave that ends with the value.
pub struct Running<'a> {
    house: &'a House,
    pub name: &'static str,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "console of {}:\n{}",
                self.name,
                self.house.console(self.name)
            );
        }
        let _ = self.house.run(Who::Host, ["stop", self.name]);
    }
}
