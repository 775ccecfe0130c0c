//! What the cases are written with: the sound chain that most of them share, and short words for what
//! must happen. The verdicts themselves are in the files named for the groups.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anchorhold_corpus::{Arguments, Case, Freshness, JudgeAt, Level, Verdict};

use crate::document::{ES384, Parts, Payload, signed};
use crate::paper::{Chain, NOW_MS, Plan};

/// The root that nearly all cases trust.
pub const ROOT: &str = "root";
/// AWS's.
pub const AWS: &str = "aws-nitro-g1";

pub struct World {
    pub chain: Chain,
    anchors: RefCell<BTreeMap<String, Vec<u8>>>,
}

impl World {
    pub fn new() -> World {
        let world = World {
            chain: Plan::new().issue(),
            anchors: RefCell::default(),
        };
        world.anchor(ROOT, &world.chain.root.der.clone());
        world.anchor(AWS, anchorhold_attestation::Anchor::aws_nitro().der());
        world
    }

    /// Makes a root known under a name.
    pub fn anchor(&self, name: &str, der: &[u8]) {
        let known = self
            .anchors
            .borrow_mut()
            .insert(name.to_owned(), der.to_vec());
        assert!(known.is_none_or(|known| known == der), "{name}");
    }

    pub fn anchors(&self) -> BTreeMap<String, Vec<u8>> {
        self.anchors.borrow().clone()
    }

    /// A sound payload.
    pub fn payload(&self) -> Payload {
        Payload::of(&self.chain)
    }

    /// A document of this payload, in the form that hardware writes today.
    pub fn document(&self, payload: &Payload) -> Vec<u8> {
        self.over(payload.indefinite())
    }

    /// A document whose envelope is sound, over any bytes.
    pub fn over(&self, payload: impl Into<Vec<u8>>) -> Vec<u8> {
        signed(payload, &self.chain.leaf.key)
    }

    /// The parts of a sound document.
    pub fn parts(&self) -> Parts {
        self.parts_under(ES384)
    }

    /// The parts of a document whose signature covers this protected header.
    pub fn parts_under(&self, protected: &[u8]) -> Parts {
        let payload = self.payload().indefinite();
        Parts::of(protected, &payload, &self.chain.leaf.key)
    }

    /// A sound document.
    pub fn sound(&self) -> Vec<u8> {
        self.document(&self.payload())
    }

    /// A document under a chain that was planned otherwise. The root stays as it is.
    pub fn planned(&self, change: impl FnOnce(&mut Plan)) -> Vec<u8> {
        let mut plan = Plan::new();
        change(&mut plan);
        let chain = plan.issue();
        assert_eq!(
            chain.root.der, self.chain.root.der,
            "another root needs a name"
        );
        of(&chain)
    }

    /// The same for a root that is not the usual one, and gets this name.
    pub fn planned_under(&self, name: &str, change: impl FnOnce(&mut Plan)) -> Vec<u8> {
        let mut plan = Plan::new();
        change(&mut plan);
        let chain = plan.issue();
        self.anchor(name, &chain.root.der);
        of(&chain)
    }

    /// A document that brings along another bundle than its chain.
    pub fn bundled(&self, cabundle: &[Vec<u8>]) -> Vec<u8> {
        let cabundle = crate::document::array(cabundle.iter().map(crate::document::bytes));
        self.document(&self.payload().set("cabundle", cabundle))
    }
}

/// The document that a chain's leaf signs about itself.
pub fn of(chain: &Chain) -> Vec<u8> {
    signed(Payload::of(chain).indefinite(), &chain.leaf.key)
}

fn case(name: &str, verdict: Verdict, why: &str, document: Vec<u8>) -> Case {
    Case {
        name: name.to_owned(),
        verdict,
        level: Level::Must,
        why: why.to_owned(),
        source: None,
        arguments: Arguments {
            anchors: vec![ROOT.to_owned()],
            judge_at: JudgeAt::Instant(NOW_MS),
            any_image: true,
            ..Arguments::default()
        },
        document,
    }
}

/// The document must be admitted.
pub fn admit(name: &str, why: &str, document: Vec<u8>) -> Case {
    case(name, Verdict::Admit, why, document)
}

/// The document must be refused; anchorhold gives these reasons.
pub fn refuse(name: &str, refusal: &str, why: &str, document: Vec<u8>) -> Case {
    let names = refusal.split(' ').map(str::to_owned).collect();
    case(name, Verdict::Refuse(names), why, document)
}

/// Short words for what else a case says.
pub trait Say {
    /// The verdict is one of prudence.
    fn should(self) -> Case;
    /// The rule that demands it.
    fn by(self, source: &str) -> Case;
    /// What the verifier is told.
    fn told(self, tell: impl FnOnce(&mut Arguments)) -> Case;
    /// When it is judged.
    fn at(self, ms: u64) -> Case;
    /// It is judged at its own timestamp.
    fn at_its_own_time(self) -> Case;
    /// How old and how far ahead it may be.
    fn fresh(self, max_age_ms: u64, max_skew_ms: u64) -> Case;
    /// The roots that are trusted.
    fn under(self, anchors: &[&str]) -> Case;
}

impl Say for Case {
    fn should(mut self) -> Case {
        self.level = Level::Should;
        self
    }

    fn by(mut self, source: &str) -> Case {
        self.source = Some(source.to_owned());
        self
    }

    fn told(mut self, tell: impl FnOnce(&mut Arguments)) -> Case {
        tell(&mut self.arguments);
        self
    }

    fn at(mut self, ms: u64) -> Case {
        self.arguments.judge_at = JudgeAt::Instant(ms);
        self
    }

    fn at_its_own_time(mut self) -> Case {
        self.arguments.judge_at = JudgeAt::Document;
        self
    }

    fn fresh(mut self, max_age_ms: u64, max_skew_ms: u64) -> Case {
        self.arguments.freshness = Some(Freshness {
            max_age_ms,
            max_skew_ms,
        });
        self
    }

    fn under(mut self, anchors: &[&str]) -> Case {
        self.arguments.anchors = anchors.iter().map(|name| (*name).to_owned()).collect();
        self
    }
}

/// AWS's description of the document and of its validation, in the NSM library's repository:
/// `docs/attestation_process.md`.
pub fn aws(section: &str) -> String {
    format!("AWS, attestation_process.md, {section}")
}
