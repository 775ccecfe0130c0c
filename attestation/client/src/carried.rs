//! Channels without a stream: the caller carries the bytes, by whatever sockets and event loop he has. For programs in other
//! languages, which bring their own.
//!
//! [`Approach`] is what there is before the enclave is admitted: it takes bytes and gives bytes, and none of either is the
//! caller's own. [`Carried`] is the channel. There is no other way from one to the other than the document.

use std::fmt;
use std::io::{self, Read as _, Write as _};

use anchorhold_attestation::Admitted;
use anchorhold_channel::Answer;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::connector::{Claim, Connector, server_name};
use crate::error::ConnectError;

/// The way to a channel: handshake, question, answer.
pub struct Approach {
    connector: Connector,
    host: ServerName<'static>,
    connection: ClientConnection,
    /// Once the handshake is over.
    asked: Option<(Claim, Answer)>,
}

/// Where an approach has come to.
#[derive(Debug)]
pub enum Step {
    /// More bytes are needed from the other side; send it [`Approach::outgoing`] first.
    More(Box<Approach>),
    /// The enclave is admitted.
    Channel(Box<Carried>),
}

/// A channel that ends in an enclave which was admitted, and whose bytes the caller carries.
pub struct Carried {
    connection: ClientConnection,
    admitted: Admitted,
    /// What the enclave has said and nobody has taken yet.
    said: Vec<u8>,
}

impl Connector {
    /// Begins a channel whose bytes the caller carries. Send the other side what is [`outgoing`](Approach::outgoing) first.
    ///
    /// # Errors
    /// The host, if it cannot stand in a handshake.
    pub fn approach(&self, host: &str) -> Result<Approach, ConnectError> {
        let host = server_name(host)?;
        let connection =
            ClientConnection::new(self.tls.clone(), host.clone()).map_err(ConnectError::Tls)?;
        Ok(Approach {
            connector: self.clone(),
            host,
            connection,
            asked: None,
        })
    }
}

impl Approach {
    /// What is to be sent to the other side now.
    pub fn outgoing(&mut self) -> Vec<u8> {
        outgoing(&mut self.connection)
    }

    /// Takes bytes from the other side; none at all says that it has hung up.
    ///
    /// # Errors
    /// See [`ConnectError`]. The approach is over.
    pub fn receive(mut self, mut bytes: &[u8]) -> Result<Step, ConnectError> {
        if bytes.is_empty() {
            return Err(ConnectError::HungUp);
        }
        while !bytes.is_empty() {
            take(&mut self.connection, &mut bytes)?;
            if self.connection.is_handshaking() {
                continue;
            }
            if self.asked.is_none() {
                let claim = Claim::new(&self.connection)?;
                let question = claim.question(&self.host)?;
                self.connection.writer().write_all(&question)?;
                self.asked = Some((claim, Answer::default()));
            }
            if let Some((claim, answer)) = &mut self.asked
                && read_answer(&mut self.connection, answer)?
            {
                let admitted = self.connector.admit(answer.document(), claim)?;
                let mut carried = Carried {
                    connection: self.connection,
                    admitted,
                    said: Vec::new(),
                };
                // What came behind the answer is the caller's, who takes it with `receive`.
                carried.hear(bytes)?;
                return Ok(Step::Channel(Box::new(carried)));
            }
        }
        Ok(Step::More(Box::new(self)))
    }
}

/// Reads the answer as far as it is there, and nothing behind it. True: it is whole.
fn read_answer(
    connection: &mut ClientConnection,
    answer: &mut Answer,
) -> Result<bool, ConnectError> {
    let mut buffer = [0; 4096];
    loop {
        let most = answer.wanted().min(buffer.len());
        match connection.reader().read(&mut buffer[..most]) {
            Ok(0) => return Err(ConnectError::HungUp),
            Ok(count) => {
                if answer.take(&buffer[..count])? {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes some of the bytes from the other side, at least one.
fn take(connection: &mut ClientConnection, bytes: &mut &[u8]) -> Result<(), ConnectError> {
    if connection.read_tls(bytes)? == 0 {
        return Err(ConnectError::HungUp);
    }
    connection
        .process_new_packets()
        .map(drop)
        .map_err(ConnectError::Tls)
}

fn outgoing(connection: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        // A vector takes everything.
        if connection.write_tls(&mut bytes).is_err() {
            break;
        }
    }
    bytes
}

impl Carried {
    /// The document that the enclave was admitted for.
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Whether HTTP/2 was agreed upon.
    pub fn is_http2(&self) -> bool {
        self.connection.alpn_protocol() == Some(b"h2")
    }

    /// Says something to the enclave: what is to be sent to the other side for it, all of it, in this order.
    ///
    /// # Errors
    /// The channel was closed.
    pub fn send(&mut self, mut bytes: &[u8]) -> io::Result<Vec<u8>> {
        // Room for records of 16 KiB with what TLS adds.
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 512 + 64);
        loop {
            while self.connection.wants_write() {
                self.connection.write_tls(&mut out)?;
            }
            if bytes.is_empty() {
                return Ok(out);
            }
            let count = self.connection.writer().write(bytes)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[count..];
        }
    }

    /// Takes bytes from the other side (none is well) and returns what the enclave has said that was not returned before.
    ///
    /// # Errors
    /// The other side's bytes are not the enclave's.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<u8>, ConnectError> {
        self.hear(bytes)?;
        Ok(std::mem::take(&mut self.said))
    }

    fn hear(&mut self, mut bytes: &[u8]) -> Result<(), ConnectError> {
        loop {
            match self.connection.reader().read_to_end(&mut self.said) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            // Nothing counts after the enclave's farewell.
            if bytes.is_empty() || self.connection.read_tls(&mut bytes)? == 0 {
                return Ok(());
            }
            self.connection
                .process_new_packets()
                .map_err(ConnectError::Tls)?;
        }
    }

    /// Whether the enclave has said that nothing more will come. A stream that ends without that was cut.
    pub fn has_ended(&mut self) -> bool {
        self.connection
            .process_new_packets()
            .is_ok_and(|state| state.peer_has_closed())
    }

    /// What is to be sent to say that nothing more will come, and whatever else waits.
    pub fn close(&mut self) -> Vec<u8> {
        self.connection.send_close_notify();
        outgoing(&mut self.connection)
    }

    /// What waits to be sent: TLS has things of its own to say at times.
    pub fn outgoing(&mut self) -> Vec<u8> {
        outgoing(&mut self.connection)
    }
}

impl fmt::Debug for Approach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Approach")
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried")
            .field("admitted", &self.admitted)
            .finish_non_exhaustive()
    }
}
