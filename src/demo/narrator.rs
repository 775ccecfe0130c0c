//! Prints the demo: numbered steps, each line with the time it took.

use std::time::Instant;

pub(crate) struct Narrator {
    step: u32,
    since: Instant,
}

impl Narrator {
    pub(crate) fn new() -> Self {
        Self {
            step: 0,
            since: Instant::now(),
        }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: &str) {
        self.step += 1;
        println!();
        println!("{}. {title}", self.step);
        self.since = Instant::now();
    }

    /// Something was done; the time since the last such line stands before it.
    pub(crate) fn done(&mut self, what: &str) {
        let milliseconds = self.since.elapsed().as_secs_f64() * 1000.0;
        println!("   {milliseconds:>7.1} ms  {what}");
        self.since = Instant::now();
    }

    /// A value that matters.
    #[expect(clippy::unused_self, reason = "it is the narrator who speaks")]
    pub(crate) fn fact(&mut self, name: &str, value: &str) {
        println!("               {name}: {value}");
    }

    /// An attempt that was refused, as it must be.
    pub(crate) fn refused(&mut self, attempt: &str, reason: &str) {
        self.done(attempt);
        println!("               refused: {reason}");
    }
}
