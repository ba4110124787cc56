//! Each target on the bytes that are kept, and on changed copies of them.
//!
//! Without a compiler's help, and so within seconds: what has to be found by its coverage is `make fuzz`'s. A change is
//! a byte, a word of the dictionary, or a piece of another file of the corpus; what fails is made smaller and printed.

use std::{
    collections::BTreeSet,
    fs, panic,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestCaseError, TestError, TestRunner},
};

use super::{TARGETS, Target};

/// For each target: all of them together stay within fifteen seconds on two cores.
const TIME: Duration = Duration::from_millis(900);
/// What is tried at most in this time.
const CASES: u32 = 4_000;
/// Targets that are tried at once.
const LANES: usize = 2;
/// Changes of one file.
const CHANGES: usize = 6;

/// What is done to a file of the corpus, at a place in it.
#[derive(Debug, Clone)]
enum Change {
    Byte(u8),
    Word(Index),
    Insert(u8),
    Cut(Index),
    Splice(Index, Index),
}

fn change() -> impl Strategy<Value = (Index, Change)> {
    let odd = prop_oneof![
        any::<u8>(),
        prop::sample::select(&b"\0\n\r \"'\\,.;:=-+/%{}[]()0919azAZ~\x7f\x80\xff"[..])
    ];
    let any = any::<Index>;
    let change = prop_oneof![
        odd.clone().prop_map(Change::Byte),
        odd.prop_map(Change::Insert),
        any().prop_map(Change::Word),
        any().prop_map(Change::Cut),
        (any(), any()).prop_map(|(file, from)| Change::Splice(file, from)),
    ];
    (any(), change)
}

/// The files of a target's corpus, by their names.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from("fuzz/corpus").join(target.name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    let read = |path: PathBuf| (path.clone(), fs::read(path).expect("a file that can be read"));
    files.into_iter().map(read).collect()
}

/// The words of the dictionary, in libFuzzer's form: a word in quotes each line, with `\"`, `\\` and `\xHH`.
fn words() -> Vec<Vec<u8>> {
    let text = fs::read_to_string("fuzz/words.dict").expect("the dictionary");
    let words = text
        .lines()
        .filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    words.map(unescape).collect()
}

fn unescape(word: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), word);
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        rest = if let Some(hex) = escape.strip_prefix('x') {
            bytes.push(u8::from_str_radix(&hex[..2], 16).expect("two digits"));
            &hex[2..]
        } else {
            bytes.push(escape.as_bytes()[0]);
            &escape[1..]
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn changed(mut data: Vec<u8>, changes: &[(Index, Change)], files: &[(PathBuf, Vec<u8>)], words: &[Vec<u8>]) -> Vec<u8> {
    for (at, change) in changes {
        let at = at.index(data.len() + 1);
        match change {
            Change::Byte(byte) if at < data.len() => data[at] = *byte,
            Change::Byte(byte) => data.push(*byte),
            Change::Insert(byte) => data.insert(at, *byte),
            Change::Word(word) => drop(data.splice(at..at, word.get(words).iter().copied())),
            Change::Cut(to) => {
                let to = to.index(data.len() + 1);
                data.drain(at.min(to)..at.max(to));
            }
            Change::Splice(file, from) => {
                let (_, other) = file.get(files);
                data.truncate(at);
                data.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
        }
    }
    data
}

#[test]
fn no_target_breaks_its_promise_for_the_corpus_and_what_is_near_it() {
    let words = words();
    let next = AtomicUsize::new(0);
    let lane = || {
        let targets = std::iter::from_fn(|| TARGETS.get(next.fetch_add(1, Ordering::Relaxed)));
        targets
            .filter_map(|target| try_near(target, &words))
            .collect::<Vec<_>>()
    };
    let broken: Vec<String> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        let lanes = lanes
            .into_iter()
            .flat_map(|lane| lane.join().expect("a lane catches panics"));
        lanes.collect()
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What is broken, and by which bytes.
fn try_near(target: &Target, words: &[Vec<u8>]) -> Option<String> {
    let files = corpus(target);
    assert!(files.len() >= 2, "{}: nothing to begin with", target.name);
    let kept = files
        .iter()
        .find_map(|(path, data)| Some((path, broken(target, data)?)));
    if let Some((path, why)) = kept {
        return Some(format!("{}: {why}", path.display()));
    }
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    });
    let strategy = (any::<Index>(), prop::collection::vec(change(), 1..CHANGES));
    let end = Instant::now() + TIME;
    let done = runner.run(&strategy, |(file, changes)| {
        if Instant::now() > end {
            return Ok(());
        }
        let data = changed(file.get(&files).1.clone(), &changes, &files, words);
        broken(target, &data).map_or(Ok(()), |why| Err(TestCaseError::fail(why)))
    });
    if let Err(TestError::Fail(why, (file, changes))) = done {
        let data = changed(file.get(&files).1.clone(), &changes, &files, words);
        let (name, data) = (target.name, data.escape_ascii());
        return Some(format!("{name}: {why}\n  keep in fuzz/corpus/{name}: {data}"));
    }
    None
}

/// The text of the panic that these bytes cause.
fn broken(target: &Target, data: &[u8]) -> Option<String> {
    let panic = panic::catch_unwind(|| (target.check)(data)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.unwrap_or_else(|| panic.downcast_ref::<&str>().map_or("a panic", |text| text).to_owned()))
}

#[test]
fn each_target_has_a_corpus_and_each_corpus_a_target() {
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "a name twice");
    let folders = fs::read_dir("fuzz/corpus").expect("the corpus");
    let folders: BTreeSet<_> = folders
        .map(|f| f.expect("a folder").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(names, folders);
}
