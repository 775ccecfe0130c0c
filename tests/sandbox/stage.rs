//! A key service, an image of the hostile job, and its attempts: inside an enclave and outside of any.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anchorhold_images::cargo_static::StaticBuild;
use serde_json::{Value, json};

use crate::common::{House, KeyService, Running, WORKSPACE, Who};

const KEY: &str = "alias/hostile";

/// Names a folder that holds both programs, for users who cannot build them.
pub const PREBUILT: &str = "ANCHORHOLD_STATIC_PROGRAMS";

/// Set for the attempts outside, and never seen inside.
pub const CANARY: &str = "ANCHORHOLD_CANARY";

/// The static programs in the image. Outside, the very same hostile program runs.
pub struct Programs {
    pub init: PathBuf,
    pub hostile: PathBuf,
}

/// Built once for all tests.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        if let Some(folder) = std::env::var_os(PREBUILT).map(PathBuf::from) {
            return Programs {
                init: folder.join("anchorhold-enclave"),
                hostile: folder.join("hostile"),
            };
        }
        let build = |package: &str, bin: &str| {
            let mut build = StaticBuild::new(&Path::new(WORKSPACE).join(package));
            build.target_dir = Some(Path::new(WORKSPACE).join("target/static"));
            build.bin = Some(bin.to_owned());
            build
                .run(&mut |line| eprintln!("{line}"))
                .expect("a static program")
                .path
        };
        Programs {
            init: build("enclave", "anchorhold-enclave"),
            hostile: build("tests/sandbox/hostile", "hostile"),
        }
    })
}

/// What came of an attempt.
#[derive(Debug)]
pub struct Outcome {
    pub through: bool,
    pub detail: Value,
}

impl Outcome {
    /// What the system said where it did not come through.
    pub fn said(&self) -> &str {
        self.detail.as_str().unwrap_or_default()
    }
}

/// All that an enclave with the hostile job needs.
pub struct Stage {
    pub house: House,
    image: PathBuf,
    _service: KeyService,
}

impl Stage {
    /// With this much memory.
    pub fn new(memory_mib: u32) -> Self {
        let mut house = House::new();
        let service = house.key_service(&[]);
        let manifest = house.manifest(
            &["/job"],
            KEY,
            &format!("[resources]\nmemory_mib = {memory_mib}\ncpus = 1\n"),
        );
        let manifest = house.write("hostile.toml", manifest);
        let image = house.path("hostile.eif");
        let programs = programs();
        house.must(
            Who::Owner,
            [
                OsStr::new("build"),
                OsStr::new("--program"),
                programs.hostile.as_os_str(),
                OsStr::new("--init"),
                programs.init.as_os_str(),
                OsStr::new("--manifest"),
                manifest.as_os_str(),
                OsStr::new("-o"),
                image.as_os_str(),
            ],
        );
        house.key(KEY, &house.policy(&image, "policy.json"));
        Self {
            house,
            image,
            _service: service,
        }
    }

    pub fn enclave(&self) -> Running<'_> {
        self.house.enclave(&self.image, "hostile", &[])
    }

    /// Sends attempts sealed through the enclave and opens what came of them.
    pub fn inside(&self, attempts: &[Value]) -> Vec<Outcome> {
        let sealed = self
            .house
            .seal(KEY, &[], &lines(attempts), "attempts.sealed");
        let result = self.house.path("outcomes.sealed");
        self.house.must_call("hostile", &sealed, &result);
        outcomes(attempts, &self.house.open(&result, &[]))
    }

    /// An ordinary call, which must work.
    pub fn calls_work(&self) {
        let outcome = self.inside(&[json!({ "try": "own-pid" })]).remove(0);
        assert!(outcome.through, "{outcome:?}");
    }

    /// Makes attempts with the same program outside. It has a descriptor and a variable too many, so that both are found.
    pub fn outside(&self, attempts: &[Value]) -> Vec<Outcome> {
        let mut job = Command::new("/bin/sh")
            .args(["-c", "exec \"$0\" 9</dev/null"])
            .arg(&programs().hostile)
            .env(CANARY, "sings")
            .current_dir("/tmp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the hostile job runs outside");
        let mut stdin = job.stdin.take().expect("standard input was asked for");
        let input = lines(attempts);
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = job.wait_with_output().expect("the hostile job ends");
        writer
            .join()
            .expect("the writer ends")
            .expect("the hostile job reads its lines");
        assert!(output.status.success(), "{}", output.status);
        outcomes(attempts, &output.stdout)
    }
}

fn lines(attempts: &[Value]) -> Vec<u8> {
    attempts
        .iter()
        .flat_map(|attempt| format!("{attempt}\n").into_bytes())
        .collect()
}

fn outcomes(attempts: &[Value], bytes: &[u8]) -> Vec<Outcome> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let outcomes: Vec<Outcome> = text
        .lines()
        .zip(attempts)
        .map(|(line, attempt)| {
            let answer: Value = serde_json::from_str(line).expect("newline-delimited JSON");
            assert_eq!(answer["try"], attempt["try"]);
            Outcome {
                through: answer["through"].as_bool().expect("a verdict"),
                detail: answer["detail"].clone(),
            }
        })
        .collect();
    assert_eq!(outcomes.len(), attempts.len(), "{text}");
    outcomes
}

/// Whether this process is root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
