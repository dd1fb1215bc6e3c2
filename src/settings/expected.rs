//! How much COMMAND is expected to write, for the share that is done and the time that is left: the size of
//! the one file that it names or reads as its stdin, and the size of a new disk.
//!
//! It is a guess that nothing depends on. A sparse file may be copied with its holes or without them, so both
//! sizes are told; and a compressed one becomes more than it is, which shows when more was written.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Source, Wanted};

/// Unit of a file's blocks in bytes (`stat(2)`).
const BLOCK_BYTES: u64 = 512;

/// Returns the sizes in bytes that the whole may have, the likeliest first. Files below `mountpoint` are the
/// disk itself.
pub(super) fn wholes(command: &[OsString], mountpoint: &Path, source: &Source) -> Vec<u64> {
    let named = named_files(command, mountpoint);
    let of_file = match named.as_slice() {
        [] if !command.is_empty() => stdin_sizes(),
        [one] => File::open(one).map(sizes).unwrap_or_default(),
        _ => Vec::new(),
    };
    let of_disk = match source {
        Source::Engine(source) => match &source.wanted {
            Wanted::New(disk) => Some(disk.size),
            Wanted::Existing(_) | Wanted::Snapshot(_) | Wanted::OfBackup { .. } => None,
        },
        Source::Transfer(_) => None,
    };
    of_file.into_iter().chain(of_disk).collect()
}

/// The files that the arguments name, each once: `image.raw`, or `if=image.raw` as dd has it.
fn named_files(command: &[OsString], mountpoint: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for arg in command.iter().skip(1) {
        let value = arg.as_bytes().splitn(2, |byte| *byte == b'=').nth(1);
        for name in [Some(arg.as_os_str()), value.map(OsStr::from_bytes)]
            .into_iter()
            .flatten()
        {
            let Ok(path) = std::path::absolute(name) else {
                continue;
            };
            let is_file = || path.metadata().is_ok_and(|meta| is_image(&meta));
            if !path.starts_with(mountpoint) && is_file() && !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// True for what has an end.
fn is_image(meta: &Metadata) -> bool {
    meta.is_file() || meta.file_type().is_block_device()
}

fn stdin_sizes() -> Vec<u64> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    stdin.map(|stdin| sizes(stdin.into())).unwrap_or_default()
}

/// The data in a file, as far as its blocks tell, and its size; of a block device the size.
pub(super) fn sizes(mut file: File) -> Vec<u64> {
    let Ok(meta) = file.metadata() else {
        return Vec::new();
    };
    if meta.file_type().is_block_device() {
        // The place in a file is shared with COMMAND where the file is its stdin.
        let end = file.stream_position().and_then(|at| {
            let end = file.seek(SeekFrom::End(0))?;
            file.seek(SeekFrom::Start(at))?;
            Ok(end)
        });
        return end.into_iter().collect();
    }
    if !meta.is_file() {
        return Vec::new();
    }
    let data = (meta.blocks() * BLOCK_BYTES).min(meta.len());
    match data == meta.len() || data == 0 {
        true => vec![meta.len()],
        false => vec![data, meta.len()],
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::imageio::TransferUrl;

    fn told(dir: &Path, command: &[&str]) -> Vec<u64> {
        let url = TransferUrl::parse("https://h/images/t").unwrap();
        let command: Vec<OsString> = command
            .iter()
            .map(|word| word.replace("DIR", dir.to_str().unwrap()).into())
            .collect();
        wholes(&command, &dir.join("mnt"), &Source::Transfer(url))
    }

    #[test]
    fn the_one_file_that_a_command_names_is_what_it_copies() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["full", "other"] {
            std::fs::write(dir.path().join(name), vec![1; 5000]).unwrap();
        }
        let told = |command: &[&str]| told(dir.path(), command);
        assert_eq!(told(&["cp", "DIR/full", "{}"]), [5000]);
        assert_eq!(told(&["dd", "if=DIR/full", "of={}", "bs=1M"]), [5000]);
        assert_eq!(told(&["cmp", "DIR/full", "DIR/other"]), [0; 0], "which of them?");
        assert!(!told(&["cp", "DIR/missing", "{}"]).contains(&5000));
        std::fs::create_dir(dir.path().join("mnt")).unwrap();
        std::fs::write(dir.path().join("mnt/disk"), "the disk").unwrap();
        assert_eq!(told(&["cp", "DIR/full", "DIR/mnt/disk"]), [5000]);
    }

    #[test]
    fn a_sparse_file_has_two_sizes() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("sparse")).unwrap();
        file.set_len(1 << 30).unwrap();
        file.write_all_at(&[1; 1 << 16], 0).unwrap();
        file.sync_all().unwrap();
        let sizes = told(dir.path(), &["cp", "DIR/sparse", "{}"]);
        assert!(
            matches!(sizes[..], [data, 0x4000_0000] if data < 1 << 24),
            "{sizes:?}"
        );
    }
}
