//! What is drawn on a terminal again and again.

use std::io;

use terminal_size::{Width, terminal_size_of};

/// Returns what takes `text` back that was written to the terminal at stdout as the last thing, in whole
/// lines, as far as it is still on the screen.
pub(crate) fn taking_back(text: &str) -> String {
    let columns = terminal_size_of(io::stdout()).map_or(usize::MAX, |(Width(columns), _)| columns.into());
    let rows = text
        .lines()
        .map(|line| line.chars().count().div_ceil(columns).max(1));
    format!("\x1b[{}A\x1b[J", rows.sum::<usize>().max(1))
}
