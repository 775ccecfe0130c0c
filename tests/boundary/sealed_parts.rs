//! Takes sealed messages apart and puts them together otherwise, as someone without any key can.

use std::collections::BTreeMap;
use std::ops::Range;

/// A sealed message (AWS Encryption SDK message format, version 2), field by field.
#[derive(Clone)]
pub(crate) struct SealedParts {
    pub(crate) version_and_suite: Vec<u8>,
    pub(crate) message_id: Vec<u8>,
    pub(crate) context: BTreeMap<String, String>,
    pub(crate) data_keys: Vec<DataKeyParts>,
    pub(crate) content_type: u8,
    pub(crate) frame_length: u32,
    pub(crate) commitment: Vec<u8>,
    pub(crate) header_tag: Vec<u8>,
    pub(crate) frames: Vec<FrameParts>,
    /// The signature of a signed message.
    pub(crate) footer: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct DataKeyParts {
    pub(crate) provider: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
}

#[derive(Clone)]
pub(crate) struct FrameParts {
    pub(crate) is_final: bool,
    pub(crate) sequence: u32,
    pub(crate) iv: Vec<u8>,
    pub(crate) content: Vec<u8>,
    pub(crate) tag: Vec<u8>,
}

/// Reads big-endian fields.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u16(&mut self) -> usize {
        usize::from(u16::from_be_bytes(
            self.take(2).try_into().expect("two bytes"),
        ))
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }

    /// A field behind its length in two bytes.
    fn field(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.take(length)
    }
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len())
        .expect("short enough")
        .to_be_bytes()
}

impl SealedParts {
    pub(crate) fn parse(message: &[u8]) -> Self {
        let mut reader = Reader(message);
        let version_and_suite = reader.take(3).to_vec();
        let message_id = reader.take(32).to_vec();
        let mut context = BTreeMap::new();
        let mut pairs = Reader(reader.field());
        if !pairs.0.is_empty() {
            for _ in 0..pairs.u16() {
                let name = String::from_utf8(pairs.field().to_vec()).expect("UTF-8");
                let value = String::from_utf8(pairs.field().to_vec()).expect("UTF-8");
                context.insert(name, value);
            }
        }
        let data_keys = (0..reader.u16())
            .map(|_| DataKeyParts {
                provider: reader.field().to_vec(),
                key: reader.field().to_vec(),
                ciphertext: reader.field().to_vec(),
            })
            .collect();
        let content_type = reader.take(1)[0];
        let frame_length = reader.u32();
        let commitment = reader.take(32).to_vec();
        let header_tag = reader.take(16).to_vec();
        let mut frames = Vec::new();
        loop {
            let first = reader.u32();
            let is_final = first == u32::MAX;
            let sequence = if is_final { reader.u32() } else { first };
            let iv = reader.take(12).to_vec();
            let length = if is_final { reader.u32() } else { frame_length };
            let content = reader.take(length as usize).to_vec();
            let tag = reader.take(16).to_vec();
            frames.push(FrameParts {
                is_final,
                sequence,
                iv,
                content,
                tag,
            });
            if is_final {
                break;
            }
        }
        let parts = Self {
            version_and_suite,
            message_id,
            context,
            data_keys,
            content_type,
            frame_length,
            commitment,
            header_tag,
            frames,
            footer: reader.0.to_vec(),
        };
        assert!(
            parts.bytes() == message,
            "taking apart and putting together loses nothing"
        );
        parts
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.fields()
            .into_iter()
            .flat_map(|(_, bytes)| bytes)
            .collect()
    }

    /// Where each field lies, by name.
    pub(crate) fn layout(&self) -> Vec<(&'static str, Range<usize>)> {
        let mut at = 0;
        self.fields()
            .into_iter()
            .map(|(name, bytes)| {
                let start = at;
                at += bytes.len();
                (name, start..at)
            })
            .filter(|(_, range)| !range.is_empty())
            .collect()
    }

    fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut fields = vec![
            ("version and suite", self.version_and_suite.clone()),
            ("message id", self.message_id.clone()),
        ];
        let mut context = Vec::new();
        if !self.context.is_empty() {
            let pairs = u16::try_from(self.context.len()).expect("few");
            context.extend(pairs.to_be_bytes());
            for (name, value) in &self.context {
                for text in [name, value] {
                    context.extend(length(text.as_bytes()));
                    context.extend(text.as_bytes());
                }
            }
        }
        fields.push(("context's length", length(&context).to_vec()));
        fields.push(("context", context));
        let count = u16::try_from(self.data_keys.len()).expect("few");
        fields.push(("number of data keys", count.to_be_bytes().to_vec()));
        for key in &self.data_keys {
            for (name, bytes) in [
                ("provider", &key.provider),
                ("key", &key.key),
                ("wrapped key", &key.ciphertext),
            ] {
                fields.push(("length in a data key", length(bytes).to_vec()));
                fields.push((name, bytes.clone()));
            }
        }
        fields.push(("content type", vec![self.content_type]));
        fields.push(("frame length", self.frame_length.to_be_bytes().to_vec()));
        fields.push(("commitment", self.commitment.clone()));
        fields.push(("header tag", self.header_tag.clone()));
        for frame in &self.frames {
            if frame.is_final {
                fields.push(("final mark", u32::MAX.to_be_bytes().to_vec()));
            }
            fields.push(("sequence number", frame.sequence.to_be_bytes().to_vec()));
            fields.push(("IV", frame.iv.clone()));
            if frame.is_final {
                let length = u32::try_from(frame.content.len()).expect("short");
                fields.push(("final length", length.to_be_bytes().to_vec()));
            }
            fields.push(("content", frame.content.clone()));
            fields.push(("tag", frame.tag.clone()));
        }
        fields.push(("footer", self.footer.clone()));
        fields
    }
}
