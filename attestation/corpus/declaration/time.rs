//! Group `time`: the validity of every certificate to the second, and the document's age to the
//! millisecond. Most cases are judged at an instant that is given, some at the document's own time.

use anchorhold_corpus::Case;
use rcgen::date_time_ymd;

use crate::document::{Payload, signed, unsigned};
use crate::paper::{
    HOUR_MS, LEAF_BEGINS_MS, LEAF_ENDS_MS, MINUTE_MS, NOW_MS, Plan, SECOND_MS, instant,
};
use crate::world::{Say as _, World, admit, aws, refuse};

fn validity(world: &World) -> Vec<Case> {
    let sound = world.sound();
    let second = SECOND_MS;
    let within = "RFC 5280, section 4.1.2.5: both ends belong to the validity";
    let mut cases = vec![
        admit(
            "time/in-the-leafs-first-second",
            "A certificate is valid from its first second on.",
            sound.clone(),
        )
        .by(within)
        .at(LEAF_BEGINS_MS),
        admit(
            "time/in-the-leafs-last-second",
            "A certificate is valid through its last second.",
            sound.clone(),
        )
        .by(within)
        .at(LEAF_ENDS_MS),
        refuse(
            "time/a-second-before-the-leaf",
            "not-yet-valid",
            "The leaf is not valid yet.",
            sound.clone(),
        )
        .by(&aws("3.2.3.1"))
        .at(LEAF_BEGINS_MS - second),
        refuse(
            "time/a-second-after-the-leaf",
            "expired",
            "The leaf is not valid any more.",
            sound.clone(),
        )
        .by(&aws("3.2.3.1"))
        .at(LEAF_ENDS_MS + second),
        refuse(
            "time/a-year-after-the-leaf",
            "expired",
            "A document's certificates live for hours; who judges old ones by today's clock refuses \
             them all.",
            sound.clone(),
        )
        .by(&aws("3.2.3.1"))
        .at(NOW_MS + 365 * 24 * HOUR_MS),
        refuse(
            "time/in-1970",
            "not-yet-valid",
            "A clock that was never set is no reason to skip the check.",
            sound.clone(),
        )
        .by(&aws("3.2.3.1"))
        .at(0),
        admit(
            "time/leaf-over-two-hours-old",
            "Hardware keeps a leaf for three hours, and signs with it to the end.",
            world.document(
                &world
                    .payload()
                    .set("timestamp", unsigned(LEAF_BEGINS_MS + 2 * HOUR_MS + 50 * MINUTE_MS)),
            ),
        )
        .by("AWS's documents")
        .at(LEAF_BEGINS_MS + 2 * HOUR_MS + 50 * MINUTE_MS),
        admit(
            "time/all-certificates-end-this-second",
            "Each certificate is valid through its last second.",
            world.planned(|plan| {
                for paper in plan.issuers.iter_mut().chain([&mut plan.leaf]) {
                    paper.params.not_after = instant(NOW_MS).into();
                }
            }),
        )
        .by(within),
        admit(
            "time/all-certificates-begin-this-second",
            "Each certificate is valid from its first second on.",
            world.planned(|plan| {
                for paper in plan.issuers.iter_mut().chain([&mut plan.leaf]) {
                    paper.params.not_before = instant(NOW_MS).into();
                }
            }),
        )
        .by(within),
        refuse(
            "time/expired-root",
            "expired",
            "The root that is trusted must be valid too.",
            world.planned_under("root-expired", |plan| {
                plan.root.params.not_after = instant(NOW_MS - second).into();
            }),
        )
        .by(&aws("3.2.3.1"))
        .under(&["root-expired"]),
        refuse(
            "time/root-not-yet-valid",
            "not-yet-valid",
            "The root that is trusted must be valid too.",
            world.planned_under("root-of-tomorrow", |plan| {
                plan.root.params.not_before = instant(NOW_MS + second).into();
            }),
        )
        .by(&aws("3.2.3.1"))
        .under(&["root-of-tomorrow"]),
        admit(
            "time/after-2049",
            "From 2050 on certificates give their times in another form, GeneralizedTime.",
            {
                const IN_2052: u64 = 2_593_000_000_000;
                let mut plan = Plan::of("corpus-2052", IN_2052 - MINUTE_MS);
                plan.root.params.not_after = date_time_ymd(2060, 1, 1);
                let chain = plan.issue();
                world.anchor("root-of-2060", &chain.root.der);
                signed(
                    Payload::of(&chain)
                        .set("timestamp", unsigned(IN_2052))
                        .indefinite(),
                    &chain.leaf.key,
                )
            },
        )
        .by("RFC 5280, section 4.1.2.5.2")
        .under(&["root-of-2060"])
        .at(2_593_000_000_000),
        refuse(
            "time/utc-time-with-an-offset",
            "malformed-certificate",
            "Times in certificates end in Z. This leaf begins an hour later than it seems to.",
            world.planned(|plan| {
                plan.leaf.tbs(|tbs| {
                    let begins = tbs.items()[4].items()[0].bytes();
                    begins.pop();
                    begins.extend(b"-0100");
                });
            }),
        )
        .by("RFC 5280, section 4.1.2.5.1")
        .should(),
    ];
    for (index, place) in ["region", "zone", "instance"].into_iter().enumerate() {
        cases.push(
            refuse(
                &format!("time/expired-{place}"),
                "expired",
                &format!(
                    "The {place}'s certificate ended a second ago, and all others are valid: a chain \
                     is as valid as its least."
                ),
                world.planned(|plan| {
                    plan.issuers[index].params.not_after = instant(NOW_MS - second).into();
                }),
            )
            .by(&aws("3.2.3.1")),
        );
        cases.push(
            refuse(
                &format!("time/{place}-not-yet-valid"),
                "not-yet-valid",
                &format!(
                    "The {place}'s certificate begins in a second, and all others are valid: a chain \
                     is as valid as its least."
                ),
                world.planned(|plan| {
                    plan.issuers[index].params.not_before = instant(NOW_MS + second).into();
                }),
            )
            .by(&aws("3.2.3.1")),
        );
    }
    cases
}

fn own_time(world: &World) -> Vec<Case> {
    let made_at = |ms: u64| world.document(&world.payload().set("timestamp", unsigned(ms)));
    vec![
        admit(
            "time/archived-document",
            "Judged at its own timestamp a document stays good for ever.",
            world.sound(),
        )
        .at_its_own_time(),
        refuse(
            "time/archived-document-from-before-its-leaf",
            "not-yet-valid",
            "At the time at which it says that it was made its leaf was not valid yet.",
            made_at(LEAF_BEGINS_MS - 1),
        )
        .by(&aws("3.2.3.1"))
        .at_its_own_time(),
        refuse(
            "time/archived-document-from-after-its-leaf",
            "expired",
            "At the time at which it says that it was made its leaf was not valid any more.",
            made_at(LEAF_ENDS_MS + SECOND_MS),
        )
        .by(&aws("3.2.3.1"))
        .at_its_own_time(),
        refuse(
            "time/timestamp-from-before-the-leaf",
            "timestamp-outside-leaf",
            "The certificates are valid now, but the document says that it was made before there was \
             its key.",
            made_at(LEAF_BEGINS_MS - 1),
        )
        .should(),
        refuse(
            "time/timestamp-from-after-the-leaf",
            "timestamp-outside-leaf",
            "The certificates are valid now, but the document says that it was made after its key was \
             to be used.",
            made_at(LEAF_ENDS_MS + SECOND_MS),
        )
        .should(),
        refuse(
            "time/timestamp-in-seconds",
            "timestamp-outside-leaf",
            "Timestamps are milliseconds: this one says January 1970.",
            made_at(NOW_MS / 1000),
        )
        .by(&aws("2.2"))
        .should(),
    ]
}

fn freshness(world: &World) -> Vec<Case> {
    let sound = world.sound();
    let made_at = |ms: u64| world.document(&world.payload().set("timestamp", unsigned(ms)));
    let five_minutes = 5 * MINUTE_MS;
    let minute = MINUTE_MS;
    vec![
        admit(
            "time/just-made",
            "A document of this very millisecond is fresh by any measure.",
            sound.clone(),
        )
        .fresh(0, 0),
        admit(
            "time/as-old-as-allowed",
            "A document may be as old as is allowed.",
            sound.clone(),
        )
        .at(NOW_MS + five_minutes)
        .fresh(five_minutes, 0),
        refuse(
            "time/a-millisecond-too-old",
            "too-old",
            "A document may not be older than is allowed.",
            sound.clone(),
        )
        .at(NOW_MS + five_minutes + 1)
        .fresh(five_minutes, minute),
        refuse(
            "time/a-second-too-old",
            "too-old",
            "A document may not be older than is allowed.",
            sound.clone(),
        )
        .at(NOW_MS + five_minutes + SECOND_MS)
        .fresh(five_minutes, minute),
        refuse(
            "time/two-hours-old-under-a-valid-leaf",
            "too-old",
            "That the certificates are still valid says nothing about a document's freshness: this may \
             be a replay.",
            sound.clone(),
        )
        .by(&aws("2.2.2"))
        .at(NOW_MS + 2 * HOUR_MS)
        .fresh(five_minutes, minute),
        admit(
            "time/as-far-ahead-as-allowed",
            "Clocks differ, by as much as is allowed.",
            made_at(NOW_MS + minute),
        )
        .fresh(five_minutes, minute),
        refuse(
            "time/a-millisecond-too-far-ahead",
            "from-the-future",
            "A document from the future stays fresh for longer than is allowed.",
            made_at(NOW_MS + minute + 1),
        )
        .fresh(five_minutes, minute),
        refuse(
            "time/an-hour-ahead",
            "from-the-future",
            "A document from the future stays fresh for longer than is allowed; the leaf is valid at \
             both times.",
            made_at(NOW_MS + HOUR_MS),
        )
        .fresh(five_minutes, minute),
        refuse(
            "time/fresh-under-an-expired-leaf",
            "expired",
            "A document from a second before its leaf's end is fresh a second after it, and its leaf is \
             not valid any more.",
            made_at(LEAF_ENDS_MS - SECOND_MS),
        )
        .at(LEAF_ENDS_MS + SECOND_MS)
        .fresh(five_minutes, minute),
    ]
}

pub fn cases(world: &World) -> Vec<Case> {
    [validity(world), own_time(world), freshness(world)].concat()
}
