//! The faults that this program is tried against, by number, and the tests of each. docs/reliability.md shows the
//! table; `f..` tests are here, in one file a part of the world.

mod accepting;
mod kafka;
mod links;
mod postgres;
mod relay;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use uuid::Uuid;

use crate::support::{App, Stage, drafts, history::Request, load, token_for};

/// A fault, the behaviour wanted, and the tests that see it. Without tests: why there is none.
struct Fault {
    number: usize,
    what: &'static str,
    wanted: &'static str,
    tests: &'static [&'static str],
}

const fn fault(number: usize, what: &'static str, wanted: &'static str, tests: &'static [&'static str]) -> Fault {
    Fault {
        number,
        what,
        wanted,
        tests,
    }
}

include!("table.rs");

/// A user with drafts.
struct Someone {
    token: String,
    drafts: Vec<Uuid>,
}

impl Someone {
    async fn new(stage: &Stage, drafts: usize) -> Self {
        let user = Uuid::new_v4();
        Self {
            token: token_for(user),
            drafts: drafts::insert_many(&stage.pool, user, drafts).await,
        }
    }

    /// So many requests, one after the other, each answered 202.
    async fn accepted(&self, app: &App, count: usize) -> Vec<Request> {
        let mut requests = Vec::new();
        for n in 0..count {
            requests.push(load::accept(app, self.drafts[n % self.drafts.len()], &self.token).await);
        }
        requests
    }

    fn load(&self, app: &App, clients: usize) -> load::Load {
        load::Load::start(&app.base_url, &self.token, &self.drafts, clients)
    }
}

#[test]
fn each_fault_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<(String, String)> = crate::house::files("tests/it", "rs")
        .into_iter()
        .chain(crate::house::files("src", "rs"))
        .map(|(file, text)| (file.display().to_string(), text))
        .collect();
    let numbers: Vec<usize> = FAULTS.iter().map(|fault| fault.number).collect();
    assert_eq!(numbers, (1..=43).collect::<Vec<_>>());
    let mut named = BTreeSet::new();
    for fault in FAULTS {
        for test in fault.tests {
            // `intake/faults::a_claim`, or `src/relay/breaker::a_claim`.
            let (file, name) = test.rsplit_once("::").expect("a file and a name");
            let places = [
                format!("tests/it/{file}.rs"),
                format!("tests/it/{file}/mod.rs"),
                format!("{file}.rs"),
                format!("{file}/mod.rs"),
            ];
            let exists = sources
                .iter()
                .any(|(path, text)| places.contains(path) && text.contains(&format!("fn {name}(")));
            assert!(exists, "fault {}: there is no test {test}", fault.number);
            named.insert(name);
        }
    }
    // And no test of a number is missing from the table.
    for (path, text) in &sources {
        for (at, _) in text
            .match_indices("fn f")
            .filter(|(at, _)| text[at + 4..].starts_with(|c: char| c.is_ascii_digit()))
        {
            let name = text[at + 3..].split('(').next().expect("a name");
            assert!(named.contains(name), "{path}: {name} is in no row of the table");
        }
    }
    let untested: Vec<usize> = FAULTS.iter().filter(|f| f.tests.is_empty()).map(|f| f.number).collect();
    assert!(untested.len() <= 3, "without a test: {untested:?}");

    let page = fs::read_to_string(root.join("docs/reliability.md")).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the table's beginning");
    let (_, after) = rest.split_once(END).expect("the table's end");
    let expected = format!("{before}{BEGIN}\n{}{END}{after}", table());
    if std::env::var_os("UPDATE_COMMITTED").is_some() {
        fs::write(root.join("docs/reliability.md"), expected).expect("written");
    } else {
        assert!(
            page == expected,
            "docs/reliability.md is old: UPDATE_COMMITTED=1 cargo test --test it faults::each"
        );
    }
}

const BEGIN: &str = "<!-- faults: begin -->";
const END: &str = "<!-- faults: end -->";

fn table() -> String {
    let mut table = "| # | fault | wanted | seen by |\n|---|---|---|---|\n".to_owned();
    for Fault {
        number,
        what,
        wanted,
        tests,
    } in FAULTS
    {
        let tests: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
        let seen = if tests.is_empty() {
            "no test".to_owned()
        } else {
            tests.join("<br>")
        };
        let _ = writeln!(table, "| {number} | {what} | {wanted} | {seen} |");
    }
    table
}
