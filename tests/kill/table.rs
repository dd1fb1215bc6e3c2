//! `docs/failures.md` and the tests name each other: no row without a test, no name without one, and no test of this
//! crate that the document leaves out.

use std::collections::BTreeSet;

use crate::support::run::{text, top};

/// The rows of all tables of the document, as their cells; the heads are left out.
fn rows() -> Vec<Vec<String>> {
    let document = text(&top().join("docs/failures.md"));
    let lines = document.lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|');
        line.split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = lines.map(cells);
    rows.filter(|row| row[0] != "What fails" && !row[0].starts_with("--"))
        .collect()
}

/// The tests that a row names, each in backquotes: `crate::module::name`.
fn named(row: &[String]) -> Vec<String> {
    let last = row.last().map(String::as_str).unwrap_or_default();
    let quoted = last.split('`').skip(1).step_by(2);
    quoted
        .filter(|name| name.contains("::"))
        .map(str::to_owned)
        .collect()
}

/// Is there a test of this name in the source of its module?
fn is_there(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [of_crate, module, test] = parts[..] else {
        return false;
    };
    let source = text(&top().join(format!("tests/{of_crate}/{module}.rs")));
    tests_in(&source).any(|there| there == test)
}

fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let pairs = (1..lines.len()).map(move |at| (lines[at - 1], lines[at]));
    pairs
        .filter(|(above, _)| *above == "#[test]")
        .filter_map(|(_, line)| line.strip_prefix("fn ")?.split('(').next())
}

#[test]
fn every_row_names_tests_that_there_are() {
    let rows = rows();
    assert!(
        rows.len() > 20,
        "{} rows: the document is not understood",
        rows.len()
    );
    for row in rows {
        assert_eq!(row.len(), 5, "a row of another shape: {row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "an empty cell: {row:?}");
        let named = named(&row);
        assert!(!named.is_empty(), "no test is named: {row:?}");
        for name in named {
            assert!(is_there(&name), "{name} is not there: {row:?}");
        }
    }
}

#[test]
fn every_test_of_this_crate_has_its_row() {
    let told: BTreeSet<String> = rows().iter().flat_map(|row| named(row)).collect();
    let main = text(&top().join("tests/kill/main.rs"));
    let modules = main
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let modules = modules.filter(|module| !["support", "life", "table"].contains(module));
    for module in modules {
        let source = text(&top().join(format!("tests/kill/{module}.rs")));
        for test in tests_in(&source) {
            let name = format!("kill::{module}::{test}");
            assert!(told.contains(&name), "{name} has no row in docs/failures.md");
        }
    }
}
