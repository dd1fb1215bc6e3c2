//! Compressed clusters. The output is bounded by the cluster, the input by its entry in the L2 table.

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::StreamingDecoder;

use super::header::Compression;

/// A cluster of zstd may ask for no more memory than this; QEMU's ask for a cluster, 2 MiB at most.
const MAX_WINDOW: u64 = 8 << 20;

/// Fills `cluster` from its compressed bytes, behind which others may follow. An error says what is
/// wrong with them.
pub(super) fn expand(how: Compression, bytes: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    match how {
        Compression::Deflate => deflate(bytes, cluster),
        Compression::Zstd => zstd(bytes, cluster),
    }
}

fn deflate(bytes: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    let mut decoder = Decompress::new(false);
    match decoder.decompress(bytes, cluster, FlushDecompress::Finish) {
        Ok(Status::Ok | Status::StreamEnd | Status::BufError)
            if decoder.total_out() == cluster.len() as u64 =>
        {
            Ok(())
        }
        Ok(_) => Err("it is shorter than a cluster".to_owned()),
        Err(e) => Err(e.to_string()),
    }
}

fn zstd(bytes: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    match window(bytes) {
        Some(window) if window <= MAX_WINDOW => {}
        _ => return Err("it asks for too much memory, or is no zstd".to_owned()),
    }
    let mut decoder = StreamingDecoder::new(bytes).map_err(|e| e.to_string())?;
    decoder.read_exact(cluster).map_err(|e| e.to_string())
}

/// Returns the memory in bytes that a frame of zstd asks for (RFC 8878, 3.1.1.1).
fn window(frame: &[u8]) -> Option<u64> {
    let rest = frame.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (&descriptor, rest) = rest.split_first()?;
    if descriptor & 0x20 == 0 {
        let window = *rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // A frame of one segment has no window but its size.
    let rest = rest.get([0, 1, 2, 4][usize::from(descriptor & 3)]..)?;
    match descriptor >> 6 {
        0 => rest.first().map(|size| u64::from(*size)),
        1 => rest
            .first_chunk()
            .map(|size| u64::from(u16::from_le_bytes(*size)) + 256),
        2 => rest
            .first_chunk()
            .map(|size| u64::from(u32::from_le_bytes(*size))),
        _ => rest.first_chunk().map(|size| u64::from_le_bytes(*size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_asks_for_much_memory_is_refused() {
        let magic = [0x28, 0xb5, 0x2f, 0xfd];
        let frame = |rest: &[u8]| [&magic, rest].concat();
        assert_eq!(window(&frame(&[0, 0])), Some(1024));
        assert_eq!(window(&frame(&[0, 0x5b])), Some((2 << 20) + (2 << 20) / 8 * 3));
        assert_eq!(window(&frame(&[0x20, 9])), Some(9));
        assert_eq!(window(&frame(&[0xa0, 0, 0, 0x20, 0])), Some(2 << 20));
        let greedy = zstd(&frame(&[0, 0xff]), &mut [0; 512]).unwrap_err();
        assert!(greedy.contains("too much memory"), "{greedy}");
        assert!(zstd(b"no frame", &mut [0; 512]).is_err());
    }

    #[test]
    fn deflate_must_fill_the_cluster() {
        // One stored block of three bytes, and what follows it in the file.
        let stored = [1, 3, 0, 0xfc, 0xff, b'a', b'b', b'c', 0xff, 0xff];
        let mut cluster = [0; 3];
        deflate(&stored, &mut cluster).unwrap();
        assert_eq!(&cluster, b"abc");
        assert!(deflate(&stored, &mut [0; 4]).is_err());
        assert!(deflate(&[0xff; 20], &mut [0; 4]).is_err());
    }
}
