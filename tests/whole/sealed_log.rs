//! A log that is sealed to its owner: the host carries it and reads nothing, and what it does to it is seen.

use crate::common::{House, Who};

/// What the job writes where it complains.
const SECRET: &str = "a-word-for-the-owner";

struct Scene {
    house: House,
    service: Option<crate::common::KeyService>,
}

/// An image whose log goes to `alias/logs`, under which it may make data keys.
fn scene() -> Scene {
    let mut house = House::new();
    let service = house.key_service(&[]);
    let more = "[resources]\nmemory_mib = 128\n[log]\njob_stderr = \"forward\"\nencrypt_to = \"alias/logs\"\n";
    let manifest = house.manifest(&["/job"], "alias/odd", more);
    let image = house.image("tests/whole/odd-job", &manifest, "odd.eif");
    let policy = house.policy(&image, "odd.json");
    house.key("alias/odd", &policy);
    house.key("alias/logs", &policy);
    Scene {
        house,
        service: Some(service),
    }
}

impl Scene {
    fn complain(&self, name: &str, text: &str) {
        let line = format!("{{\"do\":\"complain\",\"text\":\"{text}\"}}\n");
        let sealed = self
            .house
            .seal("alias/odd", &[], line.as_bytes(), "input.sealed");
        let result = self.house.path("result.sealed");
        self.house.must_call(name, &sealed, &result);
        std::fs::remove_file(result).expect("a result");
    }

    /// As the owner, from lines that the host has handed over: exit code, standard output, standard error.
    fn opened(&self, lines: &str) -> (bool, String, String) {
        let input = self.house.write("console.log", lines);
        let input = input.to_str().expect("text");
        let outcome = self.house.run(
            Who::Owner,
            ["logs", "--open", "--key", "alias/logs", "--input", input],
        );
        (
            outcome.status.success(),
            String::from_utf8_lossy(&outcome.stdout).into_owned(),
            String::from_utf8_lossy(&outcome.stderr).into_owned(),
        )
    }

    /// Waits until the owner finds these words in an enclave's log.
    fn owner_reads(&self, name: &str, word: &str) -> String {
        let since = std::time::Instant::now();
        loop {
            let arguments = ["logs", name, "--open", "--key", "alias/logs"];
            let outcome = self.house.run(Who::Owner, arguments);
            let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
            if text.contains(word) {
                return text;
            }
            assert!(
                since.elapsed() < std::time::Duration::from_mins(1),
                "never {word:?}:\n{text}{}",
                String::from_utf8_lossy(&outcome.stderr)
            );
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

#[test]
fn the_owner_reads_what_the_host_cannot_and_sees_what_it_does_to_it() {
    let scene = scene();
    let image = scene.house.path("odd.eif");
    let enclave = scene.house.enclave(&image, "odd", &[]);
    // Each in a frame of its own: a frame leaves a second after its first line.
    for number in 0..2 {
        let word = format!("{SECRET}-{number}");
        scene.complain(enclave.name, &word);
        let text = scene.owner_reads(enclave.name, &word);
        assert!(
            text.contains(&format!(
                "job: odd-job saw {{\"do\":\"complain\",\"text\":\"{word}\"}}"
            )),
            "{text}"
        );
    }
    // Redaction comes first.
    scene.complain(enclave.name, "4111 1111 1111 1111");
    let text = scene.owner_reads(enclave.name, "[card]");
    assert!(!text.contains("4111"), "{text}");
    drop(enclave);
    let console = scene.house.console("odd");
    assert!(
        !console.contains(SECRET) && !console.contains("odd-job"),
        "{console}"
    );

    let (good, text, said) = scene.opened(&console);
    assert!(good && text.contains(SECRET), "{said}");
    assert!(text.contains("unsealed: anchorhold: serving"), "{text}");
    let lines: Vec<&str> = console.lines().collect();
    let frames: Vec<usize> = (0..lines.len())
        .filter(|at| lines[*at].starts_with("sealed-log.v1 "))
        .collect();
    assert!(frames.len() >= 3, "{console}");
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
        change(&mut lines);
        scene.opened(&lines.join("\n"))
    };
    let (first, second, last) = (frames[0], frames[1], frames[frames.len() - 1]);
    for ((good, _, said), word) in [
        (
            with(&|lines| drop(lines.remove(second))),
            "1 frames are missing",
        ),
        (
            with(&|lines| lines.swap(first, second)),
            "out of their order",
        ),
        (
            with(&|lines| lines.push(lines[second].clone())),
            "came again",
        ),
        (
            with(&|lines| lines[second].truncate(600)),
            "cannot be opened",
        ),
    ] {
        assert!(!good && said.contains(word), "{said}");
    }
    let (good, _, said) = with(&|lines| drop(lines.remove(last)));
    assert!(good && said.contains("it has no end after frame"), "{said}");
    let (_, _, said) = with(&|lines| drop(lines.remove(first)));
    assert!(said.contains("the frames before 2 are not here"), "{said}");
    // The host has no use of it, with its own credentials.
    let input = scene.house.path("console.log");
    let input = input.to_str().expect("text");
    let said = scene.house.must_fail(
        Who::Host,
        ["logs", "--open", "--key", "alias/logs", "--input", input],
    );
    assert!(
        said.contains("cannot be opened") && !said.contains(SECRET),
        "{said}"
    );
}

#[test]
fn an_enclave_that_is_killed_leaves_its_frames_and_one_without_a_key_service_goes_on() {
    let mut scene = scene();
    let image = scene.house.path("odd.eif");
    let enclave = scene.house.enclave(&image, "odd", &[]);
    scene.complain(enclave.name, SECRET);
    scene.owner_reads(enclave.name, SECRET);
    // By SIGKILL, with all its processes: its supervisor is gone, and so is it.
    let state: serde_json::Value = serde_json::from_slice(
        &std::fs::read(scene.house.path("enclaves/odd/state.json")).expect("a state file"),
    )
    .expect("JSON");
    let pid = state["supervisor"]["pid"].as_i64().expect("a process id");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process id"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("it runs");
    let text = scene.owner_reads(enclave.name, SECRET);
    assert!(text.contains("odd-job saw"), "{text}");
    let (good, _, said) = scene.opened(&scene.house.console("odd"));
    assert!(good && said.contains("it has no end after frame"), "{said}");
    drop(enclave);

    // Nobody answers for the key: the enclave serves all the same, and says so once.
    drop(scene.service.take());
    let enclave = scene.house.enclave(&image, "alone", &[]);
    scene
        .house
        .console_says(enclave.name, 0, "its key is not to be had");
    let console = scene.house.console(enclave.name);
    assert!(!console.contains("sealed-log.v1"), "{console}");
}

#[test]
fn the_last_word_of_an_enclave_that_ends_is_in_its_log() {
    let mut house = House::new();
    let service = house.key_service(&[]);
    let more = "[log]\nencrypt_to = \"alias/logs\"\n";
    let manifest = house
        .manifest(&["/job", &format!("print {SECRET}")], "alias/odd", more)
        .replace("[job]\n", "[job]\ncontract = \"once\"\n");
    let image = house.image("tests/whole/odd-job", &manifest, "once.eif");
    house.key("alias/logs", &house.policy(&image, "once.json"));
    let run = |name: &str| {
        let image = image.to_str().expect("text");
        let backend = crate::common::backend();
        // It may end before it serves, which `run` says, or after.
        house.run(
            Who::Host,
            ["run", image, "--name", name, "--backend", backend],
        );
        house.console_says(name, 0, "ended with exit code 0");
        house.console(name)
    };
    let console = run("once");
    assert!(!console.contains(SECRET), "{console}");
    let scene = |lines: &str| {
        let input = house.write("console.log", lines);
        let input = input.to_str().expect("text").to_owned();
        house.run(
            Who::Owner,
            ["logs", "--open", "--key", "alias/logs", "--input", &input],
        )
    };
    let outcome = scene(&console);
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let said = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(outcome.status.success() && said.is_empty(), "{said}");
    assert!(text.contains(&format!("job: {SECRET}")), "{text}");
    assert!(text.contains("the job ended with exit code 0"), "{text}");
    // Where its key is not to be had, nothing of it is written plainly, and that is said.
    drop(service);
    let console = run("alone");
    assert!(
        !console.contains(SECRET) && !console.contains("sealed-log.v1"),
        "{console}"
    );
    assert!(
        console.contains("lines of the log were never sealed, and are gone"),
        "{console}"
    );
}
