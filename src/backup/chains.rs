//! The files of a disk, as a look at them shows: each is there, with the length that its manifest tells, and
//! names the file below it as its manifest does. A restore asks this before anything is made, and a check
//! before it reads their bytes.

use std::fs;
use std::path::Path;

use super::kept::KeptDisk;
use crate::images::head;

/// Says what is wrong with the files of a disk, if anything is.
pub(crate) fn check(dir: &Path, disk: &KeptDisk) -> Result<(), String> {
    for file in &disk.files {
        let Some(length) = file.length else {
            return Err(format!(
                "no manifest names {}, which its last file needs",
                file.name
            ));
        };
        let looked = looks_as_it_was(dir, &file.name, length, file.backing.as_deref());
        looked.map_err(|why| format!("{}: {why}", file.name))?;
    }
    match disk.files.last().and_then(|last| last.backing.as_deref()) {
        None => Ok(()),
        Some(backing) => Err(format!("its files lead back to {backing}")),
    }
}

/// Says why a file is not as it was, by its length, and by the file below it that its header names: the bytes
/// may be the same over another one, until that changes or goes.
pub(super) fn looks_as_it_was(dir: &Path, file: &str, had: u64, backing: Option<&str>) -> Result<(), String> {
    let path = dir.join(file);
    let length = fs::metadata(&path).map_err(|e| e.to_string())?.len();
    if length != had {
        return Err(format!("it has {length} bytes, and had {had}"));
    }
    let there = head(&path).map_err(|e| e.to_string())?.backing;
    if there.as_deref() == backing.map(str::as_bytes) {
        return Ok(());
    }
    let shown = |name: Option<&[u8]>| match name {
        Some(name) => String::from_utf8_lossy(name).into_owned(),
        None => "no file".to_owned(),
    };
    Err(format!(
        "{file} goes over {}, and went over {}: the file below it was exchanged",
        shown(there.as_deref()),
        shown(backing.map(str::as_bytes))
    ))
}

#[cfg(test)]
mod tests {
    use super::super::kept::tests::two as two_points;
    use super::*;
    use crate::images::{Format, Output};

    /// A directory with a full file `a`, and `b` over it; and a disk that needs both.
    fn chain() -> (tempfile::TempDir, KeptDisk) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (a, b) = (dir.join("a"), dir.join("b"));
        let made = Output::create(&a, Format::Qcow2, 1 << 20, false).unwrap();
        made.complete().unwrap().publish().unwrap();
        let made = Output::create_over(&b, 1 << 20, "a").unwrap();
        made.complete().unwrap().publish().unwrap();
        let mut disk = two_points()[1].disks[0].clone();
        for file in &mut disk.files {
            file.length = Some(fs::metadata(dir.join(&file.name)).unwrap().len());
        }
        (folder, disk)
    }

    #[test]
    fn a_chain_is_good_where_every_file_is_there_and_names_the_one_below_it() {
        let (folder, disk) = chain();
        let dir = folder.path();
        check(dir, &disk).unwrap();
        let because = |change: &dyn Fn(&mut KeptDisk)| {
            let mut changed = disk.clone();
            change(&mut changed);
            check(dir, &changed).unwrap_err()
        };
        assert!(because(&|disk| disk.files[1].length = None).contains("no manifest names a"));
        assert!(because(&|disk| disk.files[0].length = Some(1)).contains("and had 1"));
        let why = because(&|disk| disk.files[0].backing = Some("c".into()));
        assert!(why.starts_with("b: b goes over a, and went over c"), "{why}");
        let why = because(&|disk| disk.files[1].backing = Some("b".into()));
        assert!(
            why.starts_with("a: a goes over no file, and went over b"),
            "{why}"
        );
        fs::write(dir.join("b"), vec![1; disk.files[0].length.unwrap() as usize]).unwrap();
        assert!(check(dir, &disk).unwrap_err().starts_with("b: "));
        fs::remove_file(dir.join("a")).unwrap();
        assert!(check(dir, &disk).is_err());
    }
}
