//! A volume that has room for one image: what is there goes before another image is begun.
//!
//! `populate` writes to a volume that is nobody else's. An earlier attempt may have been killed, and has left
//! its unfinished image under a temporary name; or it has failed after its image had its name. Either would
//! take the space that the next one needs. A process that is at work there all the same loses its file, and
//! can't give it a name: it fails, and writes nothing into the image of the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::info;

use super::error::ImageError;
use super::temporary::{RANDOM_CHARACTERS, SUFFIX, beginning, folder_of, prefix};

/// Removes the file at `path`, and all that has one of its temporary names. What is no file stays, but for a
/// link in the place of the image: what it leads to is not on the volume, and nobody's to replace.
pub(crate) fn make_room(path: &Path) -> Result<(), ImageError> {
    for left in unfinished(path).into_iter().chain([path.to_owned()]) {
        if !is_image(&left) {
            continue;
        }
        info!("{} is of an earlier attempt, and goes", left.display());
        match fs::remove_file(&left) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(ImageError::io("remove", &left)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// True for a file, and for a link to one or to nothing; a device may be named by a link.
fn is_image(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => match fs::metadata(path) {
            Ok(meta) => meta.is_file(),
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        },
        Ok(meta) => meta.is_file(),
        Err(_) => false,
    }
}

/// Returns the unfinished files in `folder` whose names were to begin with one of `names`.
pub(crate) fn unfinished_in(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    let begins: Vec<String> = names.iter().map(|name| format!(".{}", beginning(name))).collect();
    let is_one = |name: &str| {
        let is_random = |(_, random): (&str, &str)| is_random(random);
        let whole = name.strip_suffix(SUFFIX).and_then(|name| name.rsplit_once('.'));
        whole.is_some_and(is_random) && begins.iter().any(|begin| name.starts_with(begin))
    };
    entries(folder, is_one)
}

/// The unfinished images of `path`. In a folder that can't be read there are none that we could know of.
fn unfinished(path: &Path) -> Vec<PathBuf> {
    let prefix = prefix(path.file_name().unwrap_or_default());
    let is_one = |name: &str| {
        let random = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(SUFFIX));
        random.is_some_and(is_random)
    };
    entries(folder_of(path), is_one)
}

/// True for the part of a temporary name that can't be guessed.
fn is_random(part: &str) -> bool {
    part.len() == RANDOM_CHARACTERS && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn entries(folder: &Path, is_one: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(&is_one));
    ours.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::{Format, Output};

    #[test]
    fn what_an_earlier_attempt_has_left_goes_and_all_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        // Its process is killed: nothing removes it.
        std::mem::forget(Output::create(&path, Format::Raw, 4096, true).unwrap());
        fs::write(&path, "an earlier image").unwrap();
        let others = [
            ".disk.img.abc.part",
            ".disk.img.abcdefghijk-.part",
            ".other.img.abcdefghijkl.part",
            "disk.img.abcdefghijkl.part",
            "other",
        ];
        for name in others {
            fs::write(folder.path().join(name), name).unwrap();
        }
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        fs::create_dir(folder.path().join(".disk.img.abcdefghijkl.part")).unwrap();
        make_room(&path).unwrap();
        let names = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut expected: Vec<&str> = others.to_vec();
        expected.extend(["lost+found", ".disk.img.abcdefghijkl.part"]);
        expected.sort_unstable();
        assert_eq!(names, expected);
        make_room(&path).unwrap();
        make_room(&folder.path().join("none/disk.img")).unwrap();
        make_room(Path::new("/dev/null")).unwrap();
        assert!(Path::new("/dev/null").exists());
    }

    #[test]
    fn unfinished_files_are_found_by_the_beginning_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("20261129083501.{}.full.qcow2", "c".repeat(60));
        for name in [long.as_str(), "20261129083502.None.d.full.qcow2"] {
            let path = folder.path().join(name);
            std::mem::forget(Output::create(&path, Format::Raw, 4096, false).unwrap());
        }
        fs::write(folder.path().join(".20261129083501.part"), "not of ours").unwrap();
        let found = |name: &str| unfinished_in(folder.path(), &[name]).len();
        assert_eq!((found("20261129083501.c"), found(&long)), (1, 1));
        assert_eq!((found("20261129083502.None"), found("2026")), (1, 2));
        assert_eq!(found("20261129083503"), 0);
    }

    /// Whoever has written to the volume before could name any file by it.
    #[test]
    fn a_link_in_the_place_of_the_image_goes_and_what_it_leads_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("disk.img"), folder.path().join("other"));
        fs::write(&other, "somebody else's").unwrap();
        for target in [other.as_path(), Path::new("none")] {
            std::os::unix::fs::symlink(target, &path).unwrap();
            make_room(&path).unwrap();
            Output::create(&path, Format::Raw, 4096, true)
                .unwrap()
                .publish()
                .unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(fs::read_to_string(&other).unwrap(), "somebody else's");
            fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        make_room(&path).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}
