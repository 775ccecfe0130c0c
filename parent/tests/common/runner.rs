//! The runner of test programs that have a `main` of their own: all tests, one after the other, or those whose names contain an
//! argument.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

/// A test, by its name.
pub(crate) type Test = (&'static str, fn());

/// Runs them, and ends the process with 1 if one of them failed.
pub(crate) fn run(tests: &[Test], arguments: &[String]) {
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in tests {
            println!("{name}: test");
        }
        return;
    }
    let wanted: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let mut failed = Vec::new();
    let mut ran = 0;
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        ran += 1;
        let begun = Instant::now();
        let result = std::panic::catch_unwind(AssertUnwindSafe(test));
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {outcome} ({:.2?})", begun.elapsed());
        if result.is_err() {
            failed.push(*name);
        }
    }
    println!(
        "\n{} passed, {} failed: {failed:?}",
        ran - failed.len(),
        failed.len()
    );
    if !failed.is_empty() {
        std::process::exit(1);
    }
}
