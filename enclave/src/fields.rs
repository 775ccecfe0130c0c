//! Single fields of a call's lines: opened before the job sees them, sealed before its answer leaves.
//!
//! Lines come in pieces of any size and are put together here, within the manifest's longest line. A line must never be
//! passed on in which a named field is not what the manifest says: not unsealed to the job's reader, not unopened to the
//! job.

use anchorhold_envelope::fields::{
    FieldError, FieldOpener, FieldSealer, Fields, NameError, Opened, field_context,
};
use anchorhold_envelope::{EncryptionContext, new_message_id};
use anchorhold_manifest::LineFields;
use zeroize::Zeroizing;

use crate::keys::{GeneratedKey, KeyError, KeyService, Keys};
use crate::nsm::Nsm;

/// What the manifest says of the fields of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerms {
    /// Opened in each line of the input.
    pub open: Option<Fields>,
    /// Sealed in each line of the output.
    pub seal: Option<Fields>,
    /// Demanded of what is opened, and given to what is sealed.
    pub context: EncryptionContext,
}

impl FieldTerms {
    /// The manifest's, with its names taken apart.
    ///
    /// # Errors
    /// Names overlap, or are none.
    pub fn new(manifest: &LineFields) -> Result<FieldTerms, NameError> {
        let fields = |names: &[String]| {
            if names.is_empty() {
                return Ok(None);
            }
            let fields = Fields::new(names)?;
            match &manifest.row {
                Some(row) => fields.in_rows_of(row).map(Some),
                None => Ok(Some(fields)),
            }
        };
        Ok(FieldTerms {
            open: fields(&manifest.open)?,
            seal: fields(&manifest.seal)?,
            context: manifest.context.clone(),
        })
    }
}

/// Why a line's fields are not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The line, or what was sealed in it.
    #[error("{0}")]
    Field(#[from] FieldError),
    /// It is no text.
    #[error("it is not UTF-8")]
    NotText,
    /// A field's data key.
    #[error("a field's data key: {0}")]
    Key(#[from] KeyError),
    /// Keys and headers.
    #[error("{0}")]
    Message(#[from] anchorhold_envelope::Error),
}

/// Puts lines together.
struct Pieces {
    /// The beginning of a line.
    open: Zeroizing<Vec<u8>>,
    /// Lines that were whole.
    lines: u64,
}

impl Pieces {
    fn new() -> Pieces {
        Pieces {
            open: Zeroizing::default(),
            lines: 0,
        }
    }

    fn hold(&mut self, part: &[u8]) {
        if self.open.capacity() < self.open.len() + part.len() {
            // By hand, so that the old vector is wiped.
            let room = (self.open.len() + part.len()).next_power_of_two();
            let mut larger = Zeroizing::new(Vec::with_capacity(room));
            larger.extend_from_slice(&self.open);
            self.open = larger;
        }
        self.open.extend_from_slice(part);
    }
}

/// A line's text, or none if there is nothing on it.
fn text(line: &[u8]) -> Result<Option<&str>, LineError> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    match std::str::from_utf8(line) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(LineError::NotText),
    }
}

/// Opens the fields of an input.
pub(crate) struct OpenedLines<'k, N, S> {
    pieces: Pieces,
    opener: FieldOpener,
    keys: &'k Keys<N, S>,
}

impl<'k, N: Nsm, S: KeyService> OpenedLines<'k, N, S> {
    pub(crate) fn new(
        fields: Fields,
        context: EncryptionContext,
        keys: &'k Keys<N, S>,
    ) -> OpenedLines<'k, N, S> {
        OpenedLines {
            pieces: Pieces::new(),
            opener: FieldOpener::new(fields, context),
            keys,
        }
    }

    /// Number of the line that is worked on, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.pieces.lines + 1
    }

    /// Takes the next bytes of the input, and puts the lines that they make whole into `out`, in place of what it holds.
    pub(crate) async fn take(
        &mut self,
        piece: &[u8],
        out: &mut Zeroizing<Vec<u8>>,
    ) -> Result<(), LineError> {
        out.clear();
        // An opened field is shorter than a sealed one.
        let room = self.pieces.open.len() + piece.len();
        if out.capacity() < room {
            *out = Zeroizing::new(Vec::with_capacity(room));
        }
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let Some(end) = part.strip_suffix(b"\n") else {
                self.pieces.hold(part);
                break;
            };
            if self.pieces.open.is_empty() {
                opened(&mut self.opener, self.keys, end, out).await?;
            } else {
                self.pieces.hold(end);
                opened(&mut self.opener, self.keys, &self.pieces.open, out).await?;
                self.pieces.open.clear();
            }
            out.push(b'\n');
            self.pieces.lines += 1;
        }
        Ok(())
    }

    /// The last line, where it had no newline.
    pub(crate) async fn last(&mut self, out: &mut Zeroizing<Vec<u8>>) -> Result<(), LineError> {
        out.clear();
        let room = self.pieces.open.len();
        if out.capacity() < room {
            *out = Zeroizing::new(Vec::with_capacity(room));
        }
        opened(&mut self.opener, self.keys, &self.pieces.open, out).await?;
        self.pieces.open.clear();
        Ok(())
    }
}

async fn opened<N: Nsm, S: KeyService>(
    opener: &mut FieldOpener,
    keys: &Keys<N, S>,
    line: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), LineError> {
    let Some(text) = text(line)? else {
        out.extend_from_slice(line);
        return Ok(());
    };
    loop {
        match opener.line(text, out)? {
            Opened::Line(_) => return Ok(()),
            Opened::Needs(header) => {
                let key = keys
                    .open(keys.key_id(), header.data_keys(), header.context())
                    .await?;
                opener.admit(&header, key)?;
            }
        }
    }
}

/// Seals the fields of an output.
pub(crate) struct SealedLines {
    pieces: Pieces,
    sealer: FieldSealer,
}

impl SealedLines {
    /// `key` was made for [`field_context`] of the manifest's context.
    pub(crate) fn new(
        fields: Fields,
        context: &EncryptionContext,
        key: GeneratedKey,
    ) -> Result<SealedLines, anchorhold_envelope::Error> {
        let context = field_context(context.clone());
        let sealer = FieldSealer::new(
            fields,
            &context,
            &[key.encrypted],
            key.data_key,
            new_message_id()?,
        )?;
        Ok(SealedLines {
            pieces: Pieces::new(),
            sealer,
        })
    }

    /// Number of the line that is worked on, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.pieces.lines + 1
    }

    /// Takes the next bytes of the output, and puts the lines that they make whole into `out`, in place of what it holds. A
    /// last line without its end stays here: it is no answer.
    pub(crate) fn take(
        &mut self,
        piece: &[u8],
        out: &mut Zeroizing<Vec<u8>>,
    ) -> Result<(), LineError> {
        out.clear();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let Some(end) = part.strip_suffix(b"\n") else {
                self.pieces.hold(part);
                break;
            };
            if self.pieces.open.is_empty() {
                sealed(&mut self.sealer, end, out)?;
            } else {
                self.pieces.hold(end);
                sealed(&mut self.sealer, &self.pieces.open, out)?;
                self.pieces.open.clear();
            }
            out.push(b'\n');
            self.pieces.lines += 1;
        }
        Ok(())
    }
}

fn sealed(sealer: &mut FieldSealer, line: &[u8], out: &mut Vec<u8>) -> Result<(), LineError> {
    match text(line)? {
        Some(text) => {
            sealer.line(text, out)?;
        }
        None => out.extend_from_slice(line),
    }
    Ok(())
}
