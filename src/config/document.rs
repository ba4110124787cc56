//! TOML as a list of keys, each with its text and line.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    names::{self, DEFAULTS},
    redact,
};

/// A value of a TOML document that is not a table.
pub(super) struct Leaf {
    /// With its tables' names in front: `a.b`.
    pub(super) key: String,
    /// As text; or why it is none.
    pub(super) value: Result<String, String>,
    /// From 1.
    pub(super) line: usize,
}

/// Calls `each` for every leaf of the document that was parsed from `text`.
pub(super) fn for_each_leaf(text: &str, document: &Spanned<DeTable<'_>>, each: &mut impl FnMut(Leaf)) {
    flatten(text, "", document.get_ref(), each);
}

fn flatten(text: &str, prefix: &str, table: &DeTable<'_>, each: &mut impl FnMut(Leaf)) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        let value_text = match value.get_ref() {
            // An empty table is a leaf unless it is one of our sections: an unknown one is a mistake, empty or not.
            DeValue::Table(inner) if !inner.is_empty() || is_section(&key) => {
                flatten(text, &key, inner, each);
                continue;
            }
            DeValue::Table(_) | DeValue::Array(_) => Err(format!(
                "{key} must be one value, not {}",
                article(value.get_ref().type_str())
            )),
            DeValue::String(string) => Ok(string.to_string()),
            // A secret that looks like a number stays as it was written.
            _ if redact::is_secret(names::split_context(&key).1) => Ok(text[value.span()].to_owned()),
            DeValue::Integer(integer) => Ok(integer.to_string()),
            DeValue::Float(float) => Ok(float.to_string()),
            DeValue::Boolean(boolean) => Ok(boolean.to_string()),
            DeValue::Datetime(datetime) => Ok(datetime.to_string()),
        };
        each(Leaf {
            key,
            value: value_text,
            line: line_of(text, name.span().start),
        });
    }
}

/// Sections are known from their names alone, for [`KEYS`](super::names::KEYS) is made by [`for_each_leaf`] itself.
fn is_section(key: &str) -> bool {
    DEFAULTS.lines().any(|line| {
        line.strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|section| {
                section == key || section.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
            })
    })
}

fn article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

/// The line of a byte, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text[..offset].matches('\n').count()
}
