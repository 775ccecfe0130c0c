//! What is declared beside what is found, and the steps from one to the other. Pure: no clock, no process, no file.
//!
//! It is asked again after everything that happens, and always answers from all that is known, so that it does not matter what
//! was missed. What it must never say: to end the one instance that serves a declared enclave before another one is admitted; to
//! start a second one while one starts; to touch an enclave that no declaration stands for.

use std::collections::BTreeMap;

use super::config::Restart;

/// What a declaration says, as far as it decides here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// What an instance is started as; another text means another instance.
    pub core: String,
    /// What can be changed in a running one; another number means that it is to be applied again.
    pub revision: u64,
    /// When it is started again.
    pub restart: Restart,
    /// Somebody has stopped it by hand.
    pub held: bool,
}

/// How far an instance has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its supervisor was started, and it does not serve yet.
    Starting,
    /// It serves, and was not asked who it is.
    Serving,
    /// Its document is being fetched and verified.
    Asked,
    /// It is what was declared.
    Admitted,
    /// It takes nothing new and ends with what it has.
    Draining,
    /// It was told to end.
    Ending,
    /// It has ended, with this exit code where it had one.
    Ended(Option<i32>),
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its own name.
    pub instance: String,
    /// The declared enclave that it is an instance of; `None`: somebody else's.
    pub of: Option<String>,
    /// What it was started as.
    pub core: Option<String>,
    /// How far it has come.
    pub stage: Stage,
    /// When, in ms since 1970.
    pub started_ms: u64,
    /// The revision that was applied to it.
    pub revision: Option<u64>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Start an instance of a declared enclave.
    Start(String),
    /// Have an instance attest.
    Ask(String),
    /// Apply what can be changed while it runs: listening sockets, egress, secrets.
    Apply(String),
    /// Take nothing new, end with what there is.
    Drain(String),
    /// End now.
    End(String),
}

/// The steps that are due. `may_start` says of a declared enclave whether its time to start has come.
pub fn steps(
    wishes: &BTreeMap<String, Wish>,
    found: &[Found],
    may_start: impl Fn(&str) -> bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for (name, wish) in wishes {
        let own: Vec<&Found> = found
            .iter()
            .filter(|found| found.of.as_ref() == Some(name))
            .collect();
        one(name, wish, &own, may_start(name), &mut steps);
    }
    for found in found {
        let Some(of) = &found.of else { continue };
        if wishes.contains_key(of) {
            continue;
        }
        // It was declared, and is no more.
        match found.stage {
            Stage::Serving | Stage::Admitted => steps.push(Step::Drain(found.instance.clone())),
            Stage::Starting | Stage::Asked | Stage::Draining | Stage::Ending | Stage::Ended(_) => {}
        }
    }
    steps
}

fn one(name: &str, wish: &Wish, own: &[&Found], may_start: bool, steps: &mut Vec<Step>) {
    let is_current = |found: &&&Found| found.core.as_ref() == Some(&wish.core);
    if wish.held {
        for found in own {
            if matches!(found.stage, Stage::Serving | Stage::Admitted) {
                steps.push(Step::Drain(found.instance.clone()));
            }
        }
        return;
    }
    // The oldest that was admitted stays: whoever has its address keeps it.
    let serving = own
        .iter()
        .filter(is_current)
        .filter(|found| found.stage == Stage::Admitted)
        .min_by_key(|found| (found.started_ms, &found.instance));
    // One that is ending says how only when it has, and that decides about the next.
    let coming = own.iter().filter(is_current).any(|found| {
        matches!(
            found.stage,
            Stage::Starting | Stage::Serving | Stage::Asked | Stage::Ending
        )
    });
    if let Some(serving) = serving
        && serving.revision != Some(wish.revision)
    {
        steps.push(Step::Apply(serving.instance.clone()));
    }
    for found in own {
        let is_other = serving.is_none_or(|serving| serving.instance != found.instance);
        match found.stage {
            Stage::Serving if is_current(&found) && serving.is_none() => {
                steps.push(Step::Ask(found.instance.clone()));
            }
            // Neither what is wanted nor what was: nobody has ever been let to it.
            Stage::Serving => steps.push(Step::End(found.instance.clone())),
            // Only once another has taken over, or has done all that it was declared for.
            Stage::Admitted if is_other => {
                let is_over = serving.is_none() && !coming && !is_due(wish, own);
                let taken_over = serving.is_some_and(|one| one.revision == Some(wish.revision));
                if taken_over || is_over {
                    steps.push(Step::Drain(found.instance.clone()));
                }
            }
            _ => {}
        }
    }
    if serving.is_none() && !coming && may_start && is_due(wish, own) {
        steps.push(Step::Start(name.to_owned()));
    }
}

/// Whether the restart policy wants another start.
fn is_due(wish: &Wish, own: &[&Found]) -> bool {
    let last = own
        .iter()
        .filter(|found| found.core.as_ref() == Some(&wish.core))
        .filter_map(|found| match found.stage {
            Stage::Ended(code) => Some((found.started_ms, code)),
            _ => None,
        })
        .max_by_key(|(started_ms, _)| *started_ms);
    match (wish.restart, last) {
        (_, None) | (Restart::Always, _) => true,
        (Restart::OnFailure, Some((_, code))) => code != Some(0),
        (Restart::Never, Some(_)) => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's failure may be a panic")]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn wish(core: &str) -> Wish {
        Wish {
            core: core.into(),
            revision: 1,
            restart: Restart::Always,
            held: false,
        }
    }

    fn found(instance: &str, core: &str, stage: Stage) -> Found {
        Found {
            instance: instance.into(),
            of: Some("cards".into()),
            core: Some(core.into()),
            stage,
            started_ms: instance.bytes().map(u64::from).sum(),
            revision: Some(1),
        }
    }

    fn of(wish: Wish, found: &[Found]) -> Vec<Step> {
        steps(&BTreeMap::from([("cards".to_owned(), wish)]), found, |_| {
            true
        })
    }

    #[test]
    fn what_is_declared_and_not_there_is_started_once() {
        assert_eq!(of(wish("v1"), &[]), [Step::Start("cards".into())]);
        for stage in [Stage::Starting, Stage::Asked, Stage::Ending] {
            assert_eq!(of(wish("v1"), &[found("a", "v1", stage)]), []);
        }
        let serving = found("a", "v1", Stage::Serving);
        assert_eq!(of(wish("v1"), &[serving]), [Step::Ask("a".into())]);
    }

    #[test]
    fn a_new_version_takes_over_before_the_old_one_drains() {
        let old = found("a", "v1", Stage::Admitted);
        assert_eq!(
            of(wish("v2"), std::slice::from_ref(&old)),
            [Step::Start("cards".into())]
        );
        let mut new = found("b", "v2", Stage::Serving);
        assert_eq!(
            of(wish("v2"), &[old.clone(), new.clone()]),
            [Step::Ask("b".into())]
        );
        new.stage = Stage::Admitted;
        new.revision = None;
        assert_eq!(
            of(wish("v2"), &[old.clone(), new.clone()]),
            [Step::Apply("b".into())]
        );
        new.revision = Some(1);
        assert_eq!(of(wish("v2"), &[old, new]), [Step::Drain("a".into())]);
    }

    #[test]
    fn a_reload_that_changes_settings_touches_nothing_else() {
        let running = found("a", "v1", Stage::Admitted);
        assert_eq!(of(wish("v1"), std::slice::from_ref(&running)), []);
        let changed = Wish {
            revision: 2,
            ..wish("v1")
        };
        assert_eq!(of(changed, &[running]), [Step::Apply("a".into())]);
    }

    #[test]
    fn restart_policies_look_at_how_the_last_one_ended() {
        for (restart, code, starts) in [
            (Restart::Always, Some(0), true),
            (Restart::OnFailure, Some(0), false),
            (Restart::OnFailure, Some(1), true),
            (Restart::OnFailure, None, true),
            (Restart::Never, Some(1), false),
        ] {
            let wish = Wish {
                restart,
                ..wish("v1")
            };
            let ended = found("a", "v1", Stage::Ended(code));
            assert_eq!(
                of(wish.clone(), &[ended]).len(),
                usize::from(starts),
                "{restart:?}"
            );
            // One of another version says nothing about this one.
            let other = found("a", "v0", Stage::Ended(code));
            assert_eq!(of(wish, &[other]).len(), 1);
        }
    }

    #[test]
    fn what_was_taken_away_or_stopped_by_hand_drains() {
        let running = found("a", "v1", Stage::Admitted);
        let drain = [Step::Drain("a".into())];
        assert_eq!(
            steps(&BTreeMap::new(), std::slice::from_ref(&running), |_| true),
            drain
        );
        let held = Wish {
            held: true,
            ..wish("v1")
        };
        assert_eq!(of(held, &[running]), drain);
    }

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![
            Just(Stage::Starting),
            Just(Stage::Serving),
            Just(Stage::Asked),
            Just(Stage::Admitted),
            Just(Stage::Draining),
            Just(Stage::Ending),
            Just(Stage::Ended(None)),
            Just(Stage::Ended(Some(0))),
        ]
    }

    fn world() -> impl Strategy<Value = (BTreeMap<String, Wish>, Vec<Found>)> {
        let name = || prop::sample::select(vec!["x", "y", "z"]);
        let core = || prop::sample::select(vec!["v1", "v2"]);
        let restart =
            prop::sample::select(vec![Restart::Always, Restart::OnFailure, Restart::Never]);
        let wish = (core(), 0..3u64, restart, prop::bool::weighted(0.2));
        let wish = wish.prop_map(|(core, revision, restart, held)| Wish {
            core: core.into(),
            revision,
            restart,
            held,
        });
        let found = (
            prop::option::of(name()),
            core(),
            stage(),
            0..5u64,
            prop::option::of(0..3u64),
        );
        (
            prop::collection::btree_map(name().prop_map(str::to_owned), wish, 0..3),
            prop::collection::vec(found, 0..8),
        )
            .prop_map(|(wishes, found)| {
                let found = found
                    .into_iter()
                    .enumerate()
                    .map(|(n, (of, core, stage, started_ms, revision))| Found {
                        instance: format!("i{n}"),
                        of: of.map(str::to_owned),
                        core: Some(core.into()),
                        stage,
                        started_ms,
                        revision,
                    })
                    .collect();
                (wishes, found)
            })
    }

    proptest! {
        #[test]
        fn nobody_elses_enclave_is_touched_and_the_one_that_serves_stays_until_another_does(
            (wishes, found) in world()
        ) {
            let steps = steps(&wishes, &found, |_| true);
            let by_name = |name: &String| found.iter().find(|found| &found.instance == name).unwrap();
            for (at, step) in steps.iter().enumerate() {
                prop_assert!(!steps[..at].contains(step), "{step:?} twice");
                let instance = match step {
                    Step::Start(name) => {
                        prop_assert!(!wishes[name].held);
                        let current = found.iter().filter(|found| {
                            found.of.as_ref() == Some(name) && found.core.as_ref() == Some(&wishes[name].core)
                        });
                        for current in current {
                            prop_assert!(matches!(current.stage, Stage::Draining | Stage::Ending | Stage::Ended(_)));
                        }
                        continue;
                    }
                    Step::Ask(instance) | Step::Apply(instance) | Step::Drain(instance) | Step::End(instance) => by_name(instance),
                };
                prop_assert!(instance.of.is_some());
                if let Step::Drain(_) | Step::End(_) = step
                    && instance.stage == Stage::Admitted
                    && let Some(wish) = wishes.get(instance.of.as_ref().unwrap())
                    && !wish.held
                    && is_due(wish, &found.iter().filter(|found| found.of == instance.of).collect::<Vec<_>>())
                {
                    let another = found.iter().any(|other| {
                        other.instance != instance.instance
                            && other.of == instance.of
                            && other.stage == Stage::Admitted
                            && other.core.as_ref() == Some(&wish.core)
                            && !steps.contains(&Step::Drain(other.instance.clone()))
                    });
                    prop_assert!(another, "{instance:?} ends, and nobody serves");
                }
            }
        }

        /// Each step done as it should, in any world, leads to one instance of each declared enclave and nothing else.
        #[test]
        fn steps_lead_to_what_is_declared_and_then_to_rest((wishes, mut found) in world()) {
            let mut next = 0;
            for _ in 0..64 {
                // What is under way comes to its end.
                for found in &mut found {
                    found.stage = match found.stage {
                        Stage::Starting => Stage::Serving,
                        Stage::Asked => Stage::Admitted,
                        Stage::Draining | Stage::Ending => Stage::Ended(None),
                        stage => stage,
                    };
                }
                let due = steps(&wishes, &found, |_| true);
                if due.is_empty() {
                    break;
                }
                for step in due {
                    let mut change = |name: &String, stage| {
                        found.iter_mut().find(|found| &found.instance == name).unwrap().stage = stage;
                    };
                    match step {
                        Step::Ask(name) => change(&name, Stage::Asked),
                        Step::Drain(name) => change(&name, Stage::Draining),
                        Step::End(name) => change(&name, Stage::Ending),
                        Step::Apply(name) => {
                            let one = found.iter_mut().find(|found| found.instance == name).unwrap();
                            one.revision = Some(wishes[one.of.as_ref().unwrap()].revision);
                        }
                        Step::Start(name) => {
                            next += 1;
                            found.push(Found {
                                instance: format!("n{next}"),
                                core: Some(wishes[&name].core.clone()),
                                of: Some(name),
                                stage: Stage::Starting,
                                started_ms: 100 + next,
                                revision: None,
                            });
                        }
                    }
                }
            }
            prop_assert_eq!(steps(&wishes, &found, |_| true), []);
            for (name, wish) in &wishes {
                let running: Vec<_> = found
                    .iter()
                    .filter(|found| found.of.as_ref() == Some(name) && !matches!(found.stage, Stage::Ended(_)))
                    .collect();
                prop_assert!(running.len() <= 1, "{running:?}");
                if wish.restart == Restart::Always {
                    prop_assert_eq!(running.len(), usize::from(!wish.held));
                }
                for running in running {
                    prop_assert_eq!(running.core.as_ref(), Some(&wish.core));
                    prop_assert_eq!(running.revision, Some(wish.revision));
                }
            }
        }
    }
}
