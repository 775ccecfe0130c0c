//! Writes the CBOR (RFC 8949, section 3) that documents consist of. Never checks that the items make
//! a whole: what makes one no NSM would write uses it too.

/// Additional information: the argument follows in so many bytes (RFC 8949, section 3).
const ONE_BYTE: u8 = 0x18;
const TWO_BYTES: u8 = 0x19;
const FOUR_BYTES: u8 = 0x1a;
const EIGHT_BYTES: u8 = 0x1b;

/// Encoded items, one after the other. Numbers and lengths are in their shortest form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cbor(pub Vec<u8>);

impl Cbor {
    /// The head of an item of a major type (0–7): its number, or the length of what follows.
    pub fn head(&mut self, major: u8, argument: u64) -> &mut Cbor {
        let major = major << 5;
        let bytes = argument.to_be_bytes();
        match argument {
            0..24 => self.0.push(major | bytes[7]),
            24..0x100 => self.0.extend([major | ONE_BYTE, bytes[7]]),
            0x100..0x1_0000 => {
                self.0.push(major | TWO_BYTES);
                self.0.extend(&bytes[6..]);
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(major | FOUR_BYTES);
                self.0.extend(&bytes[4..]);
            }
            _ => {
                self.0.push(major | EIGHT_BYTES);
                self.0.extend(bytes);
            }
        }
        self
    }

    /// A byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Cbor {
        self.head(2, bytes.len() as u64).0.extend(bytes);
        self
    }

    /// A text.
    pub fn text(&mut self, text: &str) -> &mut Cbor {
        self.head(3, text.len() as u64).0.extend(text.as_bytes());
        self
    }

    /// Null.
    pub fn null(&mut self) -> &mut Cbor {
        self.0.push(0xf6);
        self
    }
}
