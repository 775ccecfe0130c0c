//! Channels through the enclave's own door, with a simulated NSM behind it, and through parents that lie.

mod carried;
mod corpus;
mod honest;
mod lies;
mod stage;
