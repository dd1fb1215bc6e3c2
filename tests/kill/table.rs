//! Checks that `docs/failures.md` and the tests name each other: every row names a test, every named test
//! exists, and every test of this crate has a row.

use std::collections::BTreeSet;

use crate::support::run::{text, top};

/// Returns the cells of each row of the document's tables, without the heads.
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

/// Returns the tests that a row names in its last cell, each in backquotes: `crate::module::name`.
fn named(row: &[String]) -> Vec<String> {
    let last = row.last().map(String::as_str).unwrap_or_default();
    let quoted = last.split('`').skip(1).step_by(2);
    quoted
        .filter(|name| name.contains("::"))
        .map(str::to_owned)
        .collect()
}

/// Tells whether the source of the module has a test of this name.
fn exists(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let [of_crate, module, test] = parts[..] else {
        return false;
    };
    let source = text(&top().join(format!("tests/{of_crate}/{module}.rs")));
    tests_in(&source).any(|found| found == test)
}

fn tests_in(source: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let pairs = (1..lines.len()).map(move |at| (lines[at - 1], lines[at]));
    pairs
        .filter(|(above, _)| *above == "#[test]")
        .filter_map(|(_, line)| line.strip_prefix("fn ")?.split('(').next())
}

#[test]
fn every_row_names_tests_that_exist() {
    let rows = rows();
    assert!(
        rows.len() > 20,
        "{} rows: the document was not parsed",
        rows.len()
    );
    for row in rows {
        assert_eq!(row.len(), 5, "a row of another shape: {row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "an empty cell: {row:?}");
        let named = named(&row);
        assert!(!named.is_empty(), "no test is named: {row:?}");
        for name in named {
            assert!(exists(&name), "{name} does not exist: {row:?}");
        }
    }
}

#[test]
fn every_test_of_this_crate_has_its_row() {
    let documented: BTreeSet<String> = rows().iter().flat_map(|row| named(row)).collect();
    let main = text(&top().join("tests/kill/main.rs"));
    let modules = main
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let modules = modules.filter(|module| !["support", "life", "table"].contains(module));
    for module in modules {
        let source = text(&top().join(format!("tests/kill/{module}.rs")));
        for test in tests_in(&source) {
            let name = format!("kill::{module}::{test}");
            assert!(
                documented.contains(&name),
                "{name} has no row in docs/failures.md"
            );
        }
    }
}
