//! Chains of certificates: the simulator's papers, with any part changed before or after it is
//! signed. Names, serial numbers, times and keys follow from fixed seeds.

use std::time::{Duration, SystemTime};

use anchorhold_simulator::parts::{Papers, root_papers};
use rcgen::{CertificateParams, Issuer};

use crate::der::Node;
use crate::key::{Hash, Key, seed};

/// When the corpus's documents are made: 2025-06-15T15:06:40Z, in milliseconds since 1970.
pub const NOW_MS: u64 = 1_750_000_000_000;
pub const SECOND_MS: u64 = 1000;
pub const MINUTE_MS: u64 = 60 * SECOND_MS;
pub const HOUR_MS: u64 = 60 * MINUTE_MS;

/// The leaf is this old by then, and valid for three hours in all.
pub const LEAF_BEGINS_MS: u64 = NOW_MS - 10 * MINUTE_MS;
pub const LEAF_ENDS_MS: u64 = LEAF_BEGINS_MS + 3 * HOUR_MS;

/// The last second of AWS's root, G1.
const ROOT_ENDS_MS: u64 = 2_519_044_085_000;

pub const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";

pub fn instant(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

type Change = Box<dyn Fn(&mut Node)>;
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A certificate before it is issued.
pub struct Paper {
    pub params: CertificateParams,
    pub key: Key,
    /// Who signs in the issuer's place, and under its name.
    pub forger: Option<Key>,
    pub hash: Hash,
    /// Replaces the signature, given the bytes that are signed.
    pub signature: Option<Sign>,
    tbs: Vec<Change>,
    whole: Vec<Change>,
}

impl Paper {
    pub fn new(params: CertificateParams, key: Key) -> Paper {
        Paper {
            params,
            key,
            forger: None,
            hash: Hash::Sha384,
            signature: None,
            tbs: Vec::new(),
            whole: Vec::new(),
        }
    }

    /// Changes the part that is signed.
    pub fn tbs(&mut self, change: impl Fn(&mut Node) + 'static) -> &mut Paper {
        self.tbs.push(Box::new(change));
        self
    }

    /// Changes the whole after it was signed.
    pub fn whole(&mut self, change: impl Fn(&mut Node) + 'static) -> &mut Paper {
        self.whole.push(Box::new(change));
        self
    }

    /// Issues it under the issuer's name and with its key; without an issuer, under its own.
    pub fn issue(self, issuer: Option<&Holder>) -> Holder {
        let (above, key) = match issuer {
            Some(holder) => (&holder.params, holder.key.clone()),
            None => (&self.params, self.key.clone()),
        };
        let key = self.forger.unwrap_or(key);
        let issued = self
            .params
            .signed_by(&self.key, &Issuer::from_params(above, &key))
            .unwrap();
        let mut certificate = Node::parse(issued.der());
        for change in &self.tbs {
            change(&mut certificate.items()[0]);
        }
        if self.hash != Hash::Sha384 {
            let oid = match self.hash {
                Hash::Sha1 => ECDSA_WITH_SHA1,
                _ => ECDSA_WITH_SHA256,
            };
            let algorithm = Node::branch(0x30, [Node::leaf(6, oid)]);
            certificate.items()[0].items()[2] = algorithm.clone();
            certificate.items()[1] = algorithm;
        }
        let tbs = certificate.items()[0].encode();
        let signature = match &self.signature {
            Some(sign) => sign(&tbs),
            None => key.der(self.hash, &tbs),
        };
        *certificate.items()[2].bytes() = [&[0], signature.as_slice()].concat();
        for change in &self.whole {
            change(&mut certificate);
        }
        Holder {
            der: certificate.encode(),
            params: self.params,
            key: self.key,
        }
    }
}

/// A certificate that was issued, and its key.
#[derive(Clone)]
pub struct Holder {
    pub der: Vec<u8>,
    pub params: CertificateParams,
    pub key: Key,
}

/// Root, issuers and leaf before they are issued.
pub struct Plan {
    pub root: Paper,
    pub issuers: Vec<Paper>,
    pub leaf: Paper,
}

impl Plan {
    /// The corpus's own chain: AWS's shape of root, region, zone, instance and leaf.
    pub fn new() -> Plan {
        Plan::of("corpus", LEAF_BEGINS_MS)
    }

    /// Another chain of the same shape under other names and keys, issued at this time.
    pub fn of(world: &str, issued_ms: u64) -> Plan {
        let key = |place: &str| Key::p384(&format!("{world}/{place}"));
        let mut drawn = 0;
        let papers = Papers::draw(MODULE_ID, instant(issued_ms), |bytes| {
            drawn += 1;
            bytes.copy_from_slice(&seed(&format!("{world}/bytes/{drawn}"))[..bytes.len()]);
            Ok(())
        })
        .unwrap();
        let root_key = key("root");
        let root = Paper::new(root_papers(&root_key, instant(ROOT_ENDS_MS)), root_key);
        let issuers = papers
            .issuers
            .into_iter()
            .zip(["region", "zone", "instance"])
            .map(|(params, place)| Paper::new(params, key(place)))
            .collect();
        Plan {
            root,
            issuers,
            leaf: Paper::new(papers.leaf, key("leaf")),
        }
    }

    pub fn issue(self) -> Chain {
        let root = self.root.issue(None);
        Chain::under(root, self.issuers, self.leaf)
    }
}

#[derive(Clone)]
pub struct Chain {
    pub root: Holder,
    pub issuers: Vec<Holder>,
    pub leaf: Holder,
}

impl Chain {
    /// Issues the papers below a root.
    pub fn under(root: Holder, papers: Vec<Paper>, leaf: Paper) -> Chain {
        let mut issuers: Vec<Holder> = Vec::new();
        for paper in papers {
            let holder = paper.issue(Some(issuers.last().unwrap_or(&root)));
            issuers.push(holder);
        }
        let leaf = leaf.issue(Some(issuers.last().unwrap_or(&root)));
        Chain {
            root,
            issuers,
            leaf,
        }
    }

    /// Root first.
    pub fn cabundle(&self) -> Vec<Vec<u8>> {
        [&self.root]
            .into_iter()
            .chain(&self.issuers)
            .map(|holder| holder.der.clone())
            .collect()
    }
}

/// The places of a `TBSCertificate`'s parts, as rcgen writes them.
pub const VERSION: usize = 0;
pub const ALGORITHM: usize = 2;
pub const ISSUER: usize = 3;
pub const SUBJECT: usize = 5;
pub const KEY: usize = 6;
pub const EXTENSIONS: usize = 7;

/// The contents of object identifiers.
pub const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub const ECDSA_WITH_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
pub const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// The extensions of a `TBSCertificate`.
pub fn extensions(tbs: &mut Node) -> &mut Vec<Node> {
    tbs.items()[EXTENSIONS].items()[0].items()
}

fn is(extension: &Node, oid: &[u8]) -> bool {
    extension.clone().items()[0].bytes() == oid
}

pub fn without(oid: &'static [u8]) -> impl Fn(&mut Node) {
    move |tbs| {
        let before = extensions(tbs).len();
        extensions(tbs).retain(|extension| !is(extension, oid));
        assert_eq!(extensions(tbs).len() + 1, before);
    }
}

pub fn extension<'a>(tbs: &'a mut Node, oid: &[u8]) -> &'a mut Node {
    extensions(tbs)
        .iter_mut()
        .find(|extension| is(extension, oid))
        .unwrap()
}

/// The public key's bit string: 0 unused bits, and the point.
pub fn with_point(point: Vec<u8>) -> impl Fn(&mut Node) {
    move |tbs| *tbs.items()[KEY].items()[1].bytes() = [&[0], point.as_slice()].concat()
}
