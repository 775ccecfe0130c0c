//! The command of test images in AWS's own layout: says where it is and what it was given, and serves until it is told to end.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "its console is where tests read; where it fails it may panic"
)]

use std::fs;
use std::io::{Read, Write};

use aws_nitro_enclaves_nsm_api::api::{Request, Response};
use aws_nitro_enclaves_nsm_api::driver;
use vsock::{VMADDR_CID_ANY, VsockListener};

fn main() {
    // Before anything is said: whoever sees a line may dial at once.
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 5000).unwrap();
    println!("command: {:?}", std::env::args().collect::<Vec<_>>());
    let mut environment: Vec<_> = std::env::vars().collect();
    environment.sort();
    println!("environment: {environment:?}");
    println!("folder: {}", std::env::current_dir().unwrap().display());
    let mut root: Vec<_> = fs::read_dir("/")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    root.sort();
    println!("root: {}", root.join(" "));
    println!("data: {:?}", fs::read_to_string("/data/file").unwrap());
    // A container's files are its own.
    fs::write("/data/file", "changed").unwrap();
    assert_eq!(fs::read_to_string("/data/link").unwrap(), "changed");
    let nsm = driver::nsm_init();
    for index in 0..3 {
        let Response::DescribePCR { data, .. } =
            driver::nsm_process_request(nsm, Request::DescribePCR { index })
        else {
            panic!("no PCR");
        };
        print!("PCR{index}: ");
        for byte in data {
            print!("{byte:02x}");
        }
        println!();
    }
    driver::nsm_exit(nsm);
    println!("serving");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        stream.write_all(said.to_uppercase().as_bytes()).unwrap();
        if said == "end" {
            break;
        }
    }
    std::process::exit(7);
}
