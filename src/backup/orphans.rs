//! The files of a directory that no manifest names: of a backup that was killed, of the SDK's example, whose
//! names ours are, or of another program.
//!
//! Only the run that has made such a file can know that it is worth nothing (`book`), so none is removed for
//! its name. What `--keep` may remove beside it, its header tells: one that is named as ours or the example's
//! keeps the files below it, and no others. What another program has made may need any file.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::manifest::Manifest;
use super::naming;
use crate::images::{ImageError, head};

/// Returns the names of the files that the manifests name.
pub(super) fn named(manifests: &[Manifest]) -> BTreeSet<&str> {
    manifests.iter().flat_map(Manifest::files).collect()
}

/// Returns the names of the files that something in `dir` needs beside `ours`, which no manifest names and
/// which are worth nothing by themselves: what the manifests name, or go over, and what lies below the files
/// of others. An error says why that can't be told.
pub(super) fn held(
    dir: &Path,
    manifests: &[Manifest],
    ours: &BTreeSet<&str>,
) -> Result<BTreeSet<String>, String> {
    let named = named(manifests);
    let mut others = unnamed(dir, &named).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    others.retain(|name| !ours.contains(name.as_str()));
    let mut held = needed(dir, &others)?;
    held.extend(named.into_iter().map(str::to_owned));
    held.extend(manifests.iter().flat_map(Manifest::backings).map(str::to_owned));
    Ok(held)
}

/// The same of a directory in which nobody is at work; a manifest that can't be read may name any file.
pub(crate) fn held_in(dir: &Path, ours: &BTreeSet<&str>) -> Result<BTreeSet<String>, String> {
    let (manifests, unreadable) =
        Manifest::all(dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    match unreadable.first() {
        Some((path, why)) => Err(format!("the manifest {} can't be used: {why}", path.display())),
        None => held(dir, &manifests, ours),
    }
}

/// Returns the files that no manifest names by now, `manifests` included, which were read before. A backup
/// writes its manifest after its files.
pub(super) fn unnamed_by_now(dir: &Path, manifests: &[Manifest]) -> io::Result<Vec<String>> {
    let mut found = unnamed(dir, &named(manifests))?;
    if !found.is_empty() {
        let (now, _) = Manifest::all(dir)?;
        let named = named(&now);
        found.retain(|name| !named.contains(name.as_str()));
    }
    Ok(found)
}

/// Returns the files that are none of `named`: every qcow2 image, and what is named as a configuration.
pub(super) fn unnamed(dir: &Path, named: &BTreeSet<&str>) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        let is_ours = name.ends_with(".qcow2") || naming::is_configuration(&name);
        if is_ours && !named.contains(name.as_str()) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the names of the files that those of `unnamed` need, all the way down; an error says why that
/// can't be told, so that any file may be needed.
pub(super) fn needed(dir: &Path, unnamed: &[String]) -> Result<BTreeSet<String>, String> {
    let mut needed = BTreeSet::new();
    for name in unnamed.iter().filter(|name| name.ends_with(".qcow2")) {
        if naming::Parts::of(name).is_none() {
            return Err(format!(
                "no manifest names {name}, which may need any file; move it elsewhere"
            ));
        }
        let mut next = below(dir, name)?;
        while let Some(name) = next {
            next = match needed.insert(name.clone()) {
                true => below(dir, &name)?,
                false => None,
            };
        }
    }
    Ok(needed)
}

/// Returns the name of the file in `dir` that an image has below it.
fn below(dir: &Path, name: &str) -> Result<Option<String>, String> {
    let backing = match head(&dir.join(name)) {
        Ok(head) => head.backing,
        // A file that was cut off needs nothing, and so does none.
        Err(ImageError::Damaged { .. }) => None,
        Err(ImageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(format!("{e}; it may need any file")),
    };
    let Some(backing) = backing else { return Ok(None) };
    let path = Path::new(OsStr::from_bytes(&backing));
    match path.file_name().and_then(OsStr::to_str) {
        Some(name) if !backing.contains(&b':') => Ok(Some(name.to_owned())),
        _ => Err(format!(
            "{name} goes over {}, which may be any file",
            String::from_utf8_lossy(&backing)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;
    use crate::images::Output;

    const DISK: &str = "3a8c1f56-9b55-4f0e-9f3b-0f1d2c3b4a59";

    fn name(stamp: &str, mode: &str) -> String {
        format!("{stamp}.None.{DISK}.{mode}.qcow2")
    }

    /// `--check` hashes for hours, and backups come to their ends meanwhile.
    #[test]
    fn a_file_that_a_manifest_names_since_the_others_were_read_is_not_unnamed() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (then, later) = (manifest("a.qcow2", None), manifest("b.qcow2", None));
        for name in ["a.qcow2", "b.qcow2", "c.qcow2"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let all = || unnamed_by_now(dir, std::slice::from_ref(&then)).unwrap();
        assert_eq!(all(), ["b.qcow2", "c.qcow2"]);
        let json = serde_json::to_vec(&later).unwrap();
        fs::write(dir.join("2.manifest.json"), json).unwrap();
        assert_eq!(all(), ["c.qcow2"]);
    }

    #[test]
    fn a_file_named_as_ours_keeps_what_is_below_it_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let (full, over) = (
            name("20261129083501", "full"),
            name("20261130083501", "incremental"),
        );
        Output::create_private(&dir.join(&full), 1 << 20)
            .and_then(Output::publish)
            .unwrap();
        Output::create_over(&dir.join(&over), 1 << 20, &full)
            .and_then(Output::publish)
            .unwrap();
        let cut_off = name("20261201083501", "full");
        fs::write(dir.join(&cut_off), "").unwrap();
        let all = unnamed(dir, &BTreeSet::new()).unwrap();
        assert_eq!(all, [full.clone(), over.clone(), cut_off.clone()]);
        assert_eq!(
            unnamed(
                dir,
                &BTreeSet::from([full.as_str(), over.as_str(), cut_off.as_str()])
            )
            .unwrap(),
            [""; 0]
        );
        let kept = needed(dir, &[over, cut_off]).unwrap();
        assert_eq!(kept, BTreeSet::from([full.clone()]));
        assert!(needed(dir, &[full]).unwrap().is_empty());
        fs::write(dir.join("other.qcow2"), "of another program").unwrap();
        let why = needed(dir, &["other.qcow2".to_owned()]).unwrap_err();
        assert!(why.contains("no manifest names other.qcow2"), "{why}");
    }
}
