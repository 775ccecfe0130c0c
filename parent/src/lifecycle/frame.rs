//! Frames of the control socket: a length, that many bytes of JSON, and the descriptors that go with it.
//!
//! Four bytes of length (big-endian), the JSON, and after it one byte for each descriptor, which carries it (`SCM_RIGHTS`).
//! How many follow stands in the JSON's envelope, so that both sides read exactly what was written. Nothing is allocated for
//! what a length claims beyond [`LARGEST_FRAME`].

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::sandbox::sys::socket::{receive_descriptor, send_descriptor};

/// The most bytes of a frame's JSON: the sealed secrets of one enclave in base64, and some.
pub(super) const LARGEST_FRAME: usize = 32 << 20;

/// The most descriptors of one frame.
pub(super) const MOST_DESCRIPTORS: usize = 64;

/// Goes with a descriptor.
const HERE: u8 = b'+';

/// What stands in a frame.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    descriptors: usize,
    body: T,
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

fn written<T: Serialize>(body: &T, descriptors: usize) -> io::Result<Vec<u8>> {
    if descriptors > MOST_DESCRIPTORS {
        return Err(invalid(format!(
            "{descriptors} descriptors in one frame, and {MOST_DESCRIPTORS} are allowed"
        )));
    }
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, &Envelope { descriptors, body })?;
    let length = frame.len() - 4;
    if length > LARGEST_FRAME {
        return Err(invalid(format!("a frame of {length} bytes")));
    }
    let length = u32::try_from(length).expect("bounded by LARGEST_FRAME");
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

fn length_of(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(head) as usize;
    if length > LARGEST_FRAME {
        return Err(invalid(format!("it announces a frame of {length} bytes")));
    }
    Ok(length)
}

fn read_body<T: DeserializeOwned>(json: &[u8]) -> io::Result<(T, usize)> {
    let envelope: Envelope<T> = serde_json::from_slice(json)?;
    if envelope.descriptors > MOST_DESCRIPTORS {
        return Err(invalid(format!(
            "it announces {} descriptors",
            envelope.descriptors
        )));
    }
    Ok((envelope.body, envelope.descriptors))
}

fn arrived((byte, descriptor): (u8, Option<OwnedFd>)) -> io::Result<OwnedFd> {
    match (byte, descriptor) {
        (HERE, Some(descriptor)) => Ok(descriptor),
        _ => Err(invalid("a descriptor was announced and did not come")),
    }
}

/// Writes a frame. Blocks for as long as the socket's write timeout says.
pub(super) fn send<T: Serialize>(
    mut stream: &StdUnixStream,
    body: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    stream.write_all(&written(body, descriptors.len())?)?;
    for descriptor in descriptors {
        send_descriptor(stream.as_fd(), HERE, Some(*descriptor))?;
    }
    Ok(())
}

/// Reads a frame. Blocks for as long as the socket's read timeout says.
pub(super) fn receive<T: DeserializeOwned>(
    mut stream: &StdUnixStream,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    // Grows with what comes, not with what was announced.
    let mut json = Vec::new();
    let length = length_of(head)?;
    stream.take(length as u64).read_to_end(&mut json)?;
    if json.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (body, count) = read_body(&json)?;
    let mut descriptors = Vec::new();
    for _ in 0..count {
        descriptors.push(arrived(receive_descriptor(stream.as_fd(), true)?)?);
    }
    Ok((body, descriptors))
}

/// Writes a frame from within the event loop.
pub(super) async fn send_async<T: Serialize>(
    stream: &mut UnixStream,
    body: &T,
    descriptors: &[OwnedFd],
) -> io::Result<()> {
    stream.write_all(&written(body, descriptors.len())?).await?;
    for descriptor in descriptors {
        stream
            .async_io(Interest::WRITABLE, || {
                Ok(send_descriptor(
                    stream.as_fd(),
                    HERE,
                    Some(descriptor.as_fd()),
                )?)
            })
            .await?;
    }
    Ok(())
}

/// Reads a frame from within the event loop. `None`: the other side closed before another one began.
pub(super) async fn receive_async<T: DeserializeOwned>(
    stream: &mut UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut head = [0; 4];
    match stream.read_exact(&mut head[..1]).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    stream.read_exact(&mut head[1..]).await?;
    let length = length_of(head)?;
    let mut json = Vec::new();
    (&mut *stream)
        .take(length as u64)
        .read_to_end(&mut json)
        .await?;
    if json.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (body, count) = read_body(&json)?;
    let mut descriptors = Vec::new();
    for _ in 0..count {
        let one = stream
            .async_io(Interest::READABLE, || {
                Ok(receive_descriptor(stream.as_fd(), false)?)
            })
            .await?;
        descriptors.push(arrived(one)?);
    }
    Ok(Some((body, descriptors)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use std::os::unix::net::UnixListener;

    fn numbered(listener: &OwnedFd) -> std::path::PathBuf {
        let listener = UnixListener::from(listener.try_clone().unwrap());
        let address = listener.local_addr().unwrap();
        address.as_pathname().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_frame_brings_its_descriptors_in_order_and_leaves_the_next_frame_whole() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        let listeners = paths
            .clone()
            .map(|path| OwnedFd::from(UnixListener::bind(path).unwrap()));
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut theirs = UnixStream::from_std(theirs).unwrap();

        let borrowed: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
        send(&ours, &"three", &borrowed).unwrap();
        send(&ours, &"none", &[]).unwrap();
        let (word, came) = receive_async::<String>(&mut theirs).await.unwrap().unwrap();
        assert_eq!(word, "three");
        let found: Vec<_> = came.iter().map(numbered).collect();
        assert_eq!(found, paths);
        let (word, none) = receive_async::<String>(&mut theirs).await.unwrap().unwrap();
        assert_eq!((word.as_str(), none.len()), ("none", 0));

        // And back.
        send_async(&mut theirs, &"back", &came).await.unwrap();
        let (word, back) = receive::<String>(&ours).unwrap();
        assert_eq!(word, "back");
        assert_eq!(back.iter().map(numbered).collect::<Vec<_>>(), paths);
        drop(ours);
        assert!(
            receive_async::<String>(&mut theirs)
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_and_costs_no_memory() {
        let too_long = (LARGEST_FRAME as u32 + 1).to_be_bytes();
        let lies: [&[u8]; 6] = [
            &too_long,
            &[0, 0, 0, 9, b'{'],
            &[0, 0, 0, 2, b'{', b'}'],
            b"\x00\x00\x00\x1b{\"descriptors\":65,\"body\":1}",
            b"\x00\x00\x00\x1b{\"descriptors\":01,\"body\":1}+",
            b"\x00\x00\x00\x1a{\"descriptors\":1,\"body\":1}+",
        ];
        for lie in lies {
            let (mut ours, theirs) = StdUnixStream::pair().unwrap();
            theirs.set_nonblocking(true).unwrap();
            let mut theirs = UnixStream::from_std(theirs).unwrap();
            ours.write_all(lie).unwrap();
            drop(ours);
            let answer = receive_async::<u32>(&mut theirs).await;
            assert!(answer.is_err(), "{lie:?}");
            let (mut ours, theirs) = StdUnixStream::pair().unwrap();
            ours.write_all(lie).unwrap();
            drop(ours);
            assert!(receive::<u32>(&theirs).is_err(), "{lie:?}");
        }
    }
}
