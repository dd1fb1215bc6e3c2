//! Help, manual, completions, README and `docs/usage.md` are compared with the parser: where one of them says
//! something else, a test here fails.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::failure::Exit;
use crate::settings::cli::{Action, definition};

/// The sections of a page, in their order. Those after OPTIONS are written by hand.
const SECTIONS: [&str; 10] = [
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "OPTIONS",
    "EXAMPLES",
    "EXIT STATUS",
    "ENVIRONMENT",
    "FILES",
    "NOTES",
    "SEE ALSO",
];

fn parse(line: &str) -> Action {
    let args = line.split_whitespace().map(OsString::from).collect();
    Action::parse(args).unwrap_or_else(|e| panic!("{line}: {e}"))
}

/// Returns the text that `line` prints.
fn printed(line: &str) -> String {
    match parse(line) {
        Action::Print(text) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn document(path: &str) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(top.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// README, CHANGELOG, SECURITY, and all of `docs`.
fn documents() -> Vec<(String, String)> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = fs::read_dir(docs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| format!("docs/{}", name.to_str().unwrap()));
    let names = names.filter(|name| name.ends_with(".md"));
    let at_the_top = ["README.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned);
    let all = names.chain(at_the_top);
    all.map(|name| (name.clone(), document(&name))).collect()
}

/// The text of a page without its escapes.
fn plain(page: &str) -> String {
    let escapes = [
        ("\\-", "-"),
        ("\\fB", ""),
        ("\\fI", ""),
        ("\\fR", ""),
        ("\\*(Aq", "'"),
        ("\\&", ""),
    ];
    escapes.iter().fold(page.to_owned(), |text, (escape, meant)| {
        text.replace(escape, meant)
    })
}

fn pages() -> Vec<(String, String)> {
    let pages = man::pages().unwrap();
    pages
        .into_iter()
        .map(|(name, page)| (name, plain(&page)))
        .collect()
}

/// The program and its subcommands, as clap has built them.
fn commands() -> Vec<clap::Command> {
    let mut program = definition().disable_help_subcommand(true);
    program.build();
    let subcommands: Vec<_> = program.get_subcommands().cloned().collect();
    std::iter::once(program).chain(subcommands).collect()
}

/// The command lines in lines of code or in a help: those that begin with the program's name, without what a
/// shell or a reader sees behind them. A line with brackets is a synopsis.
fn command_lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| line.starts_with("rhv-mount ") && !line.contains('['));
    let ends = [" && ", " > ", " | ", "   ", "  #"];
    let line = |line: &str| {
        let end = ends.iter().filter_map(|end| line.find(end)).min();
        line[..end.unwrap_or(line.len())].to_owned()
    };
    lines.map(line).collect()
}

/// True for `--word`, and not for a line of dashes.
fn is_long_option(word: &str) -> bool {
    let name = word.strip_prefix("--");
    name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
}

/// The indented lines of a Markdown text.
fn code(text: &str) -> String {
    let lines = text.lines().filter(|line| line.starts_with("    "));
    lines.collect::<Vec<_>>().join("\n")
}

/// The lines of a terminal in a picture, as `scripts/picture` draws them.
fn drawn(picture: &str) -> String {
    let texts = picture.lines().filter_map(|line| line.strip_suffix("</text>"));
    let texts = texts.filter_map(|line| Some(line.rsplit_once('>')?.1.replace("&amp;", "&")));
    texts.collect::<Vec<_>>().join("\n")
}

/// The fenced blocks of a Markdown text.
fn fenced(text: &str) -> String {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.collect::<Vec<_>>().join("\n")
}

/// Writes each code that has two backquotes around it, and may have others in it, with one.
fn with_single_quotes(text: &str) -> String {
    let parts = |line: &str| {
        let parts = line.split("``").enumerate().map(|(n, part)| match n % 2 {
            0 => part.to_owned(),
            _ => format!("`{}`", part.replace('`', "")),
        });
        parts.collect::<String>()
    };
    let lines = text.lines().map(|line| match line.starts_with("```") {
        true => line.to_owned(),
        false => parts(line),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_short_help_is_one_page_and_the_long_one_is_whole() {
    let short = printed("rhv-mount -h");
    assert!(short.lines().count() <= 26, "{short}");
    assert!(short.lines().all(|line| line.len() <= 100), "{short}");
    assert!(command_lines(&short).len() >= 5, "{short}");
    let long = printed("rhv-mount --help");
    for command in commands() {
        let name = command.get_name();
        let help = match name {
            "rhv-mount" => long.clone(),
            _ => printed(&format!("rhv-mount {name} --help")),
        };
        assert!(
            name == "rhv-mount" || short.contains(name) && long.contains(name),
            "{name}"
        );
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let shown = arg.get_long().map(|long| format!("--{long}"));
            assert!(shown.is_none_or(|shown| help.contains(&shown)), "{arg} of {name}");
        }
    }
}

#[test]
fn every_command_line_in_help_manual_readme_usage_and_recipes_is_one() {
    let mut lines = command_lines(&printed("rhv-mount -h"));
    lines.extend(command_lines(&code(&document("docs/usage.md"))));
    for name in ["README.md", "docs/recipes.md"] {
        let found = command_lines(&fenced(&document(name)));
        assert!(found.len() > 5, "{name}: {found:?}");
        lines.extend(found);
    }
    let found = command_lines(&drawn(&document("docs/picture.svg")));
    assert!(found.len() > 3, "the picture: {found:?}");
    lines.extend(found);
    for (_, page) in pages() {
        let blocks = page.split("\n.EX\n").skip(1);
        lines.extend(blocks.flat_map(|block| command_lines(block.split("\n.EE").next().unwrap())));
    }
    assert!(lines.len() > 20, "{lines:?}");
    for line in lines {
        parse(&line);
    }
}

#[test]
fn every_command_has_a_page_with_all_sections_and_options() {
    let pages = pages();
    let names: BTreeSet<_> = pages.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, commands().iter().map(man::name_of).collect());
    for (command, (name, page)) in commands().iter().zip(&pages) {
        let mut rest = page.as_str();
        for section in SECTIONS {
            let head = format!(".SH {section}\n");
            let quoted = format!(".SH \"{section}\"\n");
            let found = rest.split_once(&head).or_else(|| rest.split_once(&quoted));
            let (_, after) = found.unwrap_or_else(|| panic!("{name} has no {section} in its place"));
            assert!(
                !after.starts_with(".SH") && !after.trim().is_empty(),
                "{section} of {name}"
            );
            rest = after;
        }
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            let shown = arg.get_long().map(|long| format!("--{long}"));
            assert!(shown.is_none_or(|shown| page.contains(&shown)), "{arg} in {name}");
        }
        let see_also = page.rsplit_once(".SH SEE ALSO").unwrap().1;
        let referred = see_also
            .lines()
            .filter_map(|line| line.strip_prefix(".BR rhv-mount"));
        for page in referred.map(|rest| format!("rhv-mount{}", rest.split(' ').next().unwrap())) {
            assert!(names.contains(&page), "{name} refers to {page}");
        }
    }
}

#[test]
fn the_formatter_has_nothing_to_say_about_the_manual() {
    for (name, page) in man::pages().unwrap() {
        let mut groff = Command::new("groff")
            .args(["-man", "-ww", "-Tutf8", "-z"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("groff, of `scripts/setup test`");
        groff.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let said = groff.wait_with_output().unwrap();
        let words = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && words.is_empty(), "{name}: {words}");
    }
}

#[test]
fn every_option_that_a_document_names_is_there() {
    let known: BTreeSet<String> = commands()
        .iter()
        .flat_map(|command| command.get_arguments())
        .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
        .collect();
    let mut seen = BTreeSet::new();
    for (name, text) in documents().into_iter().chain(pages()) {
        let text = with_single_quotes(&text);
        let spans = text.split('`').skip(1).step_by(2);
        let ours = spans.filter(|span| span.starts_with("--") || span.starts_with("rhv-mount "));
        let mut parts: Vec<String> = ours.map(|span| span.replace('\n', " ")).collect();
        let lines = text.lines().map(|line| line.trim().trim_start_matches(".B "));
        let lines = lines.filter(|line| line.starts_with("rhv-mount ") || line.starts_with("--"));
        parts.extend(lines.map(str::to_owned));
        for part in parts {
            let part = part.split(" -- ").next().unwrap_or_default();
            let words = part.split(|c: char| !(c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit()));
            for option in words.filter(|word| is_long_option(word)) {
                assert!(known.contains(option), "{name}: {option} in {part:?}");
                seen.insert(option.to_owned());
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

#[test]
fn the_page_about_the_use_has_every_subcommand() {
    let page = code(&document("docs/usage.md"));
    for command in commands().iter().skip(1).filter(|one| !one.is_hide_set()) {
        let line = format!("rhv-mount {}", command.get_name());
        assert!(page.contains(&line), "{line}");
    }
}

#[test]
fn an_exit_code_means_the_same_everywhere() {
    let help = printed("rhv-mount --help");
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let usage = document("docs/usage.md");
    let (_, page) = pages().swap_remove(0);
    for (exit, meaning) in Exit::MEANINGS {
        let code = exit as u8;
        assert!(help.contains(&format!(" {code} {meaning}")), "{help}");
        assert!(
            usage.contains(&format!("\n| {code} | {meaning} |\n")),
            "{code} in docs/usage.md"
        );
        assert!(
            page.contains(&format!("\n.B {code}\n{meaning}\n")),
            "{code} in the manual"
        );
    }
}

#[test]
fn all_files_are_where_man_and_the_shells_look_for_them() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path()).unwrap();
    for command in commands() {
        let page = folder
            .path()
            .join(format!("man/man1/{}.1", man::name_of(&command)));
        assert!(page.is_file(), "{}", page.display());
    }
    for (shell, place) in COMPLETIONS {
        let script = fs::read_to_string(folder.path().join(place)).unwrap();
        assert!(
            script.contains(&format!("=\"{shell}\"")) || script.contains(&format!("={shell} ")),
            "{script}"
        );
    }
    let script = folder.path().join(COMPLETIONS[0].1);
    assert!(
        Command::new("bash")
            .arg("-n")
            .arg(script)
            .status()
            .unwrap()
            .success()
    );
}
