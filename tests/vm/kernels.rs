//! The enclave's own runtime under two kernels: the project's, and Debian's for clouds with modules in the first ramdisk.

use std::io::Write;
use std::net::Shutdown;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anchorhold_attestation::{Anchor, Expectations, Time, Unverified};
use anchorhold_images::{ACPI, BuildOptions, DEFAULT_COMMAND_LINE, Image};
use anchorhold_parent::How;
use anchorhold_parent::client::Client;
use anchorhold_simulator::DevelopmentRoot;

use crate::common::{aws_layout, vm_folder};
use crate::stage::{Machine, PATIENCE, folder, image, order, runtime, start};

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

#[test]
fn an_image_in_awss_layout_loads_the_nsms_driver_from_its_first_ramdisk() {
    let cloud = vm_folder().join("cloud");
    let folder = folder();
    let path = folder.path().join("aws.eif");
    let drivers = aws_layout::drivers(&cloud.join("modules"));
    let (nsm, _) = drivers.last().unwrap();
    assert!(nsm.starts_with("nsm.ko"), "{nsm}");
    let command_line = format!("{DEFAULT_COMMAND_LINE} {ACPI}");
    let kernel = std::fs::read(cloud.join("vmlinuz")).unwrap();
    aws_layout::write(&path, &kernel, &command_line, &drivers);
    let measured = *Image::open(&path).unwrap().measurements();
    let mut order = order(&path, folder.path());
    order.memory_mib = Some(256);
    let mut machine = start(folder, order).unwrap();
    machine.beat();
    // It is the init that beats; its command serves a moment later.
    let begun = Instant::now();
    let mut stream = loop {
        match machine.enclave.connect(5000) {
            Ok(stream) => break stream,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}\n{}", machine.console()),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stream.write_all(b"end").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Machine::hear(&mut stream), b"END");
    assert_eq!(machine.ended().how, How::PoweredOff);
    let console = machine.console();
    for said in [
        format!("aws-init: loaded /{nsm}"),
        format!("PCR0: {}", measured.pcr0),
        format!("PCR1: {}", measured.pcr1),
        "aws-init: the command ended with 7".to_owned(),
    ] {
        assert!(console.contains(&said), "no {said:?} in\n{console}");
    }
}
