//! Draws on a terminal again and again: in the last row of that at stderr, and a text on stdout.
//!
//! A COMMAND shares the terminal and writes to it when it likes, as a copy with a bar of its own does, and
//! our log does so too. A bar on the line of the cursor would be torn by each of them, also one of a crate
//! that draws bars. So the rows above the last one become the region that scrolls, as apt does it: whatever
//! is written there stays as it is, and the last row is drawn with the cursor saved and brought back. Each
//! drawing is one write, which the kernel does not mix with those of others. It sets the region again, which
//! `reset` and programs that use the whole screen drop.
//!
//! Nothing is drawn while another program has the terminal for itself: while this process is in the
//! background of its shell, and while the terminal gives each key at once (an editor, a shell's prompt). At
//! the end the region is given back even then, and the row is left as it is.

use std::io::{self, IsTerminal};

use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use terminal_size::{Height, Width, terminal_size_of};

use crate::logging::plain;
use crate::output;

/// A terminal with fewer rows has none to spare.
const MIN_ROWS: u16 = 5;

/// On a terminal with fewer columns nothing could be read.
const MIN_COLUMNS: u16 = 20;

/// See the head of this file. The row is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct LastRow {
    /// The number of the terminal's rows for which the last one may be kept; 0 while it is not kept.
    kept_of: u16,
    /// The last drawing is there whole, and nobody else has had the terminal since.
    is_sure: bool,
}

impl LastRow {
    /// Returns `None` where stderr is no terminal that can move its cursor.
    pub(crate) fn of_stderr() -> Option<LastRow> {
        let name = std::env::var("TERM").unwrap_or_default();
        let able = !matches!(name.as_str(), "" | "dumb");
        (able && io::stderr().is_terminal()).then_some(LastRow {
            kept_of: 0,
            is_sure: false,
        })
    }

    /// Draws the text that `line` returns for the number of columns. It cannot steer the terminal.
    pub(crate) fn draw(&mut self, line: impl FnOnce(usize) -> String) {
        if !is_ours() {
            self.is_sure = false;
            return;
        }
        match terminal_size_of(io::stderr()) {
            Some((Width(columns), Height(rows))) if rows >= MIN_ROWS && columns >= MIN_COLUMNS => {
                // One column stays free: some terminals scroll when the last one is filled.
                let text = plain(&line(columns.into()));
                let text: String = text.chars().take(usize::from(columns) - 1).collect();
                let keep = match self.kept_of {
                    kept_of if kept_of == rows && self.is_sure => String::new(),
                    kept_of if kept_of == rows || kept_of == 0 => keep_last(rows),
                    _ => clear_below() + &keep_last(rows),
                };
                self.kept_of = rows;
                self.is_sure = output::draw(&(keep + &drawing(rows, &text)));
            }
            _ => self.give_back(),
        }
    }

    /// Clears the row, and lets all of them scroll again. A drawing that is lost is tried again next time.
    pub(crate) fn give_back(&mut self) {
        if self.kept_of == 0 {
            return;
        }
        let last = match is_ours() {
            true => giving_back(self.kept_of),
            false => LETTING_ALL_SCROLL.to_owned(),
        };
        if output::draw_last(&last) {
            self.kept_of = 0;
        }
    }
}

impl Drop for LastRow {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// True when nobody else has the terminal for itself.
fn is_ours() -> bool {
    let stderr = io::stderr();
    // It may be a terminal that controls no process.
    let in_front = tcgetpgrp(&stderr).map_or(true, |group| group == getpgrp());
    in_front && tcgetattr(&stderr).is_ok_and(|modes| modes.local_flags.contains(LocalFlags::ICANON))
}

/// Makes all rows but the last one of `rows` the region that scrolls. The index (`ESC D`) makes room where
/// the cursor is in the last row, and the step up takes it out of there; the change of the region moves it.
fn keep_last(rows: u16) -> String {
    format!("\x1bD\x1b7\x1b[1;{}r\x1b8\x1b[A", rows - 1)
}

/// Clears what is below the row of the cursor: where the size has changed, the line is somewhere there.
fn clear_below() -> String {
    "\x1bD\x1b7\r\x1b[J\x1b8\x1b[A".to_owned()
}

/// Writes `text` into the last row of `rows`, without going on to a next one, and sets the region.
fn drawing(rows: u16, text: &str) -> String {
    let region = format!("\x1b[1;{}r", rows - 1);
    format!("\x1b7{region}\x1b[?7l\x1b[{rows};1H\x1b[2K{text}\x1b[?7h\x1b8")
}

/// Lets all rows scroll, and leaves the cursor where it is.
const LETTING_ALL_SCROLL: &str = "\x1b7\x1b[r\x1b8";

/// Returns what takes `text` back that was written to the terminal at stdout as the last thing, in whole
/// lines, as far as it is still on the screen.
pub(crate) fn taking_back(text: &str) -> String {
    let columns = terminal_size_of(io::stdout()).map_or(usize::MAX, |(Width(columns), _)| columns.into());
    let rows = text
        .lines()
        .map(|line| line.chars().count().div_ceil(columns).max(1));
    format!("\x1b[{}A\x1b[J", rows.sum::<usize>().max(1))
}

fn giving_back(rows: u16) -> String {
    format!("\x1b7\x1b[r\x1b[{rows};1H\x1b[2K\x1b8")
}
