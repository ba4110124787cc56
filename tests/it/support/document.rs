//! What the documents tell people to type, read out of them: so that a test runs it, and it cannot rot.

use std::{fs, path::Path};

/// A fenced block of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The heading that it stands under, without the marks.
    pub heading: String,
    /// The paragraph before it, as one line.
    pub introduced_by: String,
    /// What is written after the opening fence.
    pub language: String,
    /// What is in it.
    pub text: String,
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of a document, in their order.
pub fn blocks(text: &str) -> Vec<Block> {
    let (mut found, mut heading, mut paragraph) = (Vec::new(), String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let inside: Vec<_> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            found.push(Block {
                heading: heading.clone(),
                introduced_by: paragraph.join(" "),
                language: language.to_owned(),
                text: inside.join("\n"),
            });
            paragraph.clear();
        } else if line.starts_with('#') {
            line.trim_start_matches('#').trim().clone_into(&mut heading);
            paragraph.clear();
        } else if line.is_empty() {
            // A blank line between a paragraph and its block ends nothing.
            if lines.clone().next().is_some_and(|next| !next.starts_with("```")) {
                paragraph.clear();
            }
        } else {
            paragraph.push(line);
        }
    }
    found
}

#[test]
fn a_block_knows_its_heading_and_what_introduces_it() {
    let text = "# One\n\nfirst\n\nlook\nhere:\n\n```sql\nselect 1;\nselect 2\n```\n\n## Two\n```\nx\n```\n";
    let block = |heading: &str, introduced_by: &str, language: &str, text: &str| Block {
        heading: heading.to_owned(),
        introduced_by: introduced_by.to_owned(),
        language: language.to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(
        blocks(text),
        [
            block("One", "look here:", "sql", "select 1;\nselect 2"),
            block("Two", "", "", "x")
        ]
    );
}
