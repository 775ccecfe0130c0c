//! Channels over blocking streams.

use std::fmt;
use std::io::{self, Read, Write};

use anchorhold_attestation::Admitted;
use anchorhold_channel::Answer;
use rustls::{ClientConnection, StreamOwned};

use crate::connector::{Claim, Connector, server_name};
use crate::error::{ConnectError, of_handshake};

/// A channel that ends in an enclave which was admitted. What is written here, that enclave reads, and nobody on the way.
pub struct BlockingChannel<S: Read + Write> {
    stream: StreamOwned<ClientConnection, S>,
    admitted: Admitted,
}

impl Connector {
    /// Makes a channel over a blocking stream, such as `std::net::TcpStream`; set time limits there first.
    ///
    /// # Errors
    /// See [`ConnectError`]. The stream is closed.
    pub fn connect_blocking<S: Read + Write>(
        &self,
        host: &str,
        stream: S,
    ) -> Result<BlockingChannel<S>, ConnectError> {
        let host = server_name(host)?;
        let connection =
            ClientConnection::new(self.tls.clone(), host.clone()).map_err(ConnectError::Tls)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            let (read, written) = stream
                .conn
                .complete_io(&mut stream.sock)
                .map_err(of_handshake)?;
            if (read, written) == (0, 0) {
                return Err(ConnectError::HungUp);
            }
        }
        let claim = Claim::new(&stream.conn)?;
        stream.write_all(&claim.question(&host)?)?;
        stream.flush()?;
        let mut answer = Answer::default();
        let mut buffer = [0; 4096];
        loop {
            let most = answer.wanted().min(buffer.len());
            let count = stream.read(&mut buffer[..most])?;
            if count == 0 {
                return Err(ConnectError::HungUp);
            }
            if answer.take(&buffer[..count])? {
                break;
            }
        }
        let admitted = self.admit(answer.document(), &claim)?;
        Ok(BlockingChannel { stream, admitted })
    }
}

impl<S: Read + Write> BlockingChannel<S> {
    /// The document that the enclave was admitted for.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Whether HTTP/2 was agreed upon.
    pub fn is_http2(&self) -> bool {
        self.stream.conn.alpn_protocol() == Some(b"h2")
    }

    /// The stream below, to set its time limits. What is read or written there is no longer a channel.
    pub fn stream(&self) -> &S {
        &self.stream.sock
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// The stream's.
    pub fn close(&mut self) -> io::Result<()> {
        self.stream.conn.send_close_notify();
        self.stream.flush()
    }
}

impl<S: Read + Write> fmt::Debug for BlockingChannel<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingChannel")
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}

impl<S: Read + Write> Read for BlockingChannel<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl<S: Read + Write> Write for BlockingChannel<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
