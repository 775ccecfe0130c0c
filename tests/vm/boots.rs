//! That machines boot, each time, as what was measured.

use anchorhold_images::Image;

use crate::stage::{Machine, run};

#[test]
fn registers_read_inside_are_those_that_describe_names() {
    let machine = run("serve");
    machine.beat();
    let registers = Machine::hear(&mut machine.ask(b'p', &[]));
    let image = Image::open(&machine.folder.path().join("image.eif")).unwrap();
    let measured = image.measurements();
    for (index, expected) in [(0, measured.pcr0), (1, measured.pcr1), (2, measured.pcr2)] {
        assert_eq!(
            &registers[48 * index..][..48],
            expected.as_bytes(),
            "PCR{index}"
        );
    }
    assert_eq!(&registers[48 * 8..], [0; 48], "PCR8 of an unsigned image");
}

#[test]
fn debug_mode_shows_zeros() {
    let folder = crate::stage::folder();
    let image = crate::stage::told(folder.path(), "serve");
    let mut order = crate::stage::order(&image, folder.path());
    order.debug = true;
    let machine = crate::stage::start(folder, order).unwrap();
    machine.beat();
    let registers = Machine::hear(&mut machine.ask(b'p', &[]));
    assert_eq!(&registers[..48 * 3], [0; 48 * 3]);
}

#[test]
fn twenty_boots_in_a_row_hang_never() {
    for _ in 0..20 {
        let mut machine = run("serve");
        machine.beat();
        drop(machine.ask(b'q', &[]));
        let ended = machine.ended();
        assert_eq!(
            ended.how,
            anchorhold_parent::How::PoweredOff,
            "{}",
            machine.console()
        );
    }
}

#[test]
fn an_image_without_a_kernel_and_a_machine_too_small_are_refused_with_the_remedy() {
    let folder = crate::stage::folder();
    let without = crate::stage::image(folder.path(), crate::stage::guest(), |options| {
        options.kernel = None;
    });
    let order = crate::stage::order(&without, folder.path());
    let error = crate::stage::start(folder, order)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("--kernel"), "{error}");

    let folder = crate::stage::folder();
    let image = crate::stage::told(folder.path(), "serve");
    let mut order = crate::stage::order(&image, folder.path());
    order.memory_mib = Some(16);
    let error = crate::stage::start(folder, order)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("--memory"), "{error}");
}

#[test]
fn the_machine_has_no_disk_no_network_and_no_rights() {
    let other = run("serve");
    other.beat();
    let machine = run("serve");
    machine.beat();
    let pid = machine.enclave.report().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(
        field("CapEff:")
            .iter()
            .all(|mask| mask.chars().all(|digit| digit == '0')),
        "{status}"
    );
    assert_eq!(field("Seccomp:"), ["2"]);
    if nix_is_root() {
        assert!(field("Uid:").iter().all(|id| id != "0"), "{status}");
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_ne!(
            std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap(),
            own
        );
    }
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
    for word in [
        "-drive",
        "-blockdev",
        "-netdev",
        "-nic",
        "-qmp",
        "-mon ",
        "-gdb",
    ] {
        assert!(!arguments.contains(word), "{arguments}");
    }
    assert!(arguments.contains("-nodefaults") && arguments.contains("-monitor none"));
    // Its descriptors: nothing of the host but memory, pipes and the two sockets; and of other machines (this process has some
    // at the same time) nothing at all.
    let mut memories = 0;
    for descriptor in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = std::fs::read_link(descriptor.unwrap().path()).unwrap();
        let target = target.to_string_lossy().into_owned();
        let is_plain = [
            "anon_inode:",
            "socket:",
            "pipe:",
            "/memfd:",
            "/dev/null",
            "/dev/kvm",
        ]
        .iter()
        .any(|start| target.starts_with(start));
        assert!(is_plain, "{target}");
        memories += usize::from(target.starts_with("/memfd:memory-backend-memfd"));
    }
    assert_eq!(memories, 1);
}

fn nix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
