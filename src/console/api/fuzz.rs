//! The body of each act, for [`crate::console::fuzz`].

use serde::de::DeserializeOwned;

use super::{control, dead_letters, replays, retain};
use crate::console::request::read_act;

/// The acts that take these bytes, each with its fields.
pub fn read_each(body: &[u8]) -> Vec<(&'static str, &'static [&'static str])> {
    fn takes<T: DeserializeOwned>(body: &[u8]) -> bool {
        read_act::<T>(body).is_ok()
    }
    type Act = (&'static str, fn(&[u8]) -> bool, &'static [&'static str]);
    const ACTS: [Act; 6] = [
        (
            "create_replay",
            takes::<replays::CreateReplay>,
            &["selection", "reason", "rate", "operation_id", "count"],
        ),
        ("preview_replay", takes::<replays::PreviewReplay>, &["selection"]),
        (
            "resolve",
            takes::<dead_letters::Resolve>,
            &["ids", "class", "all", "reason"],
        ),
        ("pause_relay", takes::<control::PauseRelay>, &["reason"]),
        ("resume_relay", takes::<control::ResumeRelay>, &["accept_identity"]),
        ("retain", takes::<retain::Retain>, &["reason"]),
    ];
    let taken = ACTS.iter().filter(|(_, takes, _)| takes(body));
    taken.map(|(name, _, fields)| (*name, *fields)).collect()
}
