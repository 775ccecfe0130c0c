//! Virtio vsock for a guest: stream sockets between the enclave's `AF_VSOCK` and Unix sockets in the enclave's folder.
//!
//! The host's own `AF_VSOCK` has no part in it.

pub mod device;
pub mod packet;
pub mod switch;
#[cfg(test)]
mod tests;

pub use device::Device;
pub use switch::{MOST_CONNECTIONS, Switch};
