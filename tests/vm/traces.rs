//! That machines leave nothing behind: fifty come and go, and this process and its folder are as before.

use crate::stage::{folder, order, start, told};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

fn children() -> String {
    let mut all = String::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path().join("children");
        all.push_str(&std::fs::read_to_string(path).unwrap_or_default());
    }
    all
}

/// What this process holds for itself.
fn kibibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn fifty_starts_and_stops_leave_nothing() {
    if std::env::var_os("ANCHORHOLD_ALONE").is_none() {
        // In a process of its own: other tests open and close things as well.
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "traces::fifty_starts_and_stops_leave_nothing",
                "--exact",
                "--nocapture",
            ])
            .env("ANCHORHOLD_ALONE", "1")
            .output()
            .unwrap();
        assert!(
            alone.status.success(),
            "{}{}",
            String::from_utf8_lossy(&alone.stdout),
            String::from_utf8_lossy(&alone.stderr)
        );
        return;
    }
    let shared = folder();
    let image = told(shared.path(), "serve");
    let cycle = |number: usize| {
        let folder = folder();
        let order = order(&image, folder.path());
        let mut machine = start(folder, order).unwrap();
        // Some are killed before they live.
        if !number.is_multiple_of(5) {
            machine.beat();
            let _ = machine.enclave.connect(5000).unwrap();
        }
        let pid = machine.enclave.report().pid;
        machine.enclave.kill();
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        let left: Vec<_> = std::fs::read_dir(machine.enclave.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| {
                name != "console.log"
                    && !name.starts_with("log.ndjson")
                    && name != "vsock.sock_9000"
            })
            .collect();
        assert!(left.is_empty(), "{left:?}");
    };
    // The first ones settle how much this process keeps for the next.
    for number in 0..10 {
        cycle(number);
    }
    let (before, held) = ((descriptors(), threads()), kibibytes());
    for number in 0..50 {
        cycle(number);
    }
    assert_eq!((descriptors(), threads()), before);
    assert_eq!(children(), "");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(
        !maps.contains("memfd:"),
        "a machine's memory is left: {maps}"
    );
    // The buffers of a machine are some 200 KiB.
    let grown = kibibytes().saturating_sub(held);
    assert!(grown < 50 * 128, "{grown} KiB more than after ten");
}
