//! Group `chain`: the way from a leaf to a root that the verifier trusts, and every way around it.

use anchorhold_corpus::Case;
use rcgen::{
    BasicConstraints, CrlDistributionPoint, CustomExtension, DnType, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints,
};

use crate::der::Node;
use crate::document::{Payload, array, bytes, signed};
use crate::key::{Hash, Key};
use crate::paper::{
    ALGORITHM, BASIC_CONSTRAINTS, Chain, ECDSA_WITH_SHA256, EXTENSIONS, ISSUER, KEY, KEY_USAGE,
    LEAF_BEGINS_MS, NOW_MS, Plan, SUBJECT, VERSION, extension, extensions, with_point, without,
};
use crate::world::{AWS, ROOT, Say as _, World, admit, aws, of, refuse};

const REGION: usize = 0;
const ZONE: usize = 1;
const INSTANCE: usize = 2;

/// Critical, and known to nobody.
fn unknown_extension(critical: bool) -> CustomExtension {
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
    extension.set_criticality(critical);
    extension
}

fn constrained(length: u8) -> IsCa {
    IsCa::Ca(BasicConstraints::Constrained(length))
}

fn sound(world: &World) -> Vec<Case> {
    let chain = &world.chain;
    vec![
        admit(
            "chain/as-hardware-has-it",
            "Root, region, zone, instance, leaf: each issues the next, and the root is trusted.",
            world.sound(),
        )
        .by(&aws("3.2.3")),
        admit(
            "chain/leaf-directly-under-the-root",
            "A chain may have no intermediates.",
            {
                let plan = Plan::new();
                of(&Chain::under(chain.root.clone(), vec![], plan.leaf))
            },
        )
        .by("RFC 5280, section 6.1"),
        admit(
            "chain/one-intermediate",
            "Not every partition need have hardware's three intermediates.",
            world.planned(|plan| plan.issuers.truncate(1)),
        )
        .by(&aws("3.2.3")),
        admit(
            "chain/wide-path-lengths",
            "A path length is an upper bound.",
            world.planned(|plan| {
                for (paper, length) in plan.issuers.iter_mut().zip([9, 8, 7]) {
                    paper.params.is_ca = constrained(length);
                }
            }),
        )
        .by("RFC 5280, section 4.2.1.9"),
        admit(
            "chain/no-path-lengths",
            "A CA without a path length may have any number of others below it.",
            world.planned(|plan| {
                for paper in &mut plan.issuers {
                    paper.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                }
            }),
        )
        .by("RFC 5280, section 4.2.1.9"),
        admit(
            "chain/crl-distribution-points",
            "AWS's certificates name revocation lists; they are not to be asked for.",
            world.planned(|plan| {
                plan.issuers[ZONE].params.crl_distribution_points = vec![CrlDistributionPoint {
                    uris: vec!["http://crl.anchorhold.invalid/zone.crl".to_owned()],
                }];
            }),
        )
        .by(&aws("3.2.4")),
        admit(
            "chain/extension-that-nobody-knows",
            "An extension that is not critical may be ignored.",
            world.planned(|plan| {
                plan.issuers[ZONE].params.custom_extensions = vec![unknown_extension(false)];
            }),
        )
        .by("RFC 5280, section 4.2"),
        admit(
            "chain/key-usage-that-is-not-critical",
            "AWS's leaves state their key's usage without making it critical.",
            world.planned(|plan| {
                plan.leaf.tbs(|tbs| {
                    let usage = extension(tbs, KEY_USAGE);
                    usage.items().remove(1);
                });
            }),
        )
        .by("AWS's documents"),
        admit(
            "chain/second-of-two-roots",
            "Of several trusted roots the chain needs to lead to one.",
            world.sound(),
        )
        .under(&[AWS, ROOT]),
        admit(
            "chain/root-renewed",
            "The trusted root is a younger certificate of the same name and key; the one in the bundle \
             is not what is trusted.",
            {
                let mut plan = Plan::new();
                plan.root.params.serial_number = Some(vec![0x42; 16].into());
                world.anchor("root-renewed", &plan.root.issue(None).der);
                world.sound()
            },
        )
        .by("RFC 5280, section 6.1.1 (d): an anchor is a name and a key")
        .under(&["root-renewed"])
        .should(),
    ]
}

fn roots(world: &World) -> Vec<Case> {
    let chain = &world.chain;
    let attacker = Plan::of("attacker", LEAF_BEGINS_MS).issue();
    // The attacker's own root, under the name of the trusted one.
    let impostor = {
        let mut plan = Plan::new();
        plan.root.key = Key::p384("impostor/root");
        plan
    };
    let impostor = impostor.issue();
    let with_trusted_root = |issuers: &Chain| {
        let mut bundle = issuers.cabundle();
        bundle[0].clone_from(&chain.root.der);
        let payload = Payload::of(issuers).set("cabundle", array(bundle.iter().map(bytes)));
        signed(payload.indefinite(), &issuers.leaf.key)
    };
    let curveball = {
        let mut plan = Plan::new();
        let root_key = plan.root.key.clone();
        let generator = root_key.clone();
        // A root of the trusted one's name and public key, on a curve whose generator is that key.
        plan.root
            .tbs(explicit_curve(Some(root_key.point().to_vec())));
        plan.issuers[REGION].signature = Some(Box::new(move |tbs| {
            generator.der_with_the_point_as_generator(tbs)
        }));
        plan.root.signature = {
            let key = root_key.clone();
            Some(Box::new(move |tbs| {
                key.der_with_the_point_as_generator(tbs)
            }))
        };
        of(&plan.issue())
    };
    vec![
        refuse(
            "chain/root-taken-from-the-document",
            "unknown-root",
            "Everything is sound, but for the root, which only the document itself speaks for.",
            of(&attacker),
        )
        .by("RFC 5280, section 6.1.1 (d); AWS, attestation_process.md, 3.2"),
        refuse(
            "chain/root-of-the-trusted-ones-name",
            "unknown-root",
            "The root in the document has the trusted one's name and another key.",
            of(&impostor),
        )
        .by("RFC 5280, section 6.1.1 (d)"),
        refuse(
            "chain/trusted-root-before-anothers-chain",
            "unknown-root",
            "The trusted root stands at the head of the bundle, and has issued nothing in it.",
            with_trusted_root(&attacker),
        )
        .by("RFC 5280, section 6.1.3 (a)"),
        refuse(
            "chain/trusted-root-before-a-namesakes-chain",
            "certificate-signature",
            "The trusted root stands at the head of the bundle, and names fit; the region's \
             certificate was signed by another key.",
            with_trusted_root(&impostor),
        )
        .by("RFC 5280, section 6.1.3 (a) (1)"),
        refuse(
            "chain/another-root-is-trusted",
            "unknown-root",
            "The document is sound under a root that this verifier does not trust.",
            world.sound(),
        )
        .under(&[AWS]),
        refuse(
            "chain/no-root-is-trusted",
            "no-anchors",
            "Whoever trusts nobody admits nothing.",
            world.sound(),
        )
        .under(&[]),
        refuse(
            "chain/root-with-the-trusted-key-on-another-curve",
            "unknown-root",
            "The root in the document has the trusted one's name and public key, on a curve whose \
             generator is that key: its secret is 1 (CVE-2020-0601).",
            curveball,
        )
        .by("RFC 5480, section 2.1.1"),
        refuse(
            "chain/path-length-of-the-root",
            "path-length",
            "The trusted root allows two intermediates below it, and there are three.",
            world.planned_under("root-of-path-length-2", |plan| {
                plan.root.params.is_ca = constrained(2);
            }),
        )
        .by(&aws("3.2.3.3"))
        .under(&["root-of-path-length-2"]),
        refuse(
            "chain/self-signed-leaf",
            "out-of-order",
            "The leaf vouches for itself; the sound bundle beside it has issued something else.",
            {
                let mut plan = Plan::new();
                plan.leaf.key = Key::p384("self-signed");
                let leaf = plan.leaf.issue(None);
                let mut forged = chain.clone();
                forged.leaf = leaf;
                of(&forged)
            },
        )
        .by("RFC 5280, section 6.1.3 (a) (4)"),
        refuse(
            "chain/self-signed-leaf-alone",
            "unknown-root",
            "The leaf vouches for itself, and is its own bundle.",
            {
                let mut plan = Plan::new();
                plan.leaf.key = Key::p384("self-signed");
                let leaf = plan.leaf.issue(None);
                let payload = Payload::of(&Chain {
                    root: leaf.clone(),
                    issuers: vec![],
                    leaf: leaf.clone(),
                });
                signed(payload.indefinite(), &leaf.key)
            },
        )
        .by("RFC 5280, section 6.1.1 (d)"),
    ]
}

/// Replaces the name of a key's curve with the curve's parameters (SEC 1, section C.2): P-384's own, or
/// with this point for a generator.
fn explicit_curve(generator: Option<Vec<u8>>) -> impl Fn(&mut Node) {
    let hex = |digits: &str| hex::decode(digits).unwrap();
    // SEC 2, section 2.5.1.
    let prime = hex(
        "00fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
    );
    let a = hex(
        "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000fffffffc",
    );
    let b = hex(
        "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
    );
    let base = hex(
        "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab73617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
    );
    let order = hex(
        "00ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    );
    let parameters = Node::branch(
        0x30,
        [
            Node::leaf(2, [1]),
            Node::branch(
                0x30,
                [
                    // prime-field
                    Node::leaf(6, [0x2a, 0x86, 0x48, 0xce, 0x3d, 1, 1]),
                    Node::leaf(2, prime),
                ],
            ),
            Node::branch(0x30, [Node::leaf(4, a), Node::leaf(4, b)]),
            Node::leaf(4, generator.unwrap_or(base)),
            Node::leaf(2, order),
            Node::leaf(2, [1]),
        ],
    );
    move |tbs| tbs.items()[KEY].items()[0].items()[1] = parameters.clone()
}

fn order(world: &World) -> Vec<Case> {
    let chain = &world.chain;
    let bundle = chain.cabundle();
    let picked = |places: &[usize]| {
        let picked: Vec<_> = places.iter().map(|place| bundle[*place].clone()).collect();
        world.bundled(&picked)
    };
    let and = |place: usize, der: &[u8]| {
        let mut bundle = bundle.clone();
        bundle.insert(place, der.to_vec());
        world.bundled(&bundle)
    };
    let stranger = Plan::of("stranger", LEAF_BEGINS_MS).issue();
    let ordered = aws("3.2.3");
    vec![
        refuse(
            "chain/region-is-missing",
            "unknown-root",
            "Nobody who is trusted has issued the zone's certificate.",
            picked(&[0, 2, 3]),
        )
        .by("RFC 5280, section 6.1"),
        refuse(
            "chain/zone-is-missing",
            "out-of-order",
            "The region has not issued the instance's certificate.",
            picked(&[0, 1, 3]),
        )
        .by("RFC 5280, section 6.1"),
        refuse(
            "chain/instance-is-missing",
            "out-of-order",
            "The zone has not issued the leaf.",
            picked(&[0, 1, 2]),
        )
        .by("RFC 5280, section 6.1"),
        refuse(
            "chain/only-the-root",
            "unknown-root",
            "The root has not issued the leaf.",
            picked(&[0]),
        )
        .by("RFC 5280, section 6.1"),
        refuse(
            "chain/root-is-missing",
            "unknown-root",
            "The bundle begins with the root; here the region stands in its place.",
            picked(&[1, 2, 3]),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/bundle-reversed",
            "unknown-root",
            "The bundle has one order: root first, each issuing the next.",
            picked(&[3, 2, 1, 0]),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/two-issuers-swapped",
            "unknown-root",
            "The bundle has one order: root first, each issuing the next.",
            picked(&[0, 2, 1, 3]),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/root-last",
            "unknown-root",
            "The bundle has one order: root first, each issuing the next.",
            picked(&[1, 2, 3, 0]),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/leaf-in-the-bundle",
            "out-of-order",
            "The bundle has the leaf's issuers, not the leaf itself.",
            and(4, &chain.leaf.der),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/root-twice",
            "out-of-order",
            "The bundle has each certificate once.",
            and(1, &bundle[0]),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/zone-twice",
            "out-of-order",
            "The bundle has each certificate once.",
            and(3, &bundle[2]),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/stranger-at-the-end",
            "out-of-order",
            "The bundle has the leaf's issuers and nobody else.",
            and(4, &stranger.issuers[ZONE].der),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/stranger-after-the-root",
            "unknown-root",
            "The bundle has the leaf's issuers and nobody else.",
            and(1, &stranger.issuers[REGION].der),
        )
        .by(&ordered)
        .should(),
        refuse(
            "chain/leaf-of-another-enclave",
            "signature",
            "The leaf is one that the same instance issued to another enclave; the document was signed \
             by ours.",
            {
                let mut paper = Plan::new().leaf;
                paper.key = Key::p384("another enclave");
                let other = paper.issue(Some(&chain.issuers[INSTANCE]));
                world.document(&world.payload().set("certificate", bytes(other.der)))
            },
        ),
        refuse(
            "chain/issuers-of-another-instance",
            "certificate-signature",
            "The issuers have the right names, and other keys than the one that signed the leaf.",
            {
                let mut plan = Plan::new();
                plan.issuers[INSTANCE].key = Key::p384("another instance");
                let other = plan.issue();
                world.bundled(&other.cabundle())
            },
        )
        .by("RFC 5280, section 6.1.3 (a) (1)"),
        refuse(
            "chain/many-of-one-name",
            "repeated-certificate",
            "Seven issuers of one name and key have issued each other; a verifier that tries all paths \
             takes long to find none.",
            {
                let mut plan = Plan::of("explosion", LEAF_BEGINS_MS);
                let name = plan.issuers[REGION].params.distinguished_name.clone();
                let key = plan.issuers[REGION].key.clone();
                let mut above = None;
                let mut bundle = vec![chain.root.der.clone()];
                for serial in 1..8 {
                    let mut paper = Plan::of("explosion", LEAF_BEGINS_MS).issuers.remove(REGION);
                    paper.params.distinguished_name = name.clone();
                    paper.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                    paper.params.serial_number = Some(vec![serial].into());
                    paper.key = key.clone();
                    let holder = paper.issue(above.as_ref());
                    bundle.push(holder.der.clone());
                    above = Some(holder);
                }
                // The first claims that the trusted root has issued it.
                let mut paper = plan.issuers.remove(REGION);
                paper.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                paper.forger = Some(key.clone());
                bundle[1] = paper.issue(Some(&chain.root)).der;
                let leaf = plan.leaf.issue(above.as_ref());
                let payload = world
                    .payload()
                    .set("certificate", bytes(&leaf.der))
                    .set("cabundle", array(bundle.iter().map(bytes)));
                signed(payload.indefinite(), &leaf.key)
            },
        )
        .by("RFC 5280, section 6.1"),
    ]
}

fn signatures(world: &World) -> Vec<Case> {
    let names = "RFC 5280, section 6.1.3 (a) (4)";
    let signature = "RFC 5280, section 6.1.3 (a) (1)";
    let mut cases = vec![
        refuse(
            "chain/forged-leaf",
            "certificate-signature",
            "The leaf names the instance as its issuer, and was signed by a stranger's key.",
            world.planned(|plan| plan.leaf.forger = Some(Key::p384("stranger"))),
        )
        .by(signature),
        refuse(
            "chain/signature-flipped-in-the-leaf",
            "certificate-signature",
            "One bit of the leaf's signature.",
            world.planned(|plan| {
                plan.leaf.whole(|certificate| {
                    *certificate.items()[2].bytes().last_mut().unwrap() ^= 1;
                });
            }),
        )
        .by(signature),
        refuse(
            "chain/leaf-names-another-issuer",
            "out-of-order",
            "The instance's key signed the leaf, which names the zone as its issuer.",
            world.planned(|plan| {
                let zone = plan.issuers[ZONE].params.distinguished_name.clone();
                let name = name_of(&zone);
                plan.leaf.tbs(move |tbs| tbs.items()[ISSUER] = name.clone());
            }),
        )
        .by(names),
        refuse(
            "chain/region-names-another-issuer",
            "unknown-root",
            "The root's key signed the region's certificate, which names another issuer.",
            world.planned(|plan| {
                let name = name_of(&Plan::of("stranger", NOW_MS).root.params.distinguished_name);
                plan.issuers[REGION].tbs(move |tbs| tbs.items()[ISSUER] = name.clone());
            }),
        )
        .by(names),
        refuse(
            "chain/two-signature-algorithms",
            "path",
            "The part that is signed says ECDSA with SHA-256, the signature's own field SHA-384.",
            world.planned(|plan| {
                plan.leaf.tbs(|tbs| {
                    *tbs.items()[ALGORITHM].items()[0].bytes() = ECDSA_WITH_SHA256.to_vec();
                });
            }),
        )
        .by("RFC 5280, section 4.1.1.2"),
        refuse(
            "chain/leaf-signed-with-sha1",
            "path",
            "SHA-1 collides: a signature over it proves nothing about what was signed.",
            world.planned(|plan| plan.leaf.hash = Hash::Sha1),
        )
        .by("NIST SP 800-131A, section 3"),
        refuse(
            "chain/leaf-signed-with-sha256",
            "path",
            "AWS signs all its certificates with SHA-384; a weaker hash is not AWS's.",
            world.planned(|plan| plan.leaf.hash = Hash::Sha256),
        )
        .should(),
    ];
    for (index, place, above) in [
        (REGION, "region", "root"),
        (ZONE, "zone", "region"),
        (INSTANCE, "instance", "zone"),
    ] {
        cases.push(
            refuse(
                &format!("chain/forged-{place}"),
                "certificate-signature",
                &format!(
                    "The {place}'s certificate names the {above} as its issuer, and was signed by a \
                     stranger's key; all below it is sound."
                ),
                world.planned(|plan| plan.issuers[index].forger = Some(Key::p384("stranger"))),
            )
            .by(signature),
        );
    }
    cases
}

/// A name as certificates have it.
fn name_of(name: &rcgen::DistinguishedName) -> Node {
    let mut paper = Plan::new().leaf;
    paper.params.distinguished_name = name.clone();
    Node::parse(&paper.issue(None).der).items()[0].items()[SUBJECT].clone()
}

fn constraints(world: &World) -> Vec<Case> {
    let chain = &world.chain;
    let ca = "RFC 5280, section 6.1.4 (k)";
    let usage = aws("3.2.3.3");
    let leaf_as_issuer = {
        let mut paper = Plan::new().leaf;
        paper
            .params
            .distinguished_name
            .push(DnType::CommonName, "another enclave");
        paper.key = Key::p384("issued by a leaf");
        let forged = paper.issue(Some(&chain.leaf));
        let mut bundle = chain.cabundle();
        bundle.push(chain.leaf.der.clone());
        let payload = world
            .payload()
            .set("certificate", bytes(&forged.der))
            .set("cabundle", array(bundle.iter().map(bytes)));
        signed(payload.indefinite(), &forged.key)
    };
    let path_length = |name: &str, why: &str, index: usize, length: u8| {
        refuse(
            name,
            "path-length",
            why,
            world.planned(|plan| plan.issuers[index].params.is_ca = constrained(length)),
        )
        .by("RFC 5280, section 6.1.4 (l); AWS, attestation_process.md, 3.2.3.3")
    };
    vec![
        refuse(
            "chain/leaf-that-issued-a-leaf",
            "not-a-ca",
            "Any enclave's leaf could make leaves for others.",
            leaf_as_issuer,
        )
        .by(ca),
        refuse(
            "chain/region-is-no-ca",
            "not-a-ca",
            "The region's certificate says that it is none of a CA.",
            world.planned(|plan| plan.issuers[REGION].params.is_ca = IsCa::ExplicitNoCa),
        )
        .by(ca),
        refuse(
            "chain/instance-is-no-ca",
            "not-a-ca",
            "The instance's certificate says that it is none of a CA.",
            world.planned(|plan| plan.issuers[INSTANCE].params.is_ca = IsCa::ExplicitNoCa),
        )
        .by(ca),
        refuse(
            "chain/zone-without-basic-constraints",
            "not-a-ca",
            "Who does not say that he is a CA is none.",
            world.planned(|plan| {
                plan.issuers[ZONE].tbs(without(BASIC_CONSTRAINTS));
            }),
        )
        .by(ca),
        refuse(
            "chain/zone-of-version-1",
            "not-a-ca",
            "A certificate of version 1 has no extensions, and so does not say that it is a CA.",
            world.planned(|plan| {
                plan.issuers[ZONE].tbs(|tbs| {
                    tbs.items().remove(EXTENSIONS);
                    tbs.items().remove(VERSION);
                });
            }),
        )
        .by(ca),
        refuse(
            "chain/zone-not-for-certificates",
            "key-usage",
            "The zone's key may sign, but not certificates.",
            world.planned(|plan| {
                plan.issuers[ZONE].params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            }),
        )
        .by("RFC 5280, section 6.1.4 (n); AWS, attestation_process.md, 3.2.3.3"),
        refuse(
            "chain/region-without-key-usage",
            "key-usage",
            "Every issuer's certificate has the bit keyCertSign.",
            world.planned(|plan| {
                plan.issuers[REGION].tbs(without(KEY_USAGE));
            }),
        )
        .by(&usage),
        refuse(
            "chain/leaf-without-key-usage",
            "key-usage",
            "The leaf's certificate has the bit digitalSignature.",
            world.planned(|plan| {
                plan.leaf.tbs(without(KEY_USAGE));
            }),
        )
        .by(&usage),
        refuse(
            "chain/leaf-for-key-agreement",
            "key-usage",
            "The leaf's key is for agreeing on keys, not for signatures.",
            world.planned(|plan| {
                plan.leaf.params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
            }),
        )
        .by(&usage),
        refuse(
            "chain/issuer-in-the-leafs-place",
            "leaf-is-a-ca",
            "The instance, a CA with a path length, signs the document itself.",
            {
                let mut short = chain.clone();
                let instance = short.issuers.remove(INSTANCE);
                short.leaf = instance;
                of(&short)
            },
        )
        .by("AWS, attestation_process.md, 3.2.3.3: no path length in the target certificate"),
        refuse(
            "chain/leaf-is-a-ca",
            "leaf-is-a-ca",
            "AWS's leaves are no CAs.",
            world.planned(|plan| {
                plan.leaf.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            }),
        )
        .should(),
        path_length(
            "chain/path-length-of-the-region",
            "The region allows one CA below it, and there are two.",
            REGION,
            1,
        ),
        path_length(
            "chain/path-length-of-the-zone",
            "The zone allows no CA below it, and there is one.",
            ZONE,
            0,
        ),
        refuse(
            "chain/path-length-of-the-instance",
            "path-length",
            "The instance allows no CA below it, and there is one.",
            world.planned(|plan| {
                let mut extra = Plan::of("extra", LEAF_BEGINS_MS).issuers.remove(INSTANCE);
                extra.params.is_ca = constrained(0);
                plan.issuers.push(extra);
            }),
        )
        .by("RFC 5280, section 6.1.4 (l); AWS, attestation_process.md, 3.2.3.3"),
        refuse(
            "chain/critical-extension-in-an-issuer",
            "path",
            "Who does not understand a critical extension must not accept the certificate.",
            world.planned(|plan| {
                plan.issuers[ZONE].params.custom_extensions = vec![unknown_extension(true)];
            }),
        )
        .by("RFC 5280, sections 4.2 and 6.1.4 (o)"),
        refuse(
            "chain/critical-extension-in-the-leaf",
            "path",
            "Who does not understand a critical extension must not accept the certificate.",
            world.planned(|plan| {
                plan.leaf.params.custom_extensions = vec![unknown_extension(true)];
            }),
        )
        .by("RFC 5280, sections 4.2 and 6.1.5 (f)"),
        refuse(
            "chain/name-that-the-region-excludes",
            "path",
            "The region may not issue under the name that the leaf has.",
            world.planned(|plan| {
                let excluded = plan.leaf.params.distinguished_name.clone();
                plan.issuers[REGION].params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![],
                    excluded_subtrees: vec![GeneralSubtree::DirectoryName(excluded)],
                });
            }),
        )
        .by("RFC 5280, section 6.1.3 (c)"),
        refuse(
            "chain/name-that-the-region-does-not-permit",
            "path",
            "The region may issue under one organization's name, and the leaf has another's.",
            world.planned(|plan| {
                let mut permitted = rcgen::DistinguishedName::new();
                permitted.push(DnType::OrganizationName, "somebody else");
                plan.issuers[REGION].params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: vec![GeneralSubtree::DirectoryName(permitted)],
                    excluded_subtrees: vec![],
                });
            }),
        )
        .by("RFC 5280, section 6.1.3 (b)"),
    ]
}

fn keys(world: &World) -> Vec<Case> {
    let p384 = "AWS has P-384 throughout; a chain is as strong as its weakest key.";
    let with_point_of = |make: &dyn Fn(&[u8]) -> Vec<u8>| {
        world.planned(|plan| {
            let point = make(plan.leaf.key.point());
            plan.leaf.tbs(with_point(point));
        })
    };
    let points = "SEC 1, section 3.2.2; RFC 5480, section 2.2";
    vec![
        refuse(
            "chain/region-on-p256",
            "not-p384",
            p384,
            world.planned(|plan| plan.issuers[REGION].key = Key::p256("region")),
        )
        .should(),
        refuse(
            "chain/instance-on-p256",
            "not-p384",
            p384,
            world.planned(|plan| plan.issuers[INSTANCE].key = Key::p256("instance")),
        )
        .should(),
        refuse(
            "chain/zone-with-an-rsa-key",
            "not-p384",
            p384,
            world.planned(|plan| plan.issuers[ZONE].key = Key::rsa()),
        )
        .should(),
        refuse(
            "chain/leaf-on-p256",
            "not-p384",
            "The leaf's key is on P-256, and cannot have made a signature of 96 bytes.",
            {
                let mut paper = Plan::new().leaf;
                paper.key = Key::p256("leaf");
                let leaf = paper.issue(Some(&world.chain.issuers[INSTANCE]));
                world.document(&world.payload().set("certificate", bytes(leaf.der)))
            },
        )
        .by("RFC 9053, section 2.1"),
        refuse(
            "chain/curve-by-its-parameters",
            "not-p384",
            "A curve is given by its name; whoever computes on parameters that a certificate brings \
             along can be made to compute on any (CVE-2020-0601). These are P-384's own.",
            world.planned(|plan| {
                plan.issuers[ZONE].tbs(explicit_curve(None));
            }),
        )
        .by("RFC 5480, section 2.1.1"),
        refuse(
            "chain/leaf-key-compressed",
            "not-p384",
            "AWS writes points in full; one encoding is enough.",
            with_point_of(&|point| [&[2 + (point[96] & 1)], &point[1..49]].concat()),
        )
        .by("RFC 5480, section 2.2: the compressed form MAY be supported")
        .should(),
        refuse(
            "chain/leaf-key-hybrid",
            "not-p384",
            "The hybrid form of a point is not one of those that certificates may have.",
            with_point_of(&|point| [&[6 + (point[96] & 1)], &point[1..]].concat()),
        )
        .by("RFC 5480, section 2.2"),
        refuse(
            "chain/leaf-key-not-on-the-curve",
            "not-p384",
            "The point is not on P-384, where no signature is good.",
            with_point_of(&|point| {
                let mut off = point.to_vec();
                off[96] ^= 1;
                off
            }),
        )
        .by(points),
        refuse(
            "chain/leaf-key-of-zeros",
            "not-p384",
            "x and y are zero, which is not on the curve.",
            with_point_of(&|_| [&[4], [0; 96].as_slice()].concat()),
        )
        .by(points),
        refuse(
            "chain/leaf-key-at-infinity",
            "not-p384",
            "The point at infinity is nobody's key.",
            with_point_of(&|_| vec![0]),
        )
        .by(points),
        refuse(
            "chain/leaf-key-cut-short",
            "not-p384",
            "A point has 97 bytes; the last is missing.",
            with_point_of(&|point| point[..96].to_vec()),
        )
        .by(points),
    ]
}

fn encodings(world: &World) -> Vec<Case> {
    let leaf = &world.chain.leaf.der;
    let der = "AWS, attestation_process.md, 2.2: DER encoded";
    let instead = |certificate: Vec<u8>| {
        world.document(&world.payload().set("certificate", bytes(certificate)))
    };
    let in_bundle = |place: usize, certificate: Vec<u8>| {
        let mut bundle = world.chain.cabundle();
        bundle[place] = certificate;
        world.bundled(&bundle)
    };
    let refused =
        |name: &str, why: &str, document| refuse(name, "malformed-certificate", why, document);
    vec![
        refused(
            "chain/zeros-for-a-leaf",
            "What QEMU puts in a certificate's place; without a certificate there is no key, and \
             without a key no signature.",
            {
                let zeros = bytes([0; 64]);
                let payload = world
                    .payload()
                    .set("certificate", zeros.clone())
                    .set("cabundle", array([zeros]));
                let mut parts = world.parts();
                parts.payload = bytes(payload.indefinite());
                parts.signature = bytes([0; 96]);
                parts.to_bytes()
            },
        ),
        refused(
            "chain/zeros-for-a-zone",
            "What is not a certificate has issued nothing.",
            in_bundle(2, vec![0; 64]),
        ),
        refused(
            "chain/leaf-in-pem",
            "Certificates are in DER.",
            instead(crate::pem(leaf).into_bytes()),
        )
        .by(der),
        refused(
            "chain/leaf-with-a-trailing-byte",
            "A byte follows the certificate, and is signed by nobody but the leaf itself.",
            instead([leaf.as_slice(), &[0]].concat()),
        )
        .by(der),
        refused(
            "chain/zone-with-a-trailing-byte",
            "A byte follows the zone's certificate.",
            in_bundle(2, [world.chain.issuers[ZONE].der.as_slice(), &[0]].concat()),
        )
        .by(der),
        refused(
            "chain/leaf-cut-short",
            "The last byte is missing.",
            instead(leaf[..leaf.len() - 1].to_vec()),
        )
        .by(der),
        refused(
            "chain/leaf-of-indefinite-length",
            "DER has no indefinite lengths; the same certificate in BER is other bytes.",
            instead([&[0x30, 0x80], &leaf[4..], &[0, 0]].concat()),
        )
        .by("X.690, section 10.1"),
        refused(
            "chain/leaf-with-a-long-length",
            "DER has lengths in their shortest form; the same certificate in BER is other bytes.",
            instead([&[0x30, 0x83, 0], &leaf[2..]].concat()),
        )
        .by("X.690, section 10.1"),
        refused(
            "chain/key-instead-of-a-leaf",
            "A bare public key says what it is, and nobody vouches for it.",
            instead(Node::parse(leaf).items()[0].items()[KEY].encode()),
        ),
        refused(
            "chain/extension-twice",
            "A certificate has each extension once: one reader would take the first for true, another \
             the second.",
            world.planned(|plan| {
                plan.issuers[ZONE].tbs(|tbs| {
                    let again = extension(tbs, BASIC_CONSTRAINTS).clone();
                    extensions(tbs).push(again);
                });
            }),
        )
        .by("RFC 5280, section 4.2"),
    ]
}

pub fn cases(world: &World) -> Vec<Case> {
    [
        sound(world),
        roots(world),
        order(world),
        signatures(world),
        constraints(world),
        keys(world),
        encodings(world),
    ]
    .concat()
}
