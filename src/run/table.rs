//! Tables for a terminal: columns as wide as their widest cell, two blanks between them.

use crate::logging::plain;

/// A column of a table of `T`.
pub(super) struct Column<T> {
    title: &'static str,
    /// Numbers have their last digits below each other.
    is_number: bool,
    /// The text of a cell; an empty one is shown as `-`.
    cell: fn(&T) -> String,
}

/// A column of words.
pub(super) fn words<T>(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column {
        title,
        is_number: false,
        cell,
    }
}

/// A column of numbers.
pub(super) fn numbers<T>(title: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column {
        title,
        is_number: true,
        cell,
    }
}

/// Returns a line with the titles and one for each row. Names from elsewhere cannot steer the terminal, nor
/// begin a line.
pub(super) fn table<T>(rows: &[T], columns: &[Column<T>]) -> String {
    let titles = columns.iter().map(|column| column.title.to_owned()).collect();
    let cells = rows.iter().map(|row| {
        let cells = columns.iter().map(|column| match plain(&(column.cell)(row)) {
            cell if cell.trim().is_empty() => "-".to_owned(),
            cell => cell,
        });
        cells.collect::<Vec<String>>()
    });
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(cells).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut out = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).zip(columns);
        let padded = padded.map(|((cell, width), column)| match column.is_number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        let padded: Vec<String> = padded.collect();
        out += padded.join("  ").trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts;

    struct Row(&'static str, u64);

    #[test]
    fn columns_stand_below_their_titles() {
        let columns: [Column<Row>; 3] = [
            words("NAME", |row| row.0.to_owned()),
            numbers("SIZE", |row| amounts::size(row.1)),
            words("STATUS", |row| row.0.chars().rev().collect()),
        ];
        let rows = [Row("web", 20 << 30), Row("größe", 3 << 29), Row("", 0)];
        let lines = [
            "NAME        SIZE  STATUS",
            "web    20.00 GiB  bew",
            "größe   1.50 GiB  eßörg",
            "-        0 bytes  -",
        ];
        assert_eq!(table(&rows, &columns), lines.join("\n") + "\n");
        assert_eq!(table(&[], &columns), "NAME  SIZE  STATUS\n");
    }

    #[test]
    fn a_name_from_elsewhere_steers_no_terminal_and_makes_no_line() {
        let columns: [Column<Row>; 1] = [words("NAME", |row| row.0.to_owned())];
        let shown = table(&[Row("a\u{1b}[2Jb\nNAME\t\u{9b}0m", 0)], &columns);
        assert_eq!(shown.lines().count(), 2, "{shown:?}");
        assert!(
            !shown.contains(|c: char| c.is_control() && c != '\n'),
            "{shown:?}"
        );
    }
}
