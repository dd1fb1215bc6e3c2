//! The tests share these: qemu-img and qemu-io, a folder, and the comparison with what qemu-img says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::images::{Format, Source};

/// A folder with images, and the programs run in it.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a program in the folder; each argument stands between spaces. It must succeed. Its stdout is
    /// returned.
    pub(super) fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap())
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{line}: {e}; it is in the package qemu-utils"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{line}: {}\n{text}{errors}",
            output.status
        );
        text
    }

    /// Writes into an image with qemu-io: commands as in `write -P 1 0 64k`, between semicolons.
    pub(super) fn qemu_io(&self, format: &str, image: &str, commands: &str) {
        let mut command = Command::new("qemu-io");
        command.args(["-f", format]).current_dir(self.0.path());
        for part in commands.split(';') {
            command.args(["-c", part.trim()]);
        }
        let output = command.arg(image).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = !output.status.success() || text.contains("failed") || text.contains("Invalid");
        assert!(!failed, "{image}: {commands}: {text}{output:?}");
    }

    /// Writes a raw image of so many bytes, with holes, zeros and data that hardly repeats.
    pub(super) fn raw(&self, name: &str, size: usize) -> Vec<u8> {
        let bytes = pattern(size);
        fs::write(self.path(name), &bytes).unwrap();
        // It gets its holes back, so that extents are of both kinds.
        self.run(&format!("cp --sparse=always {name} {name}.sparse"));
        fs::rename(self.path(&format!("{name}.sparse")), self.path(name)).unwrap();
        bytes
    }
}

/// A third of the blocks of 48 KiB is zeros, a third text that can be compressed, a third noise.
pub(super) fn pattern(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match bytes.len() / (48 << 10) % 3 {
            0 => bytes.extend([0; 8]),
            1 => bytes.extend((bytes.len() as u64 / 64).to_le_bytes()),
            _ => bytes.extend(state.to_le_bytes()),
        }
    }
    bytes.truncate(size);
    bytes
}

/// Reads all of an image, in pieces of this size.
pub(super) fn read_all(source: &Source, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; source.size() as usize];
    for (number, part) in bytes.chunks_mut(piece).enumerate() {
        source.read_at(part, (number * piece) as u64).unwrap();
    }
    bytes
}

/// Compares with `qemu-img convert` and `qemu-img map`: the size, every byte, read in pieces that fit no
/// cluster; and what qemu-img calls zero is called so here. More may be, as holes of the file count here for
/// every image, and for qemu-img for some; but nothing that is not zeros.
pub(super) fn assert_as_qemu_sees(folder: &Folder, image: &str, format: Format) {
    let source = Source::open(&folder.path(image), None).unwrap();
    assert_eq!(source.format(), format, "{image}");
    folder.run(&format!(
        "qemu-img convert -f {format} -O raw {image} {image}.converted"
    ));
    let expected = fs::read(folder.path(&format!("{image}.converted"))).unwrap();
    assert_eq!(source.size(), expected.len() as u64, "{image}");
    for piece in [100_003, 1 << 20] {
        assert_same(&read_all(&source, piece), &expected, image);
    }
    let zeros = zeros_of(&source);
    let map = folder.run(&format!("qemu-img map --output=json -f {format} {image}"));
    let map: Vec<Value> = serde_json::from_str(&map).unwrap();
    for extent in &map {
        let number = |name: &str| extent[name].as_u64().unwrap();
        let (start, length) = (number("start"), number("length"));
        let zero = extent["zero"].as_bool().unwrap();
        let found = zeros[start as usize..(start + length) as usize]
            .iter()
            .filter(|zero| **zero)
            .count();
        assert!(
            !zero || found as u64 == length,
            "{image}: {found} zeros of {extent}"
        );
    }
    let covered: u64 = map.iter().map(|extent| extent["length"].as_u64().unwrap()).sum();
    assert_eq!(covered, source.size(), "{image}");
    source.check_unchanged().unwrap();
}

/// Says for each byte whether an extent calls it zero; it must then be one.
fn zeros_of(source: &Source) -> Vec<bool> {
    let mut zeros = vec![false; source.size() as usize];
    let mut at = 0;
    while at < source.size() {
        let extent = source.extent_at(at).unwrap();
        assert!(
            extent.length > 0 && at + extent.length <= source.size(),
            "{at}: {extent:?}"
        );
        if extent.zero {
            let mut bytes = vec![1; extent.length as usize];
            source.read_at(&mut bytes, at).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0), "{at}: {extent:?}");
            zeros[at as usize..(at + extent.length) as usize].fill(true);
        }
        at += extent.length;
    }
    zeros
}

pub(super) fn assert_same(read: &[u8], expected: &[u8], what: &str) {
    assert_eq!(read.len(), expected.len(), "{what}");
    let differs = read.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!(differs, None, "{what}: the first byte that differs");
}

/// Returns the message with which an image is refused; it names the image.
pub(super) fn refusal(path: &Path) -> String {
    let error = Source::open(path, None)
        .map(|source| source.size())
        .unwrap_err()
        .to_string();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(error.contains(name), "{error}");
    error
}
