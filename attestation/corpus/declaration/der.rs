//! DER as a tree, so that any part of a certificate can be changed before it is signed. Never checks
//! that the result means anything.

/// An item: a tag of one byte, and bytes or items.
#[derive(Clone)]
pub struct Node {
    pub tag: u8,
    pub body: Body,
}

#[derive(Clone)]
pub enum Body {
    Leaf(Vec<u8>),
    Branch(Vec<Node>),
}

impl Node {
    pub fn leaf(tag: u8, bytes: impl Into<Vec<u8>>) -> Node {
        Node {
            tag,
            body: Body::Leaf(bytes.into()),
        }
    }

    pub fn branch(tag: u8, items: impl Into<Vec<Node>>) -> Node {
        Node {
            tag,
            body: Body::Branch(items.into()),
        }
    }

    /// Reads one item that our own encoders made.
    pub fn parse(bytes: &[u8]) -> Node {
        let (node, rest) = Node::first(bytes);
        assert!(rest.is_empty());
        node
    }

    fn first(bytes: &[u8]) -> (Node, &[u8]) {
        let (length, head) = match bytes[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(bytes[2]), 3),
            0x82 => (usize::from(bytes[2]) << 8 | usize::from(bytes[3]), 4),
            other => panic!("length {other:#x}"),
        };
        let (content, rest) = bytes[head..].split_at(length);
        let body = if bytes[0] & 0x20 == 0 {
            Body::Leaf(content.to_vec())
        } else {
            let mut items = Vec::new();
            let mut left = content;
            while !left.is_empty() {
                let (item, after) = Node::first(left);
                items.push(item);
                left = after;
            }
            Body::Branch(items)
        };
        (
            Node {
                tag: bytes[0],
                body,
            },
            rest,
        )
    }

    pub fn encode(&self) -> Vec<u8> {
        let content = self.content();
        let length = content.len();
        let mut out = vec![self.tag];
        match length {
            0..0x80 => out.push(length as u8),
            0x80..0x100 => out.extend([0x81, length as u8]),
            _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
        }
        out.extend(content);
        out
    }

    /// What the item holds, encoded.
    pub fn content(&self) -> Vec<u8> {
        match &self.body {
            Body::Leaf(bytes) => bytes.clone(),
            Body::Branch(items) => items.iter().flat_map(Node::encode).collect(),
        }
    }

    pub fn items(&mut self) -> &mut Vec<Node> {
        match &mut self.body {
            Body::Branch(items) => items,
            Body::Leaf(_) => panic!("an item of tag {:#x} has no parts", self.tag),
        }
    }

    pub fn bytes(&mut self) -> &mut Vec<u8> {
        match &mut self.body {
            Body::Leaf(bytes) => bytes,
            Body::Branch(_) => panic!("an item of tag {:#x} has parts", self.tag),
        }
    }
}
