//! Explores every scope, and every wrong variant, and prints what was seen: `make model`.

use std::time::Instant;

use outbox_model::{Subject, everything};

fn main() {
    let mut failed = 0;
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for Subject { name, wrong, explore } in everything().into_iter().filter(|s| s.name.contains(&wanted)) {
        let began = Instant::now();
        let seen = explore();
        let states = seen.states;
        let caught = seen.violation.as_ref();
        let verdict = match (wrong, caught) {
            (None, None) => format!("holds; depth {}, at rest {}", seen.depth, seen.at_rest),
            (Some(rule), Some(v)) if v.rule == rule => format!("caught in {} steps", v.trace.len()),
            (_, Some(v)) => {
                failed += 1;
                format!("BROKEN: {}\n    {}", v.rule, v.trace.join("\n    "))
            }
            (Some(_), None) => {
                failed += 1;
                "NOT CAUGHT".to_owned()
            }
        };
        println!(
            "{name:<62} {states:>9} states {:>6.1} s  {verdict}",
            began.elapsed().as_secs_f64()
        );
    }
    std::process::exit(i32::from(failed > 0));
}
