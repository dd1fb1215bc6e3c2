//! The header of a qcow2 image, and what it may claim (QEMU: docs/interop/qcow2.txt, block/qcow2.c).
//!
//! Everything is checked here before any of it is used: the sizes of the tables against QEMU's own limits
//! and against the file, so that nothing is allocated or looped over because of a number in a header.

use std::fs::File;
use std::path::Path;

use crate::images::error::ImageError;
use crate::images::raw::read_up_to;

/// QEMU's bounds: log2 of a cluster's bytes, the bytes of the L1 and of the refcount table, and those of the
/// name of a backing file.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const MAX_NAME: usize = 1023;
/// The header extensions together with the header have no more bytes in an image that QEMU makes. They end
/// within the first cluster.
const MAX_HEADER: usize = 64 << 10;

const V2_LENGTH: usize = 72;
const V3_LENGTH: usize = 104;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// A header that was found good.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Bytes of the guest's disk.
    pub(super) size: u64,
    /// The offset of the L1 table; all of it that the size needs is within the file.
    pub(super) l1_offset: u64,
    pub(super) backing: Option<Vec<u8>>,
    pub(super) backing_format: Option<String>,
    /// The guest's bytes are in another file, of this name if it has one.
    pub(super) data_file: Option<Option<Vec<u8>>>,
    pub(super) compression: Compression,
    /// An entry of an L2 table has 16 bytes, and tells of 32 parts of its cluster.
    pub(super) extended: bool,
}

impl Header {
    /// log2 of the bytes of an entry in an L2 table.
    pub(super) fn entry_bits(&self) -> u32 {
        if self.extended { 4 } else { 3 }
    }

    /// log2 of the bytes of the guest's disk that an L2 table tells of.
    pub(super) fn coverage_bits(&self) -> u32 {
        2 * self.cluster_bits - self.entry_bits()
    }
}

/// Reads the header of the image `path`.
pub(super) fn read(path: &Path, file: &File, length: u64) -> Result<Header, ImageError> {
    let mut bytes = vec![0; MAX_HEADER];
    let count = read_up_to(file, &mut bytes).map_err(ImageError::io("read", path))?;
    bytes.truncate(count);
    parse(&bytes, length).map_err(|fault| match fault {
        Fault::Damaged(what) => ImageError::damaged(path, what),
        Fault::Refused(what) => ImageError::Refused {
            path: path.to_owned(),
            what,
        },
    })
}

pub(super) enum Fault {
    Damaged(String),
    /// The image may be good, but this program does not read it.
    Refused(String),
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Damaged(what.into()))
}

fn refused<T>(what: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Refused(what.into()))
}

fn parse(bytes: &[u8], length: u64) -> Result<Header, Fault> {
    if bytes.len() < V2_LENGTH {
        return damaged("its header is cut off");
    }
    if !bytes.starts_with(b"QFI\xfb") {
        return damaged("it does not begin as a qcow2 image");
    }
    let version = word(bytes, 4);
    if !(2..=3).contains(&version) {
        return refused(format!("is qcow2 of version {version}"));
    }
    let cluster_bits = word(bytes, 20);
    if !CLUSTER_BITS.contains(&cluster_bits) {
        return damaged(format!("it claims clusters of 2^{cluster_bits} bytes"));
    }
    let cluster = 1_u64 << cluster_bits;
    let bytes = &bytes[..bytes.len().min(cluster as usize)];
    match word(bytes, 32) {
        0 => {}
        2 => return refused("is encrypted with LUKS"),
        _ => return refused("is encrypted"),
    }

    let features = if version == 3 && bytes.len() >= V3_LENGTH {
        long(bytes, 72)
    } else {
        0
    };
    let header_length = match version {
        2 => V2_LENGTH,
        _ if bytes.len() < V3_LENGTH => return damaged("its header is cut off"),
        _ => word(bytes, 100) as usize,
    };
    if version == 3 && !(V3_LENGTH..=bytes.len()).contains(&header_length) {
        return damaged(format!("it claims a header of {header_length} bytes"));
    }
    if features & CORRUPT != 0 {
        return damaged("QEMU has marked it as corrupt");
    }
    // A dirty image's reference counts may be wrong, and nobody who only reads needs them.
    let unknown = features & !(DIRTY | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2);
    if unknown != 0 {
        return refused(format!(
            "uses features of qcow2 that are unknown here ({unknown:#x})"
        ));
    }
    let compression = match bytes
        .get(104)
        .filter(|_| header_length > 104 && features & COMPRESSION_TYPE != 0)
    {
        None | Some(0) => Compression::Deflate,
        Some(1) => Compression::Zstd,
        Some(other) => return refused(format!("is compressed in way {other}, which is unknown here")),
    };
    let extended = features & EXTENDED_L2 != 0;
    if extended && cluster_bits < 14 {
        return damaged("its clusters are too small for extended L2 entries");
    }
    if version == 3 && word(bytes, 96) > 6 {
        return damaged(format!(
            "it claims reference counts of 2^{} bits",
            word(bytes, 96)
        ));
    }

    let refcount_table = u64::from(word(bytes, 56)) << cluster_bits;
    if refcount_table > MAX_REFCOUNT_TABLE_BYTES {
        return damaged(format!("it claims a refcount table of {refcount_table} bytes"));
    }
    // The name of the backing file ends them: QEMU up to 1.0 writes it where a last one may be missing.
    let end = match usize::try_from(long(bytes, 8)) {
        Ok(name @ 1..) => name.min(bytes.len()),
        _ => bytes.len(),
    };
    let (extensions, backing) = (extensions(&bytes[..end], header_length)?, backing(bytes)?);
    let mut header = Header {
        version,
        cluster_bits,
        size: long(bytes, 24),
        l1_offset: long(bytes, 40),
        backing,
        backing_format: None,
        data_file: (features & DATA_FILE != 0).then_some(None),
        compression,
        extended,
    };
    for (kind, value) in extensions {
        match kind {
            EXTENSION_BACKING_FORMAT => {
                // QEMU up to 0.12 pads it with zeros, and counts them.
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned());
                header.backing_format = name;
            }
            EXTENSION_DATA_FILE if header.data_file.is_some() => {
                header.data_file = Some(Some(value.to_vec()))
            }
            // The others are names of features, bitmaps, and the place of a key.
            _ => {}
        }
    }
    check_l1(&header, u64::from(word(bytes, 36)), length)?;
    Ok(header)
}

/// Refuses a disk that needs a larger L1 table than there may be, than the image has, or than is in the file.
fn check_l1(header: &Header, claimed: u64, length: u64) -> Result<(), Fault> {
    let needed = header.size.div_ceil(1 << header.coverage_bits());
    if header.size > i64::MAX as u64 || needed * 8 > MAX_L1_BYTES || claimed * 8 > MAX_L1_BYTES {
        let size = header.size;
        return damaged(format!(
            "it claims a disk of {size} bytes and {claimed} L1 entries"
        ));
    }
    if claimed < needed {
        return damaged(format!("its L1 table has {claimed} entries of {needed}"));
    }
    if header.l1_offset % (1 << header.cluster_bits) != 0 {
        return damaged("its L1 table does not begin at a cluster");
    }
    match header.l1_offset.checked_add(needed * 8) {
        Some(end) if end <= length || needed == 0 => Ok(()),
        _ => damaged("its L1 table is behind the end of the file; was it copied whole?"),
    }
}

/// Returns the name of the backing file.
fn backing(bytes: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let (offset, length) = (long(bytes, 8), word(bytes, 16) as usize);
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    let range = usize::try_from(offset)
        .ok()
        .and_then(|from| Some(from..from.checked_add(length)?));
    match range.and_then(|range| bytes.get(range)) {
        Some(name) if length <= MAX_NAME => Ok(Some(name.to_vec())),
        _ => damaged("the name of its backing file is not in its first cluster"),
    }
}

/// Returns the header extensions in `bytes`, each as its type and its value.
fn extensions(bytes: &[u8], header_length: usize) -> Result<Vec<(u32, &[u8])>, Fault> {
    let mut found = Vec::new();
    let mut at = header_length;
    // There is no room for another one behind what ends them; a file that ends there has none either.
    while at + 8 <= bytes.len() {
        let (kind, length) = (word(bytes, at), word(bytes, at + 4) as usize);
        if kind == EXTENSION_END {
            break;
        }
        let Some(value) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else {
            return damaged("a header extension is longer than the room for it");
        };
        found.push((kind, value));
        at += 8 + length.next_multiple_of(8);
    }
    Ok(found)
}

/// Numbers are big-endian. The callers have checked that they are there.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
