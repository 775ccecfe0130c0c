//! What the message format costs over bare AES-256-GCM: both over the same bytes, in frames of the same size,
//! in one run.
//!
//! `cargo bench -p anchorhold-envelope`: criterion's figures, then the ratios. For the ratios the contenders
//! take turns and the best of each counts, so that a busy machine slows all of them alike. Each round takes
//! 1 GiB through, or `ENVELOPE_BENCH_MIB`. `Sealer` and `Opener` (memory to memory) stand beside AES-256-GCM in
//! place; `seal` and `open` (reader to writer) beside AES-256-GCM between the same reader and writer, as the
//! copies of those two are not the format's.

#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss
)]

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use anchorhold_envelope::{
    DEFAULT_FRAME_LENGTH, DataKey, EncryptedDataKey, EncryptionContext, Error, Header, Limits,
    Opener, Parse, SealOptions, Sealer, open, seal,
};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use criterion::{Criterion, Throughput};
use zeroize::Zeroizing;

/// Larger than the caches, so that memory counts as it does for real data.
const BUFFER: usize = 64 << 20;

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let data = vec![0x5a; BUFFER];
    let message = sealed(&data, DEFAULT_FRAME_LENGTH);
    let mut group = criterion.benchmark_group("64 MiB");
    group.throughput(Throughput::Bytes(BUFFER as u64));
    let frame = DEFAULT_FRAME_LENGTH as usize;
    let mut work = data.clone();
    group.bench_function("raw AES-256-GCM", |b| b.iter(|| raw(&mut work, frame)));
    let mut ring = Ring::new(message.len());
    group.bench_function("seal", |b| {
        b.iter(|| {
            seal_once(
                &mut Repeated::new(&data, 1),
                &mut ring,
                DEFAULT_FRAME_LENGTH,
            );
        });
    });
    group.bench_function("open", |b| {
        b.iter(|| open_once(&mut message.as_slice(), &mut ring));
    });
    group.finish();
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--bench") {
        ratios();
    }
}

fn ratios() {
    let mib = std::env::var("ENVELOPE_BENCH_MIB").map_or(1024, |text| text.parse().unwrap());
    let passes = (mib << 20) / BUFFER;
    let data = vec![0x5a; BUFFER];
    println!("{mib} MiB, best of 5: GB/s, and in brackets the ratio to AES-256-GCM over the same");
    println!(
        "{:>9}  {:>6}  {:>13}  {:>13}  {:>9}  {:>13}  {:>13}",
        "frame", "raw", "Sealer", "Opener", "raw + I/O", "seal", "open"
    );
    for kib in [4, 16, 32, 64, 128, 256, 1024] {
        let frame = kib * 1024;
        let message = sealed(&data, frame as u32);
        let mut work = data.clone();
        let mut ring = Ring::new(message.len());
        let mut best = [Duration::MAX; 6];
        for _ in 0..5 {
            let mut contend = |which: usize, run: &mut dyn FnMut()| {
                let start = Instant::now();
                run();
                best[which] = best[which].min(start.elapsed());
            };
            contend(0, &mut || (0..passes).for_each(|_| raw(&mut work, frame)));
            contend(1, &mut || sealer(&data, passes, frame as u32));
            contend(2, &mut || (0..passes).for_each(|_| opener(&message)));
            contend(3, &mut || {
                raw_stream(&mut Repeated::new(&data, passes), &mut ring, frame);
            });
            contend(4, &mut || {
                seal_once(&mut Repeated::new(&data, passes), &mut ring, frame as u32);
            });
            contend(5, &mut || {
                (0..passes).for_each(|_| open_once(&mut message.as_slice(), &mut ring));
            });
        }
        let bytes = (passes * BUFFER) as f64;
        let speed = |which: usize| bytes / best[which].as_secs_f64() / 1e9;
        let beside = |which: usize, base: usize| {
            format!("{:.2} ({:.2})", speed(which), speed(which) / speed(base))
        };
        println!(
            "{kib:>5} KiB  {:>6.2}  {:>13}  {:>13}  {:>9.2}  {:>13}  {:>13}",
            speed(0),
            beside(1, 0),
            beside(2, 0),
            speed(3),
            beside(4, 3),
            beside(5, 3)
        );
    }
}

/// Bare AES-256-GCM from a reader to a writer.
fn raw_stream(reader: &mut impl Read, writer: &mut impl Write, frame: usize) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let mut buffer = vec![0; frame];
    for number in 1_u32.. {
        let mut filled = 0;
        while filled < frame {
            match reader.read(&mut buffer[filled..]).unwrap() {
                0 => return,
                count => filled += count,
            }
        }
        let tag = encrypt(&key, number, &mut buffer);
        writer.write_all(&buffer).unwrap();
        writer.write_all(tag.as_ref()).unwrap();
    }
}

fn encrypt(key: &LessSafeKey, number: u32, content: &mut [u8]) -> Tag {
    let mut iv = [0; 12];
    iv[8..].copy_from_slice(&number.to_be_bytes());
    let nonce = Nonce::assume_unique_for_key(iv);
    key.seal_in_place_separate_tag(nonce, Aad::from([0; 72]), content)
        .unwrap()
}

fn raw(data: &mut [u8], frame: usize) {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    for (number, content) in (1_u32..).zip(data.chunks_mut(frame)) {
        let _ = black_box(encrypt(&key, number, content));
    }
}

fn seal_once(reader: &mut impl Read, writer: &mut impl Write, frame_length: u32) {
    let options = SealOptions {
        frame_length,
        ..options()
    };
    seal(reader, writer, options, None, key(), [1; 32]).unwrap();
}

fn open_once(reader: &mut impl Read, writer: &mut impl Write) {
    open(
        reader,
        writer,
        &Limits::default(),
        |_| Ok::<_, Error>(key()),
    )
    .unwrap();
}

/// As the enclave does: pieces of 256 KiB come in, and go out as they are ready.
fn sealer(data: &[u8], passes: usize, frame_length: u32) {
    let options = SealOptions {
        frame_length,
        ..options()
    };
    let (mut sealer, _) = Sealer::new(options, key(), [1; 32]).unwrap();
    let mut out = Vec::new();
    for piece in (0..passes).flat_map(|_| data.chunks(256 << 10)) {
        out.clear();
        sealer.update(piece, &mut out).unwrap();
        black_box(&out);
    }
    sealer.finish(&mut out).unwrap();
}

fn opener(message: &[u8]) {
    let Parse::Complete { header, consumed } = Header::parse(message, &Limits::default()).unwrap()
    else {
        panic!("the header is whole");
    };
    let mut opener = Opener::new(*header, key()).unwrap();
    let mut out = Vec::new();
    for piece in message[consumed..].chunks(256 << 10) {
        out.clear();
        opener.update(piece, &mut out).unwrap();
        black_box(&out);
    }
    opener.finish().unwrap();
}

fn sealed(data: &[u8], frame_length: u32) -> Vec<u8> {
    let mut message = Vec::new();
    seal_once(&mut &*data, &mut message, frame_length);
    message
}

fn options() -> SealOptions {
    let data_key = EncryptedDataKey {
        provider_id: "aws-kms".to_owned(),
        key_info: "key".to_owned(),
        ciphertext: vec![0; 184],
    };
    SealOptions::new(EncryptionContext::new(), vec![data_key])
}

fn key() -> DataKey {
    DataKey::from_bytes(Zeroizing::new([7; 32]))
}

/// The same bytes over and over.
struct Repeated<'a> {
    data: &'a [u8],
    rest: &'a [u8],
    passes: usize,
}

impl<'a> Repeated<'a> {
    fn new(data: &'a [u8], passes: usize) -> Self {
        Self {
            data,
            rest: &[],
            passes,
        }
    }
}

impl Read for Repeated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() && self.passes > 0 {
            self.passes -= 1;
            self.rest = self.data;
        }
        self.rest.read(buffer)
    }
}

/// Takes all that is written, into the same memory over and over: what a file's cache would cost.
struct Ring {
    memory: Vec<u8>,
    at: usize,
}

impl Ring {
    fn new(length: usize) -> Self {
        Self {
            memory: vec![0; length],
            at: 0,
        }
    }
}

impl Write for Ring {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.at == self.memory.len() {
            self.at = 0;
        }
        let count = (&mut self.memory[self.at..]).write(bytes)?;
        self.at += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
