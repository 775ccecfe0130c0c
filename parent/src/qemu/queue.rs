//! What both devices need of a virtqueue whose other side is a hostile guest.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT};
use vm_memory::GuestMemoryMmap;

/// The guest's memory.
pub type Memory = GuestMemoryMmap<()>;

/// The guest has broken a queue itself, not only what is in it. The device cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest broke a queue of its device: {0}")]
pub struct QueueFault(pub(crate) String);

impl From<virtio_queue::Error> for QueueFault {
    fn from(error: virtio_queue::Error) -> QueueFault {
        QueueFault(error.to_string())
    }
}

/// The next chain that the guest has made available.
pub(crate) fn next_chain<'m>(
    queue: &mut Queue,
    memory: &'m Memory,
) -> Result<Option<DescriptorChain<&'m Memory>>, QueueFault> {
    Ok(queue.iter(memory)?.next())
}

/// What a turn of a device has left to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Turn {
    /// Queues (by bit) whose guest is to be interrupted.
    pub interrupts: u32,
    /// There is more to do at once: the turn was ended so that others get theirs.
    pub is_unfinished: bool,
}
