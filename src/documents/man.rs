//! The pages of the manual, section 1: one for the program, one for each subcommand.

use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::settings::cli::definition;

/// The sections of each page that are written by hand.
const BY_HAND: [(&str, &str); 12] = [
    ("rhv-mount", include_str!("../../docs/man/rhv-mount.man")),
    (
        "rhv-mount-backup",
        include_str!("../../docs/man/rhv-mount-backup.man"),
    ),
    ("rhv-mount-ca", include_str!("../../docs/man/rhv-mount-ca.man")),
    (
        "rhv-mount-checksum",
        include_str!("../../docs/man/rhv-mount-checksum.man"),
    ),
    (
        "rhv-mount-download",
        include_str!("../../docs/man/rhv-mount-download.man"),
    ),
    (
        "rhv-mount-list",
        include_str!("../../docs/man/rhv-mount-list.man"),
    ),
    (
        "rhv-mount-populate",
        include_str!("../../docs/man/rhv-mount-populate.man"),
    ),
    (
        "rhv-mount-recover",
        include_str!("../../docs/man/rhv-mount-recover.man"),
    ),
    (
        "rhv-mount-restore",
        include_str!("../../docs/man/rhv-mount-restore.man"),
    ),
    (
        "rhv-mount-status",
        include_str!("../../docs/man/rhv-mount-status.man"),
    ),
    (
        "rhv-mount-umount",
        include_str!("../../docs/man/rhv-mount-umount.man"),
    ),
    (
        "rhv-mount-upload",
        include_str!("../../docs/man/rhv-mount-upload.man"),
    ),
];

/// The beginning of what roff renders, which each part would repeat.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// Returns the pages, each with its name.
pub(super) fn pages() -> io::Result<Vec<(String, String)>> {
    let mut program = definition().disable_help_subcommand(true);
    program.build();
    let subcommands = program.get_subcommands().filter(|one| !one.is_hide_set());
    std::iter::once(&program).chain(subcommands).map(page).collect()
}

/// Returns the page of a command that is built, with its name.
fn page(command: &Command) -> io::Result<(String, String)> {
    let name = name_of(command);
    let by_hand = BY_HAND.iter().find(|(page, _)| *page == name);
    let missing = || io::Error::other(format!("the page {name} has no part in docs/man"));
    let (_, by_hand) = by_hand.ok_or_else(missing)?;
    let man = Man::new(command.clone());
    let (mut description, mut options) = (Vec::new(), Vec::new());
    man.render_description_section(&mut description)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut description)?;
    }
    man.render_options_section(&mut options)?;
    let derived = [
        name_section(command),
        synopsis(command),
        text(description)?.replace(".SH Subcommands", ".SH SUBCOMMANDS"),
        grouped(&text(options)?),
    ];
    let derived = derived.concat().replace(PREAMBLE, "");
    let head = format!(
        ".TH {} 1 \"\" \"rhv-mount {}\" \"User Commands\"\n",
        name.to_uppercase().replace('-', "\\-"),
        env!("CARGO_PKG_VERSION"),
    );
    Ok((name, format!("{PREAMBLE}{head}{derived}{by_hand}")))
}

/// The name of the page of a command: `rhv-mount-umount`.
pub(super) fn name_of(command: &Command) -> String {
    command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned()
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(io::Error::other)
}

fn name_section(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{} - {about}", name_of(command)))]);
    roff.render()
}

/// The usage lines of the help, with the program's name in bold. All options would hide what matters.
fn synopsis(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let program = command.get_bin_name().unwrap_or(command.get_name());
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    let lines = usage.trim_start_matches("Usage: ").lines().map(str::trim);
    for (at, line) in lines.enumerate() {
        if at > 0 {
            roff.control("br", []);
        }
        let rest = line.strip_prefix(program).unwrap_or(line);
        roff.text([bold(program), roman(rest)]);
    }
    roff.render()
}

/// Makes the groups of options, each of them a section, parts of one section.
fn grouped(options: &str) -> String {
    let line = |line: &str| match line.strip_prefix(".SH ") {
        None | Some("OPTIONS") => format!("{line}\n"),
        Some(heading) => {
            let heading = heading.trim_matches('"').to_lowercase();
            let (first, rest) = heading.split_at(heading.len().min(1));
            format!(".SS {}{rest} options\n", first.to_uppercase())
        }
    };
    options.lines().map(line).collect()
}
