//! What PostgreSQL says of settled ids, and what operators select.

use chrono::{DateTime, Datelike as _, Utc};

use super::{
    position::{Position, from_multirange, to_multirange},
    replays::{Selection, Wanted},
};

/// The text of a multirange: one that is taken prints back to the same ids, and PostgreSQL's own form to itself.
pub fn multirange(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(ids) = from_multirange(text) else { return };
    let printed = to_multirange(&ids);
    assert_eq!(from_multirange(&printed).expect("it is a multirange"), ids);
    // The ranges that are written there, and no others.
    let numbers = |text: &str| -> Vec<i64> {
        let words = text.split(|c: char| !(c.is_ascii_digit() || "+-".contains(c)));
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let written = numbers(text);
    let ascending = written.windows(2).all(|pair| pair[0] < pair[1]);
    if ascending {
        assert_eq!(numbers(&printed), written);
        assert_eq!(
            text.matches(',').count(),
            printed.matches(',').count(),
            "{text} is {printed}"
        );
    }
    let position = Position::new(ids.clone(), ids.clone());
    assert_eq!(position.passed(), &ids);
    for range in ids.iter() {
        assert!(position.has_passed(range.start) && position.has_passed(range.end - 1));
        assert!(position.read_to() >= range.end - 1);
    }
}

/// The JSON of a selection: one that is taken names something, is stored as it was understood, and PostgreSQL can hold
/// it.
pub fn selection(data: &[u8]) {
    let Ok(wanted) = serde_json::from_slice::<Wanted>(data) else {
        return;
    };
    let Ok(selection) = wanted.selection() else { return };
    let stored = serde_json::to_string(&selection).expect("plain types");
    assert_eq!(
        serde_json::from_str::<Selection>(&stored).expect("it is what we write"),
        selection
    );
    let window = match &selection {
        Selection::Name { jobs, ids } => {
            assert!(!jobs.is_empty() || !ids.is_empty(), "everything");
            return;
        }
        Selection::Dead { class, window, .. } => {
            let class = class.as_deref().unwrap_or_default();
            assert!(!class.contains('\0'), "PostgreSQL's text cannot hold it");
            window
        }
        Selection::Window(window) => window,
        Selection::Missing { .. } => return,
    };
    assert!(window.from.is_none() || window.to.is_none() || window.from < window.to);
    for instant in [window.from, window.to].into_iter().flatten() {
        hold(instant);
    }
}

/// That PostgreSQL has this instant, and those an hour around it: its years begin 4713 BC, and it refuses others.
pub fn hold(instant: DateTime<Utc>) {
    assert!(
        (-4000..=294_000).contains(&instant.year()),
        "PostgreSQL has no {instant}"
    );
}
