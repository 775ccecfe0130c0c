//! The parent sets the clock that it shares with the enclave a year back or forth. What documents say is the time; it is
//! their clock that is moved here, which comes to the same and leaves this machine's alone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::House;
use crate::false_key_service::must_not_talk_to;
use crate::false_service::{Authority, PinnedService, open_from_pinned, seal_for_pinned};
use crate::hostile_parent::HostileParent;
use crate::stage::LINES;

const YEAR: i64 = 365 * 86_400;

fn after(seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    if seconds < 0 { now - by } else { now + by }
}

/// The dates that requests were signed with, as `YYYYMMDD`.
fn dates(heard: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(heard).to_ascii_lowercase();
    let lines = text
        .lines()
        .filter_map(|line| line.strip_prefix("x-amz-date: "));
    lines.map(|line| line.chars().take(8).collect()).collect()
}

fn day(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let moment = jiff::Timestamp::from_second(i64::try_from(seconds).expect("a time"));
    moment.expect("a time").strftime("%Y%m%d").to_string()
}

/// An enclave whose documents are so far ahead of the system's clock.
fn with_documents_ahead(seconds: i64, name: &str) {
    let house = House::new();
    let authority = Authority::named("the image's own");
    // Valid by the documents' time. By the system's clock it has expired, or is not valid yet.
    let pinned = PinnedService::with(
        &house,
        &authority,
        authority.certify_around("127.0.0.1", after(seconds)),
    );
    let enclave = HostileParent::at(&house, name, &pinned.image, &[], seconds);
    let message = seal_for_pinned(LINES);
    let before = day(after(seconds));
    assert_eq!(
        open_from_pinned(
            &enclave
                .call(&message)
                .expect("a call by the documents' time")
        ),
        LINES
    );
    let days = [before, day(after(seconds))];
    pinned.service.heard(|heard| {
        let dates = dates(&heard.plaintext);
        assert!(dates.len() >= 2, "Decrypt and GenerateDataKey are signed");
        assert!(
            dates.iter().all(|date| days.contains(date)),
            "{dates:?} {days:?}"
        );
    });
    // What is valid by the system's clock alone is not valid.
    let reason = if seconds > 0 {
        "it has expired"
    } else {
        "it is not valid yet"
    };
    must_not_talk_to(
        &enclave,
        authority.certify_around("127.0.0.1", SystemTime::now()),
        &message,
        reason,
    );
    assert_eq!(
        open_from_pinned(&enclave.call(&message).expect("an honest call again")),
        LINES
    );
}

#[test]
fn a_clock_that_is_set_back_a_year_revives_no_certificate() {
    with_documents_ahead(YEAR, "back");
}

#[test]
fn a_clock_that_is_set_forth_a_year_dates_no_request() {
    with_documents_ahead(-YEAR, "forth");
}
