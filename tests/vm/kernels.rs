//! The enclave's own runtime under two kernels: the project's, and Debian's for clouds with modules in the first ramdisk.

use std::path::PathBuf;

use anchorhold_attestation::{Anchor, Expectations, Time, Unverified};
use anchorhold_images::{BuildOptions, Image};
use anchorhold_parent::client::Client;
use anchorhold_simulator::DevelopmentRoot;

use crate::common::vm_folder;
use crate::stage::{Machine, folder, image, order, runtime, start};

/// Boots the runtime and has it attest: the document chains to the development root and carries the image's measurements.
fn attests(memory_mib: u32, change: impl FnOnce(&mut BuildOptions)) {
    let folder = folder();
    let image = image(folder.path(), runtime(), change);
    let measured = *Image::open(&image).unwrap().measurements();
    let mut order = order(&image, folder.path());
    order.memory_mib = Some(memory_mib);
    let machine = start(folder, order).unwrap();
    machine.beat();
    let document = document(&machine);
    let root = DevelopmentRoot::load_or_create(&machine.folder.path().join("root")).unwrap();
    let anchor = Anchor::from_pem(root.certificate_pem()).unwrap();
    let verified = Unverified::parse(&document)
        .unwrap()
        .verify(&[anchor], Time::Document)
        .unwrap();
    verified
        .admit(
            &Expectations::new()
                .pcr(0, [measured.pcr0])
                .pcr(1, [measured.pcr1])
                .pcr(2, [measured.pcr2])
                .nonce(b"once"),
        )
        .unwrap();
    assert!(
        machine.console().contains("serving; jobs are confined by"),
        "{}",
        machine.console()
    );
}

fn document(machine: &Machine) -> Vec<u8> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(Client::new(machine.enclave.dir()).attest(Some(b"once"), None, false))
        .unwrap()
}

#[test]
fn the_runtime_attests_under_the_projects_kernel() {
    attests(128, |_| ());
}

#[test]
fn a_large_ramdisk_unpacks_into_more_than_half_of_the_memory() {
    let padding = folder();
    // Hard to compress, as programs are.
    let mut bytes = Vec::new();
    crate::sum::give(&mut bytes, 80 << 20).unwrap();
    std::fs::write(padding.path().join("data"), bytes).unwrap();
    std::fs::copy(crate::stage::guest(), padding.path().join("job")).unwrap();
    std::fs::write(
        padding.path().join("anchorhold.toml"),
        "[job]\ncommand = [\"/job\"]\n",
    )
    .unwrap();
    attests(256, |options| {
        let root = padding.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for name in ["data", "job"] {
            std::fs::rename(padding.path().join(name), root.join(name)).unwrap();
        }
        options.source = anchorhold_images::Source::Root { dir: root };
        options.manifest = Some(padding.path().join("anchorhold.toml"));
    });
}

#[test]
fn the_runtime_attests_under_debians_kernel_with_modules() {
    let cloud = vm_folder().join("cloud");
    let mut modules: Vec<PathBuf> = std::fs::read_dir(cloud.join("modules"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    modules.sort();
    assert!(modules.len() >= 4, "{modules:?}");
    attests(256, |options| {
        options.kernel = Some(cloud.join("vmlinuz"));
        options.modules = modules;
    });
}
