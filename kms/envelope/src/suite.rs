//! Algorithm suites: the two that this crate speaks, and the names of those that it refuses.
//!
//! A suite without key commitment must never be accepted here: under one, the same ciphertext can be made to
//! open to different plaintexts under different data keys.

use crate::Error;

/// An algorithm suite with key commitment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `0x0478`: AES-256-GCM, HKDF-SHA512, key commitment.
    CommitKey,
    /// `0x0578`: the same, and an ECDSA P-384 signature over header and body.
    CommitKeySigned,
}

impl Suite {
    /// The identifier in a message's header.
    pub const fn id(self) -> u16 {
        match self {
            Self::CommitKey => 0x0478,
            Self::CommitKeySigned => 0x0578,
        }
    }

    /// Whether messages of this suite end with a signature.
    pub const fn is_signed(self) -> bool {
        matches!(self, Self::CommitKeySigned)
    }

    pub(crate) const fn from_id(id: u16) -> Result<Self, Error> {
        match id {
            0x0478 => Ok(Self::CommitKey),
            0x0578 => Ok(Self::CommitKeySigned),
            0x0014 | 0x0046 | 0x0078 | 0x0114 | 0x0146 | 0x0178 | 0x0214 | 0x0346 | 0x0378 => {
                Err(Error::SuiteWithoutCommitment { id })
            }
            _ => Err(Error::UnknownSuite { id }),
        }
    }
}
