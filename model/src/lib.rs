//! An exhaustive model of the outbox protocol.
//!
//! [`outbox`] is the protocol as a whole: transactions that draw ids and commit, roll back, stay open or are prepared;
//! two relays with one lease; a topic in which requests arrive late; kills, freezes, lost answers. [`checkpoint_log`]
//! looks into what the former takes for granted: the compare-and-swap, base rows, and partitions that are dropped
//! under a zombie. [`checker`] explores every state of a stated scope.
//!
//! A model says nothing unless it can fail: each has a list of deliberately wrong variants, and every one is caught
//! with a shortest trace (`traces/`). `docs/model.md` maps each rule to the function of the program that keeps it.

use self::{
    checker::{Explored, explore},
    checkpoint_log::CheckpointLog,
    outbox::Outbox,
};

pub mod checker;
pub mod checkpoint_log;
pub mod outbox;
pub mod sets;

/// States of one scope, at most: what a test may cost.
pub const BOUND: usize = 4_000_000;

/// Something to be explored.
pub struct Subject {
    /// A scope's name, or a wrong variant's.
    pub name: String,
    /// Of a wrong variant, the rule that it has to break.
    pub wrong: Option<&'static str>,
    /// Does it.
    pub explore: Box<dyn Fn() -> Explored + Send + Sync>,
}

/// Every scope, then every wrong variant.
pub fn everything() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for scope in outbox::scenarios::ALL {
        subjects.push(of_outbox(
            scope.name.to_owned(),
            Outbox {
                scope: *scope,
                wrong: None,
            },
            None,
        ));
    }
    for (name, faults) in checkpoint_log::SCOPES {
        let model = CheckpointLog {
            faults: *faults,
            wrong: None,
        };
        subjects.push(of_log((*name).to_owned(), model, None));
    }
    for (wrong, scope, rule) in outbox::wrong::ALL {
        let model = Outbox {
            scope: *scope,
            wrong: Some(*wrong),
        };
        subjects.push(of_outbox(format!("{wrong:?}"), model, Some(rule)));
    }
    for (wrong, rule) in checkpoint_log::wrong::ALL {
        let model = CheckpointLog {
            faults: checkpoint_log::SCOPES[0].1,
            wrong: Some(*wrong),
        };
        subjects.push(of_log(format!("{wrong:?}"), model, Some(rule)));
    }
    subjects
}

fn of_outbox(name: String, model: Outbox, wrong: Option<&'static str>) -> Subject {
    let explore = Box::new(move || explore(&model, BOUND));
    Subject { name, wrong, explore }
}

fn of_log(name: String, model: CheckpointLog, wrong: Option<&'static str>) -> Subject {
    let explore = Box::new(move || explore(&model, BOUND));
    Subject { name, wrong, explore }
}
