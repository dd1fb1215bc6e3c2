//! The form of the page: rows of tables, and codes in their cells.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The place of the page.
pub(crate) const PAGE: &str = "docs/troubleshooting.md";

pub(crate) fn text_of_the_page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    fs::read_to_string(path).expect("read the page")
}

/// Every message that the page explains.
pub(crate) fn explained() -> BTreeSet<String> {
    rows(&text_of_the_page())
        .into_iter()
        .flat_map(|(messages, _)| messages)
        .collect()
}

/// The rows of the tables that begin with code: their messages, and their explanation.
pub(crate) fn rows(page: &str) -> Vec<(Vec<String>, String)> {
    let cells = page.lines().filter(|line| line.starts_with("| `"));
    let cells = cells.map(|line| {
        let line = line.replace("\\|", "\u{0}");
        let mut cells = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('\u{0}', "|"));
        let row = cells.next().zip(cells.next());
        let row = row.unwrap_or_else(|| panic!("{line}: a row has a message and an explanation"));
        assert_eq!(cells.next(), None, "{line}: a bar in a cell is written \\|");
        row
    });
    cells
        .map(|(messages, explanation)| (codes(&messages), explanation))
        .collect()
}

/// The codes in a cell, each between two rows of equally many backquotes.
fn codes(cell: &str) -> Vec<String> {
    let mut codes = Vec::new();
    let mut rest = cell;
    while let Some(begin) = rest.find('`') {
        let after = rest[begin..].trim_start_matches('`');
        let quotes = &rest[begin..rest.len() - after.len()];
        let end = end_of_code(after, quotes.len());
        let end = end.unwrap_or_else(|| panic!("a code has no end: {cell}"));
        codes.push(after[..end].trim().to_owned());
        rest = &after[end + quotes.len()..];
    }
    codes
}

/// The place of the next row of exactly `count` backquotes.
fn end_of_code(text: &str, count: usize) -> Option<usize> {
    let mut at = 0;
    while let Some(found) = text[at..].find('`') {
        at += found;
        let length = text[at..].chars().take_while(|c| *c == '`').count();
        if length == count {
            return Some(at);
        }
        at += length;
    }
    None
}

/// A message as the page has it.
pub(crate) fn span(message: &str) -> String {
    let message = message.replace('|', "\\|");
    match message.contains('`') {
        true => format!("`` {message} ``"),
        false => format!("`{message}`"),
    }
}

#[test]
fn rows_are_read_as_they_are_written() {
    let messages = ["it is `x` or …", "a | b c", "`x` is it"];
    let cells: Vec<_> = messages.iter().map(|message| span(message)).collect();
    let page = format!(
        "| message | meaning |\n| --- | --- |\n| {} | why; what |\n",
        cells.join("<br>")
    );
    let expected = vec![(messages.map(str::to_owned).to_vec(), "why; what".to_owned())];
    assert_eq!(rows(&page), expected);
}
