//! Unix sockets: identity, addresses given as bytes, and descriptors sent along.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::check;

/// The kind of a connection-based socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stream,
    SeqPacket,
}

impl Kind {
    fn number(self) -> libc::c_int {
        match self {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::SeqPacket => libc::SOCK_SEQPACKET,
        }
    }
}

/// *child* A new Unix socket, closed on exec.
pub(crate) fn new(kind: Kind, nonblocking: bool) -> Result<OwnedFd, Errno> {
    let flags = libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: numbers only; the descriptor is new and ours.
    unsafe {
        let fd = check(libc::socket(libc::AF_UNIX, kind.number() | flags, 0).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// The kernel's number of this socket, which it never gives to another one (`SO_COOKIE`). `ENOTSOCK` for other files.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `cookie`, and both outlive the call.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    check(asked.into())?;
    Ok(cookie)
}

/// Sets an option of level `SOL_SOCKET` to these bytes.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    value: &[u8],
) -> Result<(), Errno> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                value.as_ptr().cast(),
                value.len() as libc::socklen_t,
            )
        }
        .into(),
    )
    .map(drop)
}

/// The address of a Unix socket file: a path of at most 107 bytes.
pub(crate) struct Address {
    raw: libc::sockaddr_un,
    length: libc::socklen_t,
}

impl Address {
    /// `ENAMETOOLONG` if the path does not fit.
    pub(crate) fn of_path(path: &str) -> Result<Address, Errno> {
        // SAFETY: sockaddr_un is plain numbers, for which zero is valid.
        let mut raw: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
        if path.len() >= raw.sun_path.len() || path.is_empty() || path.contains('\0') {
            return Err(Errno::ENAMETOOLONG);
        }
        for (to, from) in raw.sun_path.iter_mut().zip(path.bytes()) {
            *to = from as libc::c_char;
        }
        let length = std::mem::offset_of!(libc::sockaddr_un, sun_path) + path.len() + 1;
        Ok(Address {
            raw,
            length: length as libc::socklen_t,
        })
    }

    /// Binds `socket` to this address: the file is made.
    pub(crate) fn bind(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: the pointer and the length describe an address that outlives the call.
        check(
            unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const self.raw).cast(),
                    self.length,
                )
            }
            .into(),
        )
        .map(drop)
    }

    /// Connects `socket` to whoever listens there.
    pub(crate) fn connect(&self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: the pointer and the length describe an address that outlives the call.
        check(
            unsafe {
                libc::connect(
                    socket.as_raw_fd(),
                    (&raw const self.raw).cast(),
                    self.length,
                )
            }
            .into(),
        )
        .map(drop)
    }
}

/// Lets `socket` listen.
pub(crate) fn listen(socket: BorrowedFd<'_>, backlog: i32) -> Result<(), Errno> {
    // SAFETY: numbers only.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }.into()).map(drop)
}

/// Takes the next connection of a listening socket; the new socket is closed on exec.
pub(crate) fn accept(socket: BorrowedFd<'_>, nonblocking: bool) -> Result<OwnedFd, Errno> {
    let flags = libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: null is allowed where no address is wanted; the descriptor is new and ours.
    unsafe {
        let fd = check(
            libc::accept4(
                socket.as_raw_fd(),
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                flags,
            )
            .into(),
        )?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Reads what has arrived without waiting and without taking it away.
pub(crate) fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    receive(socket, buffer, libc::MSG_PEEK | libc::MSG_DONTWAIT)
}

/// Reads what has arrived without waiting. 0: the other side has closed its direction. Of a packet that is larger than
/// `buffer`, `EMSGSIZE` (nothing may be lost silently). Descriptors that were sent along are thrown away by the kernel.
pub(crate) fn take(socket: BorrowedFd<'_>, kind: Kind, buffer: &mut [u8]) -> Result<usize, Errno> {
    let whole_length = match kind {
        Kind::Stream => 0,
        Kind::SeqPacket => libc::MSG_TRUNC,
    };
    let taken = receive(socket, buffer, libc::MSG_DONTWAIT | whole_length)?;
    if taken > buffer.len() {
        return Err(Errno::EMSGSIZE);
    }
    Ok(taken)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: libc::c_int) -> Result<usize, Errno> {
    // SAFETY: the pointer and the length describe `buffer`.
    let taken = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            flags,
        )
    };
    check(taken as libc::c_long).map(|taken| taken as usize)
}

/// Writes without waiting and without a signal.
pub(crate) fn give(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the pointer and the length describe `bytes`.
    let given = unsafe {
        libc::send(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    check(given as libc::c_long).map(|given| given as usize)
}

/// Ends one or both directions of a connection; that it has ended already is no error worth telling.
pub(crate) fn shut_down(socket: BorrowedFd<'_>, how: std::net::Shutdown) {
    let how = match how {
        std::net::Shutdown::Read => libc::SHUT_RD,
        std::net::Shutdown::Write => libc::SHUT_WR,
        std::net::Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: numbers only.
    unsafe {
        libc::shutdown(socket.as_raw_fd(), how);
    }
}

/// Room for one descriptor as a control message, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 24]);

/// *child* Sends one byte, and along with it a descriptor where one is given.
pub(crate) fn send_descriptor(
    socket: BorrowedFd<'_>,
    byte: u8,
    file: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut byte = [byte];
    let mut control = Control([0; 24]);
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: msghdr is plain numbers and pointers, for which zero is valid. The control buffer has room for one descriptor
    // (CMSG_SPACE(4) is 24), so that CMSG_FIRSTHDR is not null and its data lies inside. All outlive the call.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if let Some(file) = file {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control.0.len() as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(header)
                .cast::<RawFd>()
                .write_unaligned(file.as_raw_fd());
        }
        check(
            libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
                as libc::c_long,
        )
    }
    .map(drop)
}

/// Receives what `send_descriptor` sent. `wait`: false answers `EAGAIN` where nothing has arrived. `EPIPE` at the end.
pub(crate) fn receive_descriptor(
    socket: BorrowedFd<'_>,
    wait: bool,
) -> Result<(u8, Option<OwnedFd>), Errno> {
    let mut byte = [0u8];
    let mut control = Control([0; 24]);
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let flags = libc::MSG_CMSG_CLOEXEC | if wait { 0 } else { libc::MSG_DONTWAIT };
    // SAFETY: as in `send_descriptor`. A control message of type SCM_RIGHTS that is at least CMSG_LEN(4) long holds a
    // descriptor that the kernel has just made for us.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        let received =
            check(libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) as libc::c_long)?;
        if received == 0 {
            return Err(Errno::EPIPE);
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let file = if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len as usize >= libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize
        {
            let fd = libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned();
            Some(OwnedFd::from_raw_fd(fd))
        } else {
            None
        };
        Ok((byte[0], file))
    }
}
