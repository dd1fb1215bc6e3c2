//! The fuzz target for images; see `crate::fuzzing`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Backing, Source};

/// So many extents and so many bytes of a disk are looked at.
const EXTENTS: usize = 64;
const BYTES: u64 = 1 << 20;

/// Opens an image whose file is the input, and reads from it. Extents must follow each other up to the end of
/// the disk, what they call zeros must be zeros, and the same bytes must be read in pieces and at once, or be
/// damaged both times. A message is one line. Files that the image names are not there.
pub fn images(data: &[u8]) {
    let file = File::from(memfd_create(c"image", MFdFlags::empty()).unwrap());
    file.write_all_at(data, 0).unwrap();
    let path = Path::new("/nonexistent/image");
    let source = match Source::of_file(path, file, None, Backing::Beside) {
        Ok(source) => source,
        Err(error) => return assert_line(&error.to_string()),
    };
    let size = source.size();
    assert!(i64::try_from(size).is_ok());
    let mut at = 0;
    for _ in 0..EXTENTS {
        if at == size {
            break;
        }
        let extent = match source.extent_at(at) {
            Ok(extent) => extent,
            Err(error) => return assert_line(&error.to_string()),
        };
        assert!(
            extent.length > 0 && extent.length <= size - at,
            "{at}: {extent:?}"
        );
        if extent.zero {
            for from in [at, at + extent.length - extent.length.min(BYTES)] {
                let mut bytes = vec![1; extent.length.min(BYTES) as usize];
                source.read_at(&mut bytes, from).expect("a zero needs no data");
                assert!(bytes.iter().all(|byte| *byte == 0), "{at}: {extent:?}");
            }
        }
        at += extent.length;
    }
    for from in [0, size - size.min(BYTES)] {
        let mut whole = vec![1; size.min(BYTES) as usize];
        let mut parts = vec![2; whole.len()];
        let read = source.read_at(&mut whole, from);
        let mut pieces = parts.chunks_mut(7777).enumerate();
        let read_parts = pieces.try_for_each(|(n, part)| source.read_at(part, from + n as u64 * 7777));
        match (read, read_parts) {
            (Ok(()), Ok(())) => assert!(whole == parts),
            (Err(error), Err(_)) => assert_line(&error.to_string()),
            (read, parts) => panic!("at once {read:?}, in pieces {parts:?}"),
        }
    }
    source.check_unchanged().unwrap();
}

fn assert_line(message: &str) {
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(message.contains("/nonexistent/"), "{message}");
}
