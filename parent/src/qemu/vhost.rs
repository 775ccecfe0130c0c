//! Serves a device to QEMU by the vhost-user protocol: one socket, one thread for the protocol and one for the queues.
//!
//! QEMU stands on the guest's side of the wall here: a guest that has taken it over speaks this protocol. It gets the socket
//! that is its device's and no other, and can lose its own device by it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringMutex, VringT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{
    GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use super::queue::Memory;
use super::{nsm, vsock};
use crate::sandbox::sys::socket;
use crate::sandbox::vsock::address_in;

#[cfg(test)]
mod tests;

type Space = GuestMemoryAtomic<Memory>;
type Vring = VringMutex<Space>;

/// Entries of a queue: what QEMU gives its own vsock device, and more than the NSM's driver uses.
pub(crate) const QUEUE_SIZE: usize = 128;

/// A device of a guest.
pub(crate) trait Device: Send + Sync + 'static {
    /// Its queues.
    const QUEUES: usize;

    /// What the guest's driver finds in its configuration.
    fn config(&self) -> Vec<u8>;

    /// Readable when the host has something for it; then it gets a turn.
    fn descriptor(&self) -> Option<RawFd>;

    /// Does what there is to do, and whether there is more.
    fn turn(&mut self, vrings: &[Vring], memory: &Memory) -> io::Result<bool>;

    /// The guest's driver has gone.
    fn reset(&mut self);

    /// What its guest did to it, where that is worth telling.
    fn faults(&self) -> Option<String>;
}

impl Device for nsm::Device {
    const QUEUES: usize = 1;

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn descriptor(&self) -> Option<RawFd> {
        None
    }

    fn turn(&mut self, vrings: &[Vring], memory: &Memory) -> io::Result<bool> {
        let [vring] = vrings else {
            return Ok(false);
        };
        let turn = nsm::Device::turn(self, vring.get_mut().get_queue_mut(), memory);
        if turn.interrupts != 0 {
            vring.signal_used_queue()?;
        }
        Ok(turn.is_unfinished)
    }

    fn reset(&mut self) {
        nsm::Device::reset(self);
    }

    fn faults(&self) -> Option<String> {
        told("its NSM", nsm::Device::faults(self))
    }
}

/// The vsock device with the CID that its guest is told.
pub(crate) struct Vsock {
    pub(crate) cid: u32,
    pub(crate) device: vsock::Device,
}

impl Device for Vsock {
    // The third queue, for events, is QEMU's own.
    const QUEUES: usize = 2;

    fn config(&self) -> Vec<u8> {
        u64::from(self.cid).to_le_bytes().to_vec()
    }

    fn descriptor(&self) -> Option<RawFd> {
        Some(self.device.switch().descriptor())
    }

    fn turn(&mut self, vrings: &[Vring], memory: &Memory) -> io::Result<bool> {
        let [to_guest, from_guest] = vrings else {
            return Ok(false);
        };
        let turn = {
            let (mut to, mut from) = (to_guest.get_mut(), from_guest.get_mut());
            if !to.get_queue().ready() || !from.get_queue().ready() {
                return Ok(false);
            }
            self.device
                .turn(to.get_queue_mut(), from.get_queue_mut(), memory)
        };
        for (index, vring) in vrings.iter().enumerate() {
            if turn.interrupts & 1 << index != 0 {
                vring.signal_used_queue()?;
            }
        }
        Ok(turn.is_unfinished)
    }

    fn reset(&mut self) {
        self.device.reset();
    }

    fn faults(&self) -> Option<String> {
        told("vsock", self.device.faults())
    }
}

use virtio_queue::QueueT as _;

fn told(
    what: &str,
    (malformed, fault): (u64, Option<&super::queue::QueueFault>),
) -> Option<String> {
    match (malformed, fault) {
        (_, Some(fault)) => Some(format!("{what} was turned off: {fault}")),
        (0, None) => None,
        (count, None) => Some(format!("{count} malformed messages to {what} were dropped")),
    }
}

/// A device as the vhost-user crate wants it.
struct Backend<D> {
    device: D,
    /// The guest's memory, once it is known to stay.
    memory: Option<Arc<Memory>>,
    /// Makes the queues' thread come back to work that a turn has left.
    again: (EventConsumer, EventNotifier),
    exit: Arc<AtomicI32>,
}

/// What the queues' thread is woken by, besides the queues (0 to QUEUES-1) and the exit event (QUEUES).
const HOST: u64 = 16;
const AGAIN: u64 = 17;

impl<D: Device> VhostUserBackendMut for Backend<D> {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        D::QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        if self.device.config().is_empty() {
            VhostUserProtocolFeatures::empty()
        } else {
            VhostUserProtocolFeatures::CONFIG
        }
    }

    fn reset_device(&mut self) {
        self.device.reset();
    }

    fn set_event_idx(&mut self, _enabled: bool) {
        // The queues know it themselves.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.device.config();
        let from = (offset as usize).min(config.len());
        let to = from.saturating_add(size as usize).min(config.len());
        config.get(from..to).unwrap_or_default().to_vec()
    }

    fn update_memory(&mut self, space: Space) -> io::Result<()> {
        self.memory = None;
        let memory = space.memory().into_inner();
        if let Err(error) = stays(&memory) {
            tracing::warn!(%error, "a device of the enclave is off");
            self.device.reset();
            return Err(error);
        }
        self.memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        let (consumer, notifier) =
            new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK).ok()?;
        self.exit.store(consumer.as_raw_fd(), Ordering::Release);
        Some((consumer, notifier))
    }

    fn stop_vring(&mut self, _queue: u32) -> io::Result<()> {
        self.device.reset();
        Ok(())
    }

    fn handle_event(
        &mut self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        if u64::from(event) == AGAIN {
            let _ = self.again.0.consume();
        }
        let Some(memory) = &self.memory else {
            return Ok(());
        };
        if self.device.turn(vrings, memory)? {
            self.again.1.notify()?;
        }
        Ok(())
    }
}

/// Whether memory that is shared with QEMU is there as long as it is mapped. A file that QEMU could cut would end this process
/// (`SIGBUS`) at the first byte that is gone.
fn stays(memory: &Memory) -> io::Result<()> {
    for region in memory.iter() {
        let whole = region.file_offset().is_some_and(|file| {
            let end = file.start().checked_add(region.len());
            let seals = fcntl(file.file(), FcntlArg::F_GET_SEALS).unwrap_or(0);
            SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK)
                && file
                    .file()
                    .metadata()
                    .is_ok_and(|found| end.is_some_and(|end| end <= found.len()))
        });
        if !whole {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "QEMU offers memory that is not all there, or that it could take away",
            ));
        }
    }
    Ok(())
}

type Daemon<D> = VhostUserDaemon<Arc<Mutex<Backend<D>>>>;

/// A device that is served until this is dropped.
pub(crate) struct Served<D: Device> {
    backend: Arc<Mutex<Backend<D>>>,
    daemon: Option<Daemon<D>>,
    exit: Arc<AtomicI32>,
}

/// Starts to serve a device. Returns QEMU's end of its socket. `folder` holds a socket for a moment.
pub(crate) fn serve<D: Device>(
    device: D,
    name: &str,
    folder: BorrowedFd<'_>,
) -> io::Result<(Served<D>, OwnedFd)> {
    let other = |error: vhost_user_backend::Error| io::Error::other(error.to_string());
    let exit = Arc::new(AtomicI32::new(-1));
    let descriptor = device.descriptor();
    let again = new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK)?;
    let again_descriptor = again.0.as_raw_fd();
    let backend = Arc::new(Mutex::new(Backend {
        device,
        memory: None,
        again,
        exit: Arc::clone(&exit),
    }));
    let space = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let daemon =
        VhostUserDaemon::new(name.to_owned(), Arc::clone(&backend), space).map_err(other)?;
    let mut served = Served {
        backend,
        daemon: Some(daemon),
        exit,
    };
    let Some(daemon) = &mut served.daemon else {
        return Err(io::ErrorKind::NotFound.into());
    };
    for handler in daemon.get_epoll_handlers() {
        if let Some(descriptor) = descriptor {
            handler.register_listener(descriptor, EventSet::IN, HOST)?;
        }
        handler.register_listener(again_descriptor, EventSet::IN, AGAIN)?;
    }

    // The crate takes a listener, QEMU takes a socket: they are joined in the enclave's folder, where nobody else comes.
    let file = format!(".{name}");
    let address = address_in(folder, &file)?;
    let listening = socket::new(socket::Kind::Stream, false)?;
    address.bind(listening.as_fd())?;
    let joined = (|| {
        socket::listen(listening.as_fd(), 1)?;
        let theirs = socket::new(socket::Kind::Stream, false)?;
        address.connect(theirs.as_fd())?;
        Ok::<OwnedFd, io::Error>(theirs)
    })();
    let _ = nix::unistd::unlinkat(
        folder,
        file.as_str(),
        nix::unistd::UnlinkatFlags::NoRemoveDir,
    );
    let theirs = joined?;
    daemon
        .start(&mut Listener::from(UnixListener::from(listening)))
        .map_err(other)?;
    Ok((served, theirs))
}

impl<D: Device> Served<D> {
    /// Whether the guest's driver has found it.
    pub(crate) fn is_awake(&self) -> bool {
        let backend = self.backend.lock().unwrap_or_else(PoisonError::into_inner);
        backend.memory.is_some()
    }

    /// What its guest did to it, where that is worth telling.
    pub(crate) fn faults(&self) -> Option<String> {
        self.backend
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .device
            .faults()
    }
}

impl<D: Device> Served<D> {
    /// Ends the protocol's thread; says how it ended.
    fn hang_up(daemon: &mut Daemon<D>) -> Result<(), vhost_user_backend::Error> {
        daemon.request_shutdown();
        daemon.wait()
    }
}

impl<D: Device> Drop for Served<D> {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // That QEMU went in the middle of a message is no news.
            let _ = Self::hang_up(&mut daemon);
            // Ends the queues' thread and waits for it.
            drop(daemon);
        }
        let exit = self.exit.swap(-1, Ordering::AcqRel);
        if exit >= 0 {
            drop(super::sys::owned(exit));
        }
    }
}
