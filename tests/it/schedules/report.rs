//! What was run, added up, and kept in docs/reliability.md.

use std::{fmt, fs, path::Path, process::Command, time::Duration};

use super::lane::Ran;
use crate::support::history::Violation;

/// The rows of the runs stand between these lines.
const BEGIN: &str = "<!-- schedules: begin -->";
const END: &str = "<!-- schedules: end -->";

/// Of one run, or of what of it is done.
#[derive(Debug, Default)]
pub struct Tally {
    first_seed: u64,
    /// What was run, though another one is checked out meanwhile.
    commit: String,
    pub schedules: usize,
    faults: usize,
    jobs: usize,
    repeats: usize,
    lost: usize,
    reordered: usize,
    failed: usize,
}

impl Tally {
    pub fn new(first_seed: u64) -> Self {
        Self {
            first_seed,
            commit: commit(),
            ..Self::default()
        }
    }

    pub fn add(&mut self, ran: &Ran) {
        let count = |what: fn(&Violation) -> bool| ran.violations.iter().filter(|v| what(v)).count();
        self.schedules += 1;
        self.faults += ran.faults;
        self.jobs += ran.kept.accepted;
        self.repeats += ran.kept.repeats;
        self.lost += count(|v| matches!(v, Violation::Lost(_)));
        self.reordered += count(|v| matches!(v, Violation::Reordered(_)));
        self.failed += usize::from(ran.failed());
    }

    /// A row of the table: it begins with the seeds, which name the run.
    fn row(&self, took: Duration) -> String {
        let last = self.first_seed + (self.schedules as u64).saturating_sub(1);
        let date = chrono::Utc::now().format("%Y-%m-%d");
        format!(
            "| {}–{last} | {date} | {} | {} | {} | {} | {} | {} | {} | {} | {:.0} min |",
            self.first_seed,
            self.commit,
            self.schedules,
            self.faults,
            self.jobs,
            self.lost,
            self.repeats,
            self.reordered,
            self.failed,
            took.as_secs_f64() / 60.0
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            schedules,
            faults,
            jobs,
            repeats,
            lost,
            reordered,
            failed,
            ..
        } = self;
        write!(
            f,
            "{schedules} schedules, {faults} faults, {jobs} jobs: {lost} lost, {repeats} repeated, {reordered} reordered, {failed} failed"
        )
    }
}

/// Puts the run's row into the table, in the place of an earlier one of the same run.
pub fn write(file: &Path, tally: &Tally, took: Duration) {
    if tally.schedules == 0 {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(&file).expect("the report");
    fs::write(&file, with_row(&text, tally.first_seed, &tally.row(took))).expect("the report is written");
}

fn with_row(text: &str, first_seed: u64, row: &str) -> String {
    let (before, rest) = text.split_once(BEGIN).expect("the table's beginning");
    let (rows, after) = rest.split_once(END).expect("the table's end");
    let of_this_run = format!("| {first_seed}–");
    let mut rows: Vec<&str> = rows
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with(&of_this_run))
        .collect();
    rows.push(row);
    format!("{before}{BEGIN}\n{}\n{END}{after}", rows.join("\n"))
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(head) = git(&["rev-parse", "--short", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let changed = git(&["status", "--porcelain", "--", "src", "migrations"]).is_some_and(|files| !files.is_empty());
    head + if changed { " and changes" } else { "" }
}

mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_row_however_often_it_is_written() {
        let empty = format!("# T\n{BEGIN}\n{END}\nmore\n");
        let once = with_row(&empty, 5, "| 5–6 | a |");
        let twice = with_row(&once, 5, "| 5–9 | b |");
        let both = with_row(&twice, 50, "| 50–60 | c |");
        assert_eq!(both, format!("# T\n{BEGIN}\n| 5–9 | b |\n| 50–60 | c |\n{END}\nmore\n"));
    }
}
