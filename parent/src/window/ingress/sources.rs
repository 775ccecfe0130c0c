//! Who may come in: places and rates, of each source and in all, in a table that does not grow with the number of sources.
//!
//! Pure: moments come in as arguments. A source is remembered for as long as anything counts against it (a place, a debt), and
//! no longer than needed; who is remembered is never forgotten to make room. When the table is full of such, new sources share
//! one entry, and one source's limits, until there is room again. So a source has at most twice what it may have: its own, and
//! what is shared.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::super::counts::Reason;

/// Time since some beginning.
pub(super) type Moment = Duration;

/// Who connects, as far as it is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// An IPv4 address.
    Four(Ipv4Addr),
    /// The first 64 bits of an IPv6 address: whoever has one address of such a network has all of them.
    Six(u64),
    /// A user of this host, by its number.
    User(u32),
    /// Those for whom the table has no room.
    Others,
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::Four(address),
            IpAddr::V6(address) => Source::Six((address.to_bits() >> 64) as u64),
        }
    }
}

/// So many in a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// At least 1.
    pub(super) per_second: u64,
    /// At least 1.
    pub(super) at_once: u64,
}

/// What counts against somebody, in units of 10⁻⁹: it fades by the rate.
#[derive(Debug, Clone, Copy, Default)]
struct Debt {
    amount: u128,
    at: Moment,
}

const UNIT: u128 = 1_000_000_000;

impl Debt {
    fn now(&self, now: Moment, rate: Rate) -> u128 {
        let faded = now.saturating_sub(self.at).as_nanos() * u128::from(rate.per_second);
        self.amount.saturating_sub(faded)
    }

    /// How many more there may be now.
    fn room(&self, now: Moment, rate: Rate) -> u64 {
        let most = u128::from(rate.at_once) * UNIT;
        let room = most.saturating_sub(self.now(now, rate)) / UNIT;
        u64::try_from(room).unwrap_or(u64::MAX)
    }

    fn add(&mut self, now: Moment, rate: Rate, count: u64) {
        self.amount = self.now(now, rate) + u128::from(count) * UNIT;
        self.at = self.at.max(now);
    }

    /// When there will be room for so many.
    fn room_at(&self, now: Moment, rate: Rate, count: u64) -> Moment {
        let most = u128::from(rate.at_once.saturating_sub(count)) * UNIT;
        let over = self.now(now, rate).saturating_sub(most);
        let nanos = over.div_ceil(u128::from(rate.per_second.max(1)));
        now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
    }
}

/// How much there may be. A rate that is absent is without a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Connections at once.
    pub(super) connections: u32,
    pub(super) of_source: u32,
    /// New connections.
    pub(super) new: Option<Rate>,
    pub(super) new_of_source: Option<Rate>,
    /// Bytes, both ways together.
    pub(super) bytes: Option<Rate>,
    pub(super) bytes_of_source: Option<Rate>,
    /// Sources that are told apart at once.
    pub(super) sources: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    open: u32,
    new: Debt,
    bytes: Debt,
}

impl Entry {
    /// When nothing counts against it any more, apart from places.
    fn forgettable(&self, bounds: &Bounds) -> Moment {
        let fades = |debt: &Debt, rate: Option<Rate>| {
            rate.map_or(Moment::ZERO, |rate| {
                debt.room_at(debt.at, rate, rate.at_once)
            })
        };
        fades(&self.new, bounds.new_of_source).max(fades(&self.bytes, bounds.bytes_of_source))
    }
}

/// A place that was given. It must be given back by [`Admission::leave`].
#[derive(Debug)]
pub(super) struct Ticket(Option<Source>);

/// All who came in, and what counts against whom.
#[derive(Debug)]
pub(super) struct Admission {
    bounds: Bounds,
    open: u32,
    new: Debt,
    bytes: Debt,
    sources: HashMap<Source, Entry>,
    others: Entry,
    /// Those without a place, by when they may be forgotten.
    leaving: BTreeSet<(Moment, Source)>,
}

impl Admission {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            open: 0,
            new: Debt::default(),
            bytes: Debt::default(),
            sources: HashMap::new(),
            others: Entry::default(),
            leaving: BTreeSet::new(),
        }
    }

    /// Other bounds from now on. Whoever is in stays in.
    pub(super) fn change(&mut self, bounds: Bounds) {
        self.bounds = bounds;
        self.leaving = self
            .sources
            .iter()
            .filter(|(_, entry)| entry.open == 0)
            .map(|(source, entry)| (entry.forgettable(&bounds), *source))
            .collect();
    }

    /// Gives a place to somebody of whom only later is known who it is: [`Admission::name`].
    pub(super) fn enter(&mut self, now: Moment) -> Result<Ticket, Reason> {
        self.has_room(now)?;
        self.take(now);
        Ok(Ticket(None))
    }

    /// Gives a place to a source.
    pub(super) fn come(&mut self, now: Moment, source: Source) -> Result<Ticket, Reason> {
        self.has_room(now)?;
        // Whoever is refused costs the others nothing.
        let source = self.take_of_source(now, source)?;
        self.take(now);
        Ok(Ticket(Some(source)))
    }

    /// Says whose a place is. Where it is refused, the place must still be given back.
    pub(super) fn name(
        &mut self,
        now: Moment,
        ticket: &mut Ticket,
        source: Source,
    ) -> Result<(), Reason> {
        if ticket.0.is_none() {
            ticket.0 = Some(self.take_of_source(now, source)?);
        }
        Ok(())
    }

    fn has_room(&self, now: Moment) -> Result<(), Reason> {
        if self.open >= self.bounds.connections {
            return Err(Reason::Full);
        }
        match self.bounds.new {
            Some(rate) if self.new.room(now, rate) == 0 => Err(Reason::Fast),
            _ => Ok(()),
        }
    }

    fn take(&mut self, now: Moment) {
        self.open += 1;
        if let Some(rate) = self.bounds.new {
            self.new.add(now, rate, 1);
        }
    }

    fn take_of_source(&mut self, now: Moment, source: Source) -> Result<Source, Reason> {
        // A few each time, so that the table shrinks without anybody waiting for it.
        for _ in 0..2 {
            let Some((forgettable, gone)) = self.leaving.first().copied() else {
                break;
            };
            if forgettable > now {
                break;
            }
            self.leaving.remove(&(forgettable, gone));
            self.sources.remove(&gone);
        }
        let source =
            if self.sources.contains_key(&source) || self.sources.len() < self.bounds.sources {
                source
            } else {
                Source::Others
            };
        let bounds = self.bounds;
        let known = self.entry(source).copied();
        let mut entry = known.unwrap_or_default();
        if entry.open >= bounds.of_source {
            return Err(Reason::SourceFull);
        }
        let forgettable = entry.forgettable(&bounds);
        if let Some(rate) = bounds.new_of_source {
            if entry.new.room(now, rate) == 0 {
                return Err(Reason::SourceFast);
            }
            entry.new.add(now, rate, 1);
        }
        self.leaving.remove(&(forgettable, source));
        entry.open += 1;
        match source {
            Source::Others => self.others = entry,
            _ => {
                self.sources.insert(source, entry);
            }
        }
        Ok(source)
    }

    fn entry(&mut self, source: Source) -> Option<&mut Entry> {
        match source {
            Source::Others => Some(&mut self.others),
            _ => self.sources.get_mut(&source),
        }
    }

    /// Takes a place back.
    #[expect(clippy::needless_pass_by_value, reason = "a place is given back once")]
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.open = self.open.saturating_sub(1);
        let Some(source) = ticket.0 else {
            return;
        };
        let bounds = self.bounds;
        let Some(entry) = self.entry(source) else {
            return;
        };
        entry.open = entry.open.saturating_sub(1);
        if entry.open == 0 && source != Source::Others {
            let forgettable = entry.forgettable(&bounds);
            self.leaving.insert((forgettable, source));
        }
    }

    /// Places that are taken.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// Whether bytes are counted at all.
    pub(super) fn has_pace(&self) -> bool {
        self.bounds.bytes.is_some() || self.bounds.bytes_of_source.is_some()
    }

    /// How many bytes may pass now, at most `most`; or when to ask again. What may pass is not a single byte now and then: it
    /// waits until `least` may, or as many as ever.
    pub(super) fn bytes(
        &mut self,
        now: Moment,
        ticket: &Ticket,
        most: u64,
        least: u64,
    ) -> Result<u64, Moment> {
        let Bounds {
            bytes,
            bytes_of_source,
            ..
        } = self.bounds;
        let of_source = ticket.0.and_then(|source| self.entry(source).copied());
        let mut allowed = most;
        let mut wait = None;
        for (debt, rate) in [
            (Some(self.bytes), bytes),
            (of_source.map(|entry| entry.bytes), bytes_of_source),
        ] {
            if let (Some(debt), Some(rate)) = (debt, rate) {
                let least = least.min(rate.at_once).min(most);
                let room = debt.room(now, rate);
                if room < least {
                    let at = debt.room_at(now, rate, least);
                    wait = Some(wait.map_or(at, |other: Moment| other.max(at)));
                }
                allowed = allowed.min(room);
            }
        }
        match wait {
            // A moment that has come already would be asked for again and again.
            Some(at) => Err(at.max(now + Duration::from_micros(100))),
            None => Ok(allowed.max(1)),
        }
    }

    /// So many bytes have passed.
    pub(super) fn spend(&mut self, now: Moment, ticket: &Ticket, bytes: u64) {
        if let Some(rate) = self.bounds.bytes {
            self.bytes.add(now, rate, bytes);
        }
        if let (Some(rate), Some(source)) = (self.bounds.bytes_of_source, ticket.0)
            && let Some(entry) = self.entry(source)
        {
            entry.bytes.add(now, rate, bytes);
        }
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.sources.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        connections: 6,
        of_source: 2,
        new: Some(Rate {
            per_second: 8,
            at_once: 5,
        }),
        new_of_source: Some(Rate {
            per_second: 2,
            at_once: 3,
        }),
        bytes: None,
        bytes_of_source: None,
        sources: 4,
    };

    fn source(number: u8) -> Source {
        Source::Four(Ipv4Addr::new(192, 0, 2, number))
    }

    fn ms(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    #[test]
    fn sources_are_told_apart_by_address_network_and_user() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8:0:0:ffff::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    #[test]
    fn places_and_rates_are_bounded_for_each_source_and_in_all() {
        let mut admission = Admission::new(BOUNDS);
        let first = admission.come(ms(0), source(1)).unwrap();
        let _second = admission.come(ms(0), source(1)).unwrap();
        assert_eq!(
            admission.come(ms(0), source(1)).unwrap_err(),
            Reason::SourceFull
        );
        admission.leave(first);
        let third = admission.come(ms(0), source(1)).unwrap();
        admission.leave(third);
        assert_eq!(
            admission.come(ms(0), source(1)).unwrap_err(),
            Reason::SourceFast
        );
        assert_eq!(
            admission.come(ms(499), source(1)).unwrap_err(),
            Reason::SourceFast
        );
        let _fourth = admission.come(ms(500), source(1)).unwrap();
        for number in 2..=4 {
            let _ = admission.come(ms(500), source(number)).unwrap();
        }
        let _ = admission.come(ms(600), source(2)).unwrap();
        assert_eq!(
            admission.come(ms(600), source(3)).unwrap_err(),
            Reason::Full
        );
    }

    #[test]
    fn a_flood_of_one_source_does_not_use_up_what_all_have() {
        let mut admission = Admission::new(BOUNDS);
        let mut in_ = 0;
        for _ in 0..1000 {
            if let Ok(ticket) = admission.come(ms(0), source(1)) {
                in_ += 1;
                admission.leave(ticket);
            }
        }
        assert_eq!(in_, 3);
        assert!(admission.come(ms(0), source(2)).is_ok());
    }

    #[test]
    fn who_has_something_against_him_is_not_forgotten_to_make_room() {
        let bounds = Bounds {
            connections: 1000,
            new: None,
            ..BOUNDS
        };
        let mut admission = Admission::new(bounds);
        // Punished: its rate is used up.
        for _ in 0..3 {
            let ticket = admission.come(ms(0), source(1)).unwrap();
            admission.leave(ticket);
        }
        for number in 2..=4 {
            let _kept = admission.come(ms(0), source(number)).unwrap();
        }
        assert_eq!(admission.remembered(), 4);
        // Many more sources: they share what one source has.
        let mut shared = Vec::new();
        for number in 10..200 {
            shared.extend(admission.come(ms(1), source(number)));
        }
        assert_eq!(shared.len(), 2);
        assert_eq!(admission.remembered(), 4);
        assert_eq!(
            admission.come(ms(1), source(1)).unwrap_err(),
            Reason::SourceFast
        );
        // When nothing counts against it any more it is forgotten, and there is room.
        let later = admission.come(ms(1500), source(200)).unwrap();
        assert_eq!(later.0, Some(source(200)));
        assert_eq!(admission.remembered(), 4);
    }

    #[test]
    fn bytes_are_paced_for_each_source_and_in_all() {
        let rate = |per_second, at_once| {
            Some(Rate {
                per_second,
                at_once,
            })
        };
        let bounds = Bounds {
            bytes: rate(1000, 1000),
            bytes_of_source: rate(100, 200),
            ..BOUNDS
        };
        let mut admission = Admission::new(bounds);
        let ticket = admission.come(ms(0), source(1)).unwrap();
        let other = admission.come(ms(0), source(2)).unwrap();
        assert_eq!(admission.bytes(ms(0), &ticket, 500, 50), Ok(200));
        admission.spend(ms(0), &ticket, 200);
        assert_eq!(admission.bytes(ms(0), &ticket, 500, 50), Err(ms(500)));
        assert_eq!(admission.bytes(ms(500), &ticket, 500, 50), Ok(50));
        assert_eq!(admission.bytes(ms(0), &other, 500, 50), Ok(200));
        // More than there was room for, as a read may bring: it is paid back first.
        admission.spend(ms(0), &other, 1200);
        assert_eq!(admission.bytes(ms(0), &ticket, 1, 1), Err(ms(401)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Wait(u64),
        Come(u8),
        Leave(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u64..2000).prop_map(Step::Wait),
            (0u8..8).prop_map(Step::Come),
            (0u8..8).prop_map(Step::Come),
            (0usize..8).prop_map(Step::Leave),
        ]
    }

    proptest! {
        /// Against a reference that remembers everything for ever.
        #[test]
        fn no_bound_is_ever_passed_and_the_table_stays_small(
            steps in proptest::collection::vec(step(), 0..200),
            has_room: bool,
        ) {
            // Where the table is too small, a source may have what is shared beside its own.
            let (sources, times) = if has_room { (8, 1) } else { (4, 2) };
            let mut admission = Admission::new(Bounds { sources, ..BOUNDS });
            let mut now = Moment::ZERO;
            let mut inside: Vec<(u8, Ticket)> = Vec::new();
            let mut came: BTreeMap<u8, Vec<Moment>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Wait(more) => now += ms(more),
                    Step::Come(number) => {
                        if let Ok(ticket) = admission.come(now, source(number)) {
                            inside.push((number, ticket));
                            came.entry(number).or_default().push(now);
                        }
                    }
                    Step::Leave(at) if at < inside.len() => {
                        let (_, ticket) = inside.swap_remove(at);
                        admission.leave(ticket);
                    }
                    Step::Leave(_) => {}
                }
                prop_assert!(inside.len() <= 6);
                prop_assert!(admission.remembered() <= sources);
                prop_assert_eq!(admission.open as usize, inside.len());
                for number in 0..8 {
                    prop_assert!(inside.iter().filter(|(of, _)| *of == number).count() <= 2 * times);
                }
            }
            let everybody: Vec<Moment> = {
                let mut all: Vec<Moment> = came.values().flatten().copied().collect();
                all.sort();
                all
            };
            let holds = |moments: &[Moment], rate: Rate, times: usize| {
                (0..moments.len()).all(|first| {
                    (first..moments.len()).all(|last| {
                        let window = moments[last].saturating_sub(moments[first]).as_nanos();
                        let most = u128::from(rate.at_once) * UNIT
                            + window * u128::from(rate.per_second);
                        (last - first + 1) as u128 * UNIT <= times as u128 * most
                    })
                })
            };
            prop_assert!(holds(&everybody, BOUNDS.new.unwrap(), 1));
            for moments in came.values() {
                // Forgetting a source never gives it more than remembering would have.
                prop_assert!(holds(moments, BOUNDS.new_of_source.unwrap(), times));
            }
        }
    }
}
