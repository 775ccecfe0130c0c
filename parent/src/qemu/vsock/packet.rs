//! A vsock packet's header, byte by byte (virtio 1.3, 5.10.6). Nothing here judges what a header says.

/// Bytes of a header.
pub const HEADER_BYTES: usize = 44;

/// The most bytes that may follow a header (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE` of Linux).
pub const MOST_PAYLOAD: usize = 64 * 1024;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the one type that is offered.
pub const STREAM: u16 = 1;

/// What a packet is for (`VIRTIO_VSOCK_OP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Wants a connection.
    Request,
    /// Has accepted one.
    Response,
    /// Ends one at once, or says that there is none.
    Reset,
    /// Will send or receive no more; see [`SHUT_RECEIVE`] and [`SHUT_SEND`].
    Shutdown,
    /// Carries bytes.
    Data,
    /// Tells how much room there is.
    CreditUpdate,
    /// Asks how much room there is.
    CreditRequest,
    /// Nothing that virtio knows.
    Unknown(u16),
}

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: who sent it will receive no more.
pub const SHUT_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: who sent it will send no more.
pub const SHUT_SEND: u32 = 2;
/// Both.
pub const SHUT_BOTH: u32 = SHUT_RECEIVE | SHUT_SEND;

impl Operation {
    fn number(self) -> u16 {
        match self {
            Operation::Request => 1,
            Operation::Response => 2,
            Operation::Reset => 3,
            Operation::Shutdown => 4,
            Operation::Data => 5,
            Operation::CreditUpdate => 6,
            Operation::CreditRequest => 7,
            Operation::Unknown(number) => number,
        }
    }

    fn of(number: u16) -> Operation {
        match number {
            1 => Operation::Request,
            2 => Operation::Response,
            3 => Operation::Reset,
            4 => Operation::Shutdown,
            5 => Operation::Data,
            6 => Operation::CreditUpdate,
            7 => Operation::CreditRequest,
            other => Operation::Unknown(other),
        }
    }
}

/// A header. All integers are little-endian on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sent it.
    pub from_cid: u64,
    /// For whom it is.
    pub to_cid: u64,
    /// The sender's port.
    pub from_port: u32,
    /// The receiver's port.
    pub to_port: u32,
    /// Bytes that follow.
    pub length: u32,
    /// [`STREAM`].
    pub kind: u16,
    /// What it is for.
    pub operation: Operation,
    /// Depends on the operation.
    pub flags: u32,
    /// The sender's whole room for this connection, in bytes.
    pub room: u32,
    /// Bytes of this connection that the sender has passed on, modulo 2³².
    pub passed_on: u32,
}

impl Header {
    /// The header in these bytes.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Header {
        let eight = |at: usize| u64::from_le_bytes(part(bytes, at));
        let four = |at: usize| u32::from_le_bytes(part(bytes, at));
        let two = |at: usize| u16::from_le_bytes(part(bytes, at));
        Header {
            from_cid: eight(0),
            to_cid: eight(8),
            from_port: four(16),
            to_port: four(20),
            length: four(24),
            kind: two(28),
            operation: Operation::of(two(30)),
            flags: four(32),
            room: four(36),
            passed_on: four(40),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&self.from_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.to_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.from_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.to_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.number().to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.room.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.passed_on.to_le_bytes());
        bytes
    }
}

fn part<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_lie_where_linux_has_them() {
        // struct virtio_vsock_hdr, include/uapi/linux/virtio_vsock.h.
        let bytes: [u8; HEADER_BYTES] = std::array::from_fn(|at| at as u8 + 1);
        let header = Header::parse(&bytes);
        assert_eq!(header.from_cid, 0x0807_0605_0403_0201);
        assert_eq!(header.to_port, 0x1817_1615);
        assert_eq!(header.kind, 0x1e1d);
        assert_eq!(header.operation, Operation::Unknown(0x201f));
        assert_eq!(header.passed_on, 0x2c2b_2a29);
    }

    proptest! {
        #[test]
        fn headers_survive_their_bytes(bytes: [u8; 32], rest: [u8; 12]) {
            let mut whole = [0; HEADER_BYTES];
            whole[..32].copy_from_slice(&bytes);
            whole[32..].copy_from_slice(&rest);
            prop_assert_eq!(Header::parse(&whole).bytes(), whole);
        }
    }
}
