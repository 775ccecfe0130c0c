//! Reading an image beside hashing it once: 64 MiB of ramdisks, plain and gzip'd, and the unpacking of a runtime. What
//! is beside other tools is in `run`.

#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::hint::black_box;
use std::io::{Read, Write};
use std::path::Path;

use anchorhold_images::{
    BuildOptions, Compression, Image, Limits, Ramdisk, Source, Unmeasured, build,
};
use aws_lc_rs::digest::{SHA384, digest};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sha2::Digest;

fn static_program(path: &Path, payload: &[u8]) {
    let mut file = vec![0; 120];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for (at, byte) in [
        (16, 3),
        (18, 62),
        (32, 64),
        (54, 56),
        (56, 1),
        (64, 1),
        (96, 120),
    ] {
        file[at] = byte;
    }
    file.extend_from_slice(payload);
    fs::write(path, file).unwrap();
}

/// Bytes of which gzip saves about half, as of programs.
fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..bytes)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 60) as u8) * if state >> 59 & 1 == 0 { 1 } else { 16 }
        })
        .collect()
}

fn image(dir: &Path, application: usize, compression: Compression) -> BuildOptions {
    static_program(&dir.join("runtime"), &payload(6 << 20));
    static_program(&dir.join("program"), &payload(application));
    let source = Source::Program {
        file: dir.join("program"),
    };
    let mut options = BuildOptions::new(source, dir.join("runtime"), dir.join("image.eif"));
    options.compression = Some(compression);
    build(&options, &mut |_| ()).unwrap();
    options
}

fn unpack(ramdisk: &Ramdisk, sink: &mut impl Write) {
    let mut reader = ramdisk.entries(Limits::default()).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while reader.next_entry().unwrap().is_some() {
        loop {
            let read = reader.read(&mut buffer).unwrap();
            if read == 0 {
                break;
            }
            sink.write_all(&buffer[..read]).unwrap();
        }
    }
}

fn reading(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    for (name, compression) in [("plain", Compression::None), ("gzip", Compression::Gzip)] {
        let options = image(dir.path(), 58 << 20, compression);
        let bytes = fs::read(&options.output).unwrap();
        let mut group = criterion.benchmark_group(format!("64 MiB of {name} ramdisks"));
        group
            .sample_size(10)
            .throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("one SHA-384 pass, aws-lc-rs", |bencher| {
            bencher.iter(|| digest(&SHA384, black_box(&bytes)));
        });
        group.bench_function("one SHA-384 pass, sha2", |bencher| {
            bencher.iter(|| sha2::Sha384::digest(black_box(&bytes)));
        });
        group.bench_function("open and measure", |bencher| {
            bencher.iter(|| Image::open(&options.output).unwrap());
        });
        group.bench_function("open, measure and describe", |bencher| {
            bencher.iter(|| Image::open(&options.output).unwrap().describe().unwrap());
        });
        group.finish();
    }
}

fn starting(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut group = criterion.benchmark_group("a runtime of 6 MiB and a job of 1 MiB");
    for (name, compression) in [("plain", Compression::None), ("gzip", Compression::Gzip)] {
        let options = image(dir.path(), 1 << 20, compression);
        group.bench_function(format!("{name}: measure"), |bencher| {
            bencher.iter(|| Image::open(&options.output).unwrap());
        });
        group.bench_function(format!("{name}: unpack"), |bencher| {
            bencher.iter(|| {
                for ramdisk in Unmeasured::open(&options.output).unwrap().ramdisks() {
                    unpack(&ramdisk, &mut std::io::sink());
                }
            });
        });
        group.bench_function(
            format!("{name}: measure and unpack on two threads"),
            |bencher| {
                bencher.iter(|| {
                    let unmeasured = Unmeasured::open(&options.output).unwrap();
                    let ramdisks = unmeasured.ramdisks();
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            for ramdisk in &ramdisks {
                                unpack(ramdisk, &mut std::io::sink());
                            }
                        });
                        unmeasured.measure().unwrap()
                    })
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, reading, starting);
criterion_main!(benches);
