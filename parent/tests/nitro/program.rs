//! The program inside, which the tests compile by itself into a static `/init`. It beats, and then does what connections to its
//! port 5000 ask for: `e` echoes, `d` dials the parent's port 8000, `x` exits.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

unsafe extern "C" {
    fn socket(family: i32, kind: i32, protocol: i32) -> i32;
    fn bind(socket: i32, address: *const Address, length: u32) -> i32;
    fn connect(socket: i32, address: *const Address, length: u32) -> i32;
    fn listen(socket: i32, backlog: i32) -> i32;
    fn accept(socket: i32, address: *mut Address, length: *mut u32) -> i32;
    fn shutdown(socket: i32, how: i32) -> i32;
}

/// `struct sockaddr_vm`.
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    rest: u32,
}

const VSOCK: i32 = 40;

fn address(cid: u32, port: u32) -> Address {
    Address { family: VSOCK as u16, reserved: 0, port, cid, rest: 0 }
}

fn dial(port: u32) -> (i32, File) {
    let stream = unsafe { socket(VSOCK, 1, 0) };
    assert!(stream >= 0, "no vsock");
    let done = unsafe { connect(stream, &address(3, port), 16) };
    assert_eq!(done, 0, "port {port}: {}", std::io::Error::last_os_error());
    (stream, unsafe { File::from_raw_fd(stream) })
}

fn main() {
    let listener = unsafe { socket(VSOCK, 1, 0) };
    assert_eq!(unsafe { bind(listener, &address(u32::MAX, 5000), 16) }, 0);
    assert_eq!(unsafe { listen(listener, 64) }, 0);
    println!("the enclave is up");
    let (_, mut heart) = dial(9000);
    let mut beat = [0xB7];
    heart.write_all(&beat).unwrap();
    heart.read_exact(&mut beat).unwrap();
    assert_eq!(beat, [0xB7]);
    loop {
        let number = unsafe { accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) };
        assert!(number >= 0);
        std::thread::spawn(move || serve(number));
    }
}

fn serve(number: i32) {
    let mut stream = unsafe { File::from_raw_fd(number) };
    let mut asked = [0];
    if stream.read_exact(&mut asked).is_err() {
        return;
    }
    match asked[0] {
        b'e' => {
            let mut out = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut out);
            unsafe { shutdown(number, 1) };
        }
        b'd' => {
            let (socket, mut parent) = dial(8000);
            parent.write_all(b"question").unwrap();
            unsafe { shutdown(socket, 1) };
            let mut answer = Vec::new();
            parent.read_to_end(&mut answer).unwrap();
            stream.write_all(&answer).unwrap();
        }
        _ => std::process::exit(3),
    }
}
