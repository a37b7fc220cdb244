//! How much of a fault is injected, the seed it is drawn from, and the line that a test leaves for the table of
//! `cargo lab faults`.

use std::io::Write as _;

use outbox_tests::lab_client::{FAULT_REPORT, FAULT_SEED, FAULTS_FULL};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::checker::Counts;

/// As much of something as this run is for: `short` in CI, `full` with `cargo lab faults --full`.
pub(crate) fn size<T>(short: T, full: T) -> T {
    if std::env::var_os(FAULTS_FULL).is_some() { full } else { short }
}

/// Random numbers that come again: the seed is printed where a failure shows it.
pub(crate) fn random() -> StdRng {
    let seed = std::env::var(FAULT_SEED).map_or(1, |seed| seed.parse().unwrap());
    println!("seed: {FAULT_SEED}={seed}");
    StdRng::seed_from_u64(seed)
}

/// What was injected into a run and what it came to, after its invariants held.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) fault: &'a str,
    pub(crate) injected: usize,
    pub(crate) server: &'a str,
    pub(crate) written: u64,
    /// What arrived; `None` where the test is of something else.
    pub(crate) counts: Option<Counts>,
}

impl Row<'_> {
    /// Adds it to the table.
    pub(crate) fn write(&self) {
        let counts = self.counts.map_or("-\t-\t-".to_owned(), |Counts { arrived, repeats }| {
            format!("{}\t{arrived}\t{repeats}", arrived + repeats)
        });
        let Self { fault, injected, server, written, .. } = self;
        let line = format!("{fault}\t{injected}\t{server}\t{written}\t{counts}\n");
        print!("{line}");
        if let Some(path) = std::env::var_os(FAULT_REPORT) {
            // One short write: tests run side by side.
            let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
    }
}
