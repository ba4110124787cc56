//! Filters of lists, as they are typed and as they stand in an address.

use clap::Parser as _;
use url::form_urlencoded;

use super::{Cli, Command, outbox};
use crate::{
    console::{api::messages, request::read_query},
    outbox::{fuzz::hold, query::MessageFilter},
};

/// Lines of `name=value`: what both `outbox list` and the admin API take selects the same, and says what was given.
pub fn filters(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let given: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    // An argument ends at a NUL, and a form's empty field is as good as none.
    if text.contains('\0') || given.iter().any(|(_, value)| value.is_empty()) {
        return;
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    let mut arguments = vec!["dispatcher".to_owned(), "outbox".to_owned(), "list".to_owned()];
    for (name, value) in &given {
        query.append_pair(name, value);
        arguments.push(format!("--{}={value}", name.replace('_', "-")));
    }
    let asked = read_query::<messages::Asked>(&query.finish());
    let asked = asked.ok().and_then(|asked| asked.narrow().ok());
    let typed = match Cli::try_parse_from(arguments).map(|cli| cli.command) {
        Ok(Command::Outbox(outbox::Args::List(list))) => Some(list.filter()),
        _ => None,
    };
    for filter in asked.iter().chain(&typed) {
        says(filter, &given);
    }
    if let (Some(asked), Some(typed)) = (asked, typed) {
        assert_eq!(asked, typed, "a list and the API differ");
    }
}

/// That the filter is what was given: what PostgreSQL is asked.
fn says(filter: &MessageFilter, given: &[(&str, &str)]) {
    for (name, value) in given {
        let uuid = |it: Option<uuid::Uuid>| it.is_some_and(|it| value.parse() == Ok(it));
        let number = |it: i64| value.parse() == Ok(it);
        let said = match *name {
            "after" => filter.after.is_some_and(number),
            "limit" => number(filter.limit) && (1..=1000).contains(&filter.limit),
            "state" => filter.state.is_some_and(|state| state.as_str() == *value),
            "job" => uuid(filter.job),
            "draft" | "key" => uuid(filter.draft),
            "user" => uuid(filter.user),
            "replay" => uuid(filter.replay),
            "error_class" | "error-class" => filter.error_class.as_deref() == Some(*value),
            "from" => filter.from.is_some_and(|from| value.parse() == Ok(from)),
            "to" => filter.to.is_some_and(|to| value.parse() == Ok(to)),
            // `--output`, `--config` and `--set` go with every command.
            _ => true,
        };
        assert!(said, "{name}={value} is {filter:?}");
    }
    for instant in [filter.from, filter.to].into_iter().flatten() {
        hold(instant);
    }
}
