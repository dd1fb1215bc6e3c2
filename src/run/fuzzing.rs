//! Fuzz targets for the files of mounts and their words to each other; see `crate::fuzzing`.

use std::io::BufReader;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::status::text;
use crate::fuzzing::{Pieces, first_line};
use crate::mount::control::{Ask, MAX_LINE_BYTES, Status, read_line};
use crate::mount::mount_table::owner_in;
use crate::mount::record::{Ending, Record};
use crate::process::runtime_directory::key_of;
use crate::transfer::note::Note;

/// Takes a note, record or ending from a file. One that is understood is written as it was read.
pub fn notes(data: &[u8]) {
    fn same_again<T: Serialize + DeserializeOwned>(data: &[u8]) -> Option<T> {
        let value: T = serde_json::from_slice(data).ok()?;
        let written = serde_json::to_vec_pretty(&value).expect("it came from JSON");
        let again: T = serde_json::from_slice(&written).expect("it was written by us");
        assert_eq!(serde_json::to_vec_pretty(&again).expect("again"), written);
        Some(value)
    }
    if let Some(note) = same_again::<Note>(data) {
        assert_eq!(key_of(&note.mountpoint).len(), 16);
    }
    same_again::<Record>(data);
    same_again::<Ending>(data);
}

/// Takes the words of one process to another over a control socket: a request, a status, an ending. A line
/// that never ends is given up on, and the status of another user's process is shown in the lines that we
/// write.
pub fn control_messages(data: &[u8]) {
    const LINES: usize = 14;
    const AHEAD: usize = 8 << 10;
    fn read<T: DeserializeOwned>(data: &[u8]) -> Option<T> {
        let pieces = Pieces::new(data);
        let taken = pieces.taken();
        let value = read_line(BufReader::new(pieces)).ok();
        assert!(
            taken.get() <= MAX_LINE_BYTES as usize + AHEAD,
            "{} bytes of one line",
            taken.get()
        );
        value
    }
    read::<Ask>(data);
    read::<Ending>(data);
    if let Some(status) = read::<Status>(data) {
        let shown = text(&status);
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(
            !shown.contains(steers) && shown.lines().count() <= LINES,
            "{shown:?}"
        );
    }
}

/// Takes a path on the first line, then the kernel's table of mounts. A mount of ours on this path is found
/// whatever is mounted before it, and nothing but a mount of ours counts.
pub fn mount_table(data: &[u8]) {
    let (path, table) = first_line(data);
    let Ok(path) = std::str::from_utf8(path) else {
        return;
    };
    let found = owner_in(table, Path::new(path));
    let text = String::from_utf8_lossy(table);
    assert!(found.is_none() || text.contains(" - fuse.rhv-mount ") && text.contains("user_id="));
    let escaped = |c: char| c.is_control() || c == ' ' || c == '\\' || c == '\u{fffd}';
    if path.starts_with('/') && !path.contains(escaped) {
        let ours = format!("\n9 8 0:7 / {path} rw - fuse.rhv-mount rhv-mount rw,user_id=1234\n");
        let more = [table, ours.as_bytes()].concat();
        assert_eq!(owner_in(&more, Path::new(path)), Some(1234));
    }
}
