//! Explores every state of a model, breadth first: the first violation met has a shortest trace.
//!
//! States are remembered by a 64-bit fingerprint of their canonical form. Two different states with one fingerprint
//! would hide what follows from one of them: with five million states the chance of any such pair is below one in
//! a million.

use std::{
    collections::HashMap,
    fmt::Display,
    hash::{BuildHasherDefault, Hash, Hasher},
};

/// What is explored.
pub trait Model {
    /// One state of the world. Equal states have one future.
    type State: Clone + Hash;
    /// What leads from one state to the next; its text is a line of a trace.
    type Action: Copy + Display;

    /// Where it begins.
    fn initial(&self) -> Self::State;

    /// Appends every step that may come next. A step that changes nothing may be left out or not.
    fn steps(&self, state: &Self::State, into: &mut Vec<(Self::Action, Self::State)>);

    /// Must this step happen in the end, if nothing else does? Faults and new work need not.
    fn is_due(&self, action: &Self::Action) -> bool;

    /// The rule that this state breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;

    /// The rule that is broken if nothing more is due in this state.
    fn broken_at_rest(&self, state: &Self::State) -> Option<&'static str>;

    /// One of all the states that differ from this one only in names.
    fn canonical(&self, state: &Self::State) -> Self::State {
        state.clone()
    }
}

/// What an exploration saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explored {
    /// Different states, up to names.
    pub states: usize,
    /// Steps from the beginning to the state that is farthest away.
    pub depth: usize,
    /// States in which nothing more was due.
    pub at_rest: usize,
    /// The violation that is nearest to the beginning.
    pub violation: Option<Violation>,
}

/// A rule, and a shortest way to break it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// The steps, one a line.
    pub trace: Vec<String>,
}

/// Explores all states of the model, or up to the first violation. Panics beyond `bound` states: a scope that was
/// not explored whole says nothing.
pub fn explore<M: Model>(model: &M, bound: usize) -> Explored {
    let initial = model.canonical(&model.initial());
    let mut parents: HashMap<u64, u64, BuildHasherDefault<Ready>> = HashMap::default();
    parents.insert(fingerprint(&initial), 0);
    let mut explored = Explored {
        states: 1,
        depth: 0,
        at_rest: 0,
        violation: None,
    };
    if let Some(rule) = model.broken(&initial) {
        explored.violation = Some(Violation { rule, trace: vec![] });
        return explored;
    }
    let (mut layer, mut next_layer, mut steps) = (vec![initial], Vec::new(), Vec::new());
    while !layer.is_empty() {
        for state in layer.drain(..) {
            let here = fingerprint(&state);
            steps.clear();
            model.steps(&state, &mut steps);
            let mut anything_due = false;
            for (action, next) in steps.drain(..) {
                let next = model.canonical(&next);
                let there = fingerprint(&next);
                if there == here {
                    continue;
                }
                anything_due |= model.is_due(&action);
                if let std::collections::hash_map::Entry::Vacant(vacant) = parents.entry(there) {
                    vacant.insert(here);
                    if let Some(rule) = model.broken(&next) {
                        explored.states = parents.len();
                        explored.violation = Some(Violation {
                            rule,
                            trace: trace_to(model, &parents, there),
                        });
                        return explored;
                    }
                    next_layer.push(next);
                }
            }
            if !anything_due {
                explored.at_rest += 1;
                if let Some(rule) = model.broken_at_rest(&state) {
                    explored.states = parents.len();
                    explored.violation = Some(Violation {
                        rule,
                        trace: trace_to(model, &parents, here),
                    });
                    return explored;
                }
            }
        }
        explored.states = parents.len();
        assert!(
            explored.states <= bound,
            "more than {bound} states: the scope is too wide"
        );
        if !next_layer.is_empty() {
            explored.depth += 1;
        }
        std::mem::swap(&mut layer, &mut next_layer);
    }
    explored
}

/// Walks from the beginning along the fingerprints and names each step.
fn trace_to<M: Model>(model: &M, parents: &HashMap<u64, u64, BuildHasherDefault<Ready>>, end: u64) -> Vec<String> {
    let mut way = vec![end];
    while let Some(parent) = parents.get(&way[way.len() - 1]).filter(|p| **p != 0) {
        way.push(*parent);
    }
    let mut state = model.canonical(&model.initial());
    let (mut trace, mut steps) = (Vec::new(), Vec::new());
    for wanted in way.into_iter().rev().skip(1) {
        steps.clear();
        model.steps(&state, &mut steps);
        let (action, next) = steps
            .drain(..)
            .map(|(action, next)| (action, model.canonical(&next)))
            .find(|(_, next)| fingerprint(next) == wanted)
            .expect("the way was walked before");
        trace.push(action.to_string());
        state = next;
    }
    trace
}

/// Never zero, which stands for "no parent".
fn fingerprint(state: &impl Hash) -> u64 {
    let mut hasher = Mixer(0x9e37_79b9_7f4a_7c15);
    state.hash(&mut hasher);
    hasher.finish().max(1)
}

/// A quick hasher of many small fields: each one is folded in by a full multiplication.
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, n: u64) {
        let wide = u128::from(self.0 ^ n) * 0xa076_1d64_78bd_642f;
        let folded = (wide >> 64) ^ wide;
        self.0 = (folded as u64).rotate_left(23).wrapping_add(0x2d35_8dcc_aa6c_78a5);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }
    fn write_u8(&mut self, n: u8) {
        self.mix(u64::from(n));
    }
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }
    fn finish(&self) -> u64 {
        let mut last = Mixer(self.0);
        last.mix(0x5851_f42d_4c95_7f2d);
        last.0
    }
}

/// For keys that are fingerprints already.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters up to `top`; one may jump by two.
    struct Counters {
        top: u8,
        forbidden: Option<(u8, u8)>,
        same: bool,
        rests_at_top: bool,
    }

    const SOUND: Counters = Counters {
        top: 3,
        forbidden: None,
        same: false,
        rests_at_top: true,
    };

    impl Model for Counters {
        type State = (u8, u8);
        type Action = &'static str;

        fn initial(&self) -> (u8, u8) {
            (0, 0)
        }
        fn steps(&self, &(a, b): &(u8, u8), into: &mut Vec<(&'static str, (u8, u8))>) {
            into.push(("nothing", (a, b)));
            if a < self.top {
                into.push(("left", (a + 1, b)));
            }
            if b < self.top {
                into.push(("right", (a, b + 1)));
            }
            if a + 2 <= self.top {
                into.push(("left by two", (a + 2, b)));
            }
        }
        fn is_due(&self, action: &&'static str) -> bool {
            *action != "left by two"
        }
        fn broken(&self, state: &(u8, u8)) -> Option<&'static str> {
            (Some(*state) == self.forbidden).then_some("forbidden")
        }
        fn broken_at_rest(&self, state: &(u8, u8)) -> Option<&'static str> {
            (*state != (self.top, self.top) || !self.rests_at_top).then_some("not at the top")
        }
        fn canonical(&self, &(a, b): &(u8, u8)) -> (u8, u8) {
            if self.same { (a.min(b), a.max(b)) } else { (a, b) }
        }
    }

    #[test]
    fn every_state_is_seen_once() {
        let seen = explore(&SOUND, 100);
        assert_eq!((seen.states, seen.at_rest, seen.violation), (16, 1, None));
        // Three to the right, and to the left by two and one.
        assert_eq!(seen.depth, 5);
    }

    #[test]
    fn states_that_differ_in_names_only_are_one() {
        let seen = explore(&Counters { same: true, ..SOUND }, 100);
        assert_eq!(seen.states, 10);
    }

    #[test]
    fn the_trace_of_a_violation_is_a_shortest_one() {
        let forbidden = Some((2, 1));
        let seen = explore(&Counters { forbidden, ..SOUND }, 100);
        let violation = seen.violation.expect("it can be reached");
        assert_eq!(violation.rule, "forbidden");
        let mut trace = violation.trace;
        trace.sort();
        assert_eq!(trace, ["left by two", "right"]);
    }

    #[test]
    fn a_state_in_which_nothing_is_due_is_judged() {
        let seen = explore(
            &Counters {
                rests_at_top: false,
                ..SOUND
            },
            100,
        );
        let violation = seen.violation.expect("the top is reached");
        assert_eq!((violation.rule, violation.trace.len()), ("not at the top", 5));
    }

    #[test]
    #[should_panic(expected = "more than 15 states")]
    fn a_scope_that_is_too_wide_is_not_called_explored() {
        explore(&SOUND, 15);
    }

    #[test]
    fn fingerprints_of_many_like_states_differ() {
        let mut seen = std::collections::HashSet::new();
        for a in 0..=255_u8 {
            for b in 0..=255_u8 {
                for c in 0..8_u8 {
                    assert!(seen.insert(fingerprint(&[a, b, c, 0, 0])));
                }
            }
        }
    }
}
