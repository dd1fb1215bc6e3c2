//! Checks `docs/semantics.md`: each sentence of its lists names tests, and all of these exist.

use std::fs;
use std::path::Path;

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The points of the lists of a Markdown text, each on one line.
fn points(text: &str) -> Vec<String> {
    let mut points: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(first) = line.strip_prefix("- ") {
            points.push(first.to_owned());
            inside = true;
        } else if let Some(more) = line.strip_prefix("  ").filter(|_| inside) {
            let point = points.last_mut().expect("a point has begun");
            *point += &format!(" {more}");
        } else {
            inside = false;
        }
    }
    points
}

/// The sentences of a point, without their full stops.
fn sentences(point: &str) -> Vec<&str> {
    point.trim_end_matches('.').split(". ").collect()
}

/// The names of tests at the end of a sentence, in brackets and backquotes.
fn named_at_the_end(sentence: &str) -> Vec<&str> {
    let brackets = sentence.strip_suffix(')').and_then(|it| it.rsplit_once('('));
    let names = brackets.map(|(_, names)| names.split('`').skip(1).step_by(2).collect());
    names.unwrap_or_default()
}

/// Every name of a test in a text: `crate::module::test`, with further modules between.
fn named(text: &str) -> Vec<&str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans.filter(|span| span.contains("::")).collect()
}

/// Tells whether the source of the module has a test of this name.
fn exists(name: &str) -> bool {
    let Some((module, test)) = name.rsplit_once("::") else {
        return false;
    };
    let place = format!("tests/{}", module.replace("::", "/"));
    let sources = [format!("{place}.rs"), format!("{place}/mod.rs")];
    let source = sources.iter().find_map(|path| read(path)).unwrap_or_default();
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let head = format!("fn {test}(");
    lines
        .windows(2)
        .any(|pair| pair[0] == "#[test]" && pair[1].starts_with(&head))
}

#[test]
fn each_sentence_about_semantics_names_tests_that_exist() {
    let text = read("docs/semantics.md").expect("the document");
    let points = points(&text);
    assert!(points.len() > 30, "{} points: it was not parsed", points.len());
    for sentence in points.iter().flat_map(|point| sentences(point)) {
        assert!(
            named_at_the_end(sentence).iter().any(|name| name.contains("::")),
            "no test is named: {sentence}"
        );
    }
    let missing: Vec<_> = named(&text).into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "these tests do not exist: {missing:#?}");
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    assert!(exists("faults::reads::another_process_sees_the_last_write"));
    assert!(exists(
        "real::mount8::a_plain_umount_fails_where_data_is_lost_and_says_so"
    ));
    for wrong in [
        "faults::reads::another_process_sees_the_last",
        "faults::reads::mixed_operations",
        "faults::nowhere::another_process_sees_the_last_write",
        "faults",
    ] {
        assert!(!exists(wrong), "{wrong}");
    }
    let point = "It is so (`faults::reads::x`,\n  `faults::reads::y`). It may be so.";
    let point = points(&format!("- {point}\n\nEnd.")).remove(0);
    let counts: Vec<_> = sentences(&point)
        .iter()
        .map(|one| named_at_the_end(one).len())
        .collect();
    assert_eq!(counts, [2, 0]);
}
