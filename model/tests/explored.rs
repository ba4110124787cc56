//! Every scope is explored whole, every wrong variant is caught, and what docs/model.md says of both is what was seen.
//! `UPDATE_COMMITTED=1 cargo test -p outbox-model` writes the figures and the traces anew.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use outbox_model::{Subject, checker::Explored, everything};

#[test]
fn every_scope_holds_in_every_state() {
    let mut table = String::from("| scope | states | steps to the farthest | states at rest |\n|---|---|---|---|\n");
    let mut all = 0;
    for (subject, seen) in explore_all(|subject| subject.wrong.is_none()) {
        if let Some(violation) = seen.violation {
            panic!("{}: {}\n{}", subject.name, violation.rule, violation.trace.join("\n"));
        }
        assert!(seen.at_rest > 0, "{}: nothing ever comes to rest", subject.name);
        all += seen.states;
        let states = grouped(seen.states);
        writeln!(
            table,
            "| {} | {states} | {} | {} |",
            subject.name, seen.depth, seen.at_rest
        )
        .expect("a String");
    }
    writeln!(table, "| all | {} | | |", grouped(all)).expect("a String");
    println!("{table}");
    compare_part(&repository().join("docs/model.md"), "scopes", &table);
}

#[test]
fn every_wrong_variant_is_caught_by_a_shortest_trace() {
    let mut table = String::from("| wrong variant | breaks | in so many steps |\n|---|---|---|\n");
    let subjects = explore_all(|subject| subject.wrong.is_some());
    assert!(subjects.len() >= 30, "{} variants", subjects.len());
    for (subject, seen) in subjects {
        let Some(violation) = seen.violation else {
            panic!("{} is not caught in {} states", subject.name, seen.states);
        };
        assert_eq!(
            Some(violation.rule),
            subject.wrong,
            "{}:\n{}",
            subject.name,
            violation.trace.join("\n")
        );
        let trace = format!("{}\n\n{}\n", violation.trace.join("\n"), violation.rule);
        compare(&repository().join(format!("model/traces/{}.txt", subject.name)), &trace);
        let link = format!("[{0}](../model/traces/{0}.txt)", subject.name);
        writeln!(table, "| {link} | {} | {} |", violation.rule, violation.trace.len()).expect("a String");
    }
    compare_part(&repository().join("docs/model.md"), "wrong variants", &table);
}

/// On all processors; in the order of the list.
fn explore_all(wanted: impl Fn(&Subject) -> bool) -> Vec<(Subject, Explored)> {
    let subjects: Vec<_> = everything().into_iter().filter(wanted).collect();
    let next = AtomicUsize::new(0);
    let seen: Vec<Mutex<Option<Explored>>> = subjects.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < subjects.len()) {
                    *seen[n].lock().expect("nobody panics here") = Some((subjects[n].explore)());
                }
            });
        }
    });
    let seen = seen
        .into_iter()
        .map(|s| s.into_inner().expect("as above").expect("explored"));
    subjects.into_iter().zip(seen).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The part of a document between two comments that name it.
fn compare_part(file: &Path, part: &str, expected: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let (begin, end) = (format!("<!-- {part}: begin -->\n"), format!("<!-- {part}: end -->"));
    let from = text.find(&begin).unwrap_or_else(|| panic!("{begin} is missing")) + begin.len();
    let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("{end} is missing"));
    compare(file, &format!("{}{expected}{}", &text[..from], &text[to..]));
}

fn compare(file: &Path, expected: &str) {
    if std::env::var_os("UPDATE_COMMITTED").is_some() {
        fs::write(file, expected).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    let committed = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert_eq!(
        committed,
        expected,
        "{}: UPDATE_COMMITTED=1 writes it anew",
        file.display()
    );
}

/// 1,234,567.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
