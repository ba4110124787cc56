//! What holds the house together and no compiler checks: who may know whom, and that the logs are only added to.
//! Reads the sources.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A room and those that it may name. Missing rooms are leaves: `drafts`, `messages` (plain types), `config` and
/// `telemetry`, which are handed in, and `dev_stack`, which knows nothing of the product.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "http",
            "console",
            "audit",
            "relay",
            "jobs",
            "outbox",
            "publish",
            "content",
            "drafts",
            "messages",
            "dev_stack",
        ],
    ),
    ("http", &["jobs", "drafts", "messages"]),
    ("console", &["http", "jobs", "outbox", "drafts", "messages"]),
    ("audit", &["outbox", "publish"]),
    ("relay", &["outbox", "publish", "messages"]),
    ("jobs", &["outbox", "drafts", "messages"]),
    ("publish", &["outbox", "messages"]),
    ("content", &["messages"]),
    // The list of targets, in no build but the tests' and the fuzzer's: it names the `fuzz.rs` of each room.
    (
        "fuzz",
        &[
            "cli", "config", "console", "content", "http", "jobs", "outbox", "publish",
        ],
    ),
];

/// Rooms whose types anybody may take as a parameter.
const HANDED_IN: &[&str] = &["config", "telemetry"];

/// Tables that are only inserted into.
const LOGS: &[&str] = &[
    "jobs",
    "job_results",
    "outbox_messages",
    "outbox_checkpoints",
    "operator_acts",
];

#[test]
fn no_arrow_points_back() {
    let mut wrong = BTreeSet::new();
    for (file, text) in files("src", "rs") {
        let from = room(&file);
        if ["lib", "main", "bin"].contains(&&*from) {
            continue;
        }
        let allowed = ARROWS
            .iter()
            .find(|(room, _)| *room == from)
            .map_or(&[][..], |(_, to)| to);
        for to in rooms_named(&text) {
            if to != from && !HANDED_IN.contains(&&*to) && !allowed.contains(&&*to) {
                wrong.insert(format!("{}: {from} -> {to}", file.display()));
            }
        }
        if from == "config" || from == "telemetry" {
            continue;
        }
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for reach in ["Config::load(", "Sources::of_process("] {
            if product.contains(reach) && from != "cli" && !file.ends_with("tests.rs") {
                wrong.insert(format!(
                    "{}: reaches for the configuration, which is handed in",
                    file.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the layout does not have:\n{wrong:#?}");
}

#[test]
fn one_file_names_the_producer() {
    let named: Vec<_> = files("src", "rs")
        .into_iter()
        .filter(|(_, text)| text.contains("rdkafka::producer"))
        .collect();
    let named: Vec<_> = named
        .iter()
        .filter(|(file, _)| room(file) != "content" && room(file) != "bin")
        .collect();
    for (file, _) in named {
        assert_eq!(room(file), "publish", "{} makes a producer of its own", file.display());
    }
}

#[test]
fn no_statement_changes_a_row_of_a_log() {
    let mut wrong = Vec::new();
    for (file, text) in files("src", "rs").into_iter().chain(files("migrations", "sql")) {
        let words = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        for statement in changes_of_logs(&words) {
            wrong.push(format!("{}: {statement}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "the logs are append-only:\n{wrong:#?}");
}

#[test]
fn the_checks_see_what_they_look_for() {
    assert_eq!(
        changes_of_logs("update outbox_messages set x = 1"),
        ["update outbox_messages"]
    );
    assert_eq!(
        changes_of_logs("delete from only public.jobs where"),
        ["delete from only public.jobs"]
    );
    assert_eq!(
        changes_of_logs("insert into jobs values (1) on conflict (id) do update set x"),
        ["insert into jobs"]
    );
    assert!(changes_of_logs("insert into jobs values (1) on conflict do nothing; update idempotency_keys").is_empty());
    assert!(changes_of_logs("before update or delete on jobs for each row").is_empty());
    let text = "use crate::{\n    a::b,\n    c::{d, e},\n};\n// use crate::f;\nuse crate::g;\nfn x() { crate::h::i() }";
    assert_eq!(rooms_named(text).into_iter().collect::<Vec<_>>(), ["a", "c", "g", "h"]);
}

/// Each statement among `words` that updates or deletes rows of a log.
fn changes_of_logs(words: &str) -> Vec<String> {
    let mut found = Vec::new();
    for table in LOGS {
        for before in ["update ", "delete from ", "truncate ", "truncate table ", "merge into "] {
            for between in ["", "only ", "public.", "only public."] {
                let statement = format!("{before}{between}{table}");
                if words
                    .match_indices(&statement)
                    .any(|(at, _)| ends_there(words, at + statement.len()))
                {
                    found.push(statement);
                }
            }
        }
        let insert = format!("insert into {table}");
        for (at, _) in words.match_indices(&insert) {
            let end = words[at..].find(['"', ';']).map_or(words.len(), |end| at + end);
            if ends_there(words, at + insert.len()) && words[at..end].contains("do update") {
                found.push(insert.clone());
            }
        }
    }
    found
}

/// A longer name is another table.
fn ends_there(words: &str, at: usize) -> bool {
    !words[at..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// The first part of each path in the crate that `text` names, in `use` lines and in expressions.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let code: Vec<_> = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let code = code.join("\n");
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let path = &code[at + "crate::".len()..];
        let Some(tree) = path.strip_prefix('{') else {
            rooms.insert(first_word(path));
            continue;
        };
        let (mut depth, mut begins) = (1, true);
        for (at, c) in tree.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => begins = true,
                _ if begins && depth == 1 && !c.is_whitespace() => {
                    rooms.insert(first_word(&tree[at..]));
                    begins = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `src/jobs/store.rs` and `src/jobs.rs` are both of the room `jobs`.
fn room(file: &Path) -> String {
    let name = file
        .components()
        .nth(1)
        .expect("a file under src")
        .as_os_str()
        .to_string_lossy();
    name.trim_end_matches(".rs").to_owned()
}

/// All files under a directory of the repository, by their path in it.
pub fn files(dir: &str, extension: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut dirs, mut found) = (vec![root.join(dir)], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path).expect("text");
                found.push((path.strip_prefix(root).expect("in the repository").to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} file under {dir}");
    found
}

#[test]
fn failpoints_are_in_no_build_but_the_tests() {
    // The features that a build without the development dependencies gives to `fail`.
    let features = |edges: &str| {
        let output = std::process::Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--all-features",
                "--invert",
                "fail",
                "--edges",
                edges,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).contains("failpoints")
    };
    assert!(
        !features("normal,build,features"),
        "`fail/failpoints` is turned on outside of tests"
    );
    assert!(features("all,features"), "the tests have no failpoints");
}

#[test]
fn each_planted_bug_still_has_its_line_and_was_caught() {
    #[derive(serde::Deserialize)]
    struct Bug {
        name: String,
        file: String,
        find: String,
        replace: String,
        tests: Vec<String>,
        #[serde(default)]
        switch: bool,
    }
    let text = fs::read_to_string("tests/planted_bugs.toml").expect("the list");
    let list: std::collections::BTreeMap<String, Vec<Bug>> = toml::from_str(&text).expect("a list of bugs");
    let page = fs::read_to_string("docs/planted-bugs.md").expect("the page of what caught them");
    // As `scripts/planted-bugs` has them: those with a switch are all there when the others are planted.
    let mut switched = std::collections::BTreeMap::new();
    for bug in &list["bug"] {
        let source = fs::read_to_string(&bug.file).unwrap_or_else(|e| panic!("{}: {e}", bug.file));
        assert_eq!(source.matches(&bug.find).count(), 1, "{}: in {}", bug.name, bug.file);
        let copy = switched.entry(&bug.file).or_insert(source);
        if bug.switch {
            *copy = copy.replace(&bug.find, &format!("{} {}", bug.replace, bug.find));
        }
        assert_ne!(bug.find, bug.replace, "{}", bug.name);
        assert!(!bug.tests.is_empty(), "{}", bug.name);
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| {} | ", bug.name)));
        let caught = row.is_some_and(|row| !row.contains("**missed**"));
        assert!(caught, "{}: docs/planted-bugs.md says {row:?}", bug.name);
    }
    for bug in list["bug"].iter().filter(|bug| !bug.switch) {
        let times = switched[&bug.file].matches(&bug.find).count();
        assert_eq!(times, 1, "{}: beside those with a switch, in {}", bug.name, bug.file);
    }
}

#[test]
fn each_function_that_the_model_names_exists() {
    let text = fs::read_to_string("docs/model.md").expect("the page");
    let table = text
        .split("| in the model | in the program |")
        .nth(1)
        .expect("the table");
    let (mut seen, mut missing) = (0, Vec::new());
    for row in table.lines().skip(2).filter(|line| line.starts_with('|')) {
        let program = row.split('|').nth(2).expect("a second column");
        // Functions in backquotes, then the file that they are in.
        let mut functions = Vec::new();
        for name in program.split('`').skip(1).step_by(2) {
            if !name.contains('/') {
                functions.push(name);
                continue;
            }
            let source = fs::read_to_string(name).unwrap_or_else(|e| panic!("{name}: {e}"));
            for function in functions.drain(..) {
                seen += 1;
                if !source.contains(&format!("fn {function}(")) && !source.contains(&format!("fn {function}<")) {
                    missing.push(format!("{function} in {name}"));
                }
            }
        }
        assert!(functions.is_empty(), "{row}: a function without its file");
    }
    assert!(seen >= 30, "only {seen} functions are named");
    assert!(
        missing.is_empty(),
        "docs/model.md names what is not there: {missing:#?}"
    );
}
