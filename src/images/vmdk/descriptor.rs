//! The text that describes a VMDK: which files its disk consists of (VMware, Virtual Disk Format 5.0).

use std::path::Path;

use crate::images::error::ImageError;

/// A disk in parts of 2 GB has one for each; this is enough for 8 TiB, and few enough to have them all open.
const MAX_PARTS: usize = 4096;
/// Lengths in the text are in sectors.
const SECTOR: u64 = 512;

/// A run of the disk, in the order of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Bytes of the disk.
    pub(super) length: u64,
    pub(super) kind: PartKind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    /// The bytes as they are, from this offset in a file.
    Flat {
        name: Vec<u8>,
        offset: u64,
    },
    /// A file with tables of its own.
    Sparse {
        name: Vec<u8>,
    },
    Zero,
}

/// Parses the text, which `path` has; what follows its last line may be NULs.
pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Vec<Part>, ImageError> {
    let mut parts = Vec::new();
    let mut size = 0_u64;
    for line in text.split(|byte| matches!(byte, b'\n' | 0)) {
        let line = line.trim_ascii();
        check_parent(path, line)?;
        let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        match words.next() {
            Some(b"RW" | b"RDONLY") => {}
            Some(b"NOACCESS") => return Err(refused(path, "has a part that may not be read")),
            _ => continue,
        }
        let damaged = || {
            let line = String::from_utf8_lossy(line);
            ImageError::damaged(
                path,
                format!("this line of its description makes no sense: {line}"),
            )
        };
        let number = |word: Option<&[u8]>| -> Option<u64> {
            let value: u64 = std::str::from_utf8(word?).ok()?.parse().ok()?;
            value
                .checked_mul(SECTOR)
                .filter(|bytes| i64::try_from(*bytes).is_ok())
        };
        let length = number(words.next())
            .filter(|length| *length > 0)
            .ok_or_else(damaged)?;
        let kind = words.next().ok_or_else(damaged)?;
        let mut quoted = line.splitn(3, |byte| *byte == b'"').skip(1);
        let mut name = || quoted.next().filter(|name| !name.is_empty()).map(<[u8]>::to_vec);
        let kind = match kind {
            b"ZERO" => PartKind::Zero,
            b"SPARSE" => PartKind::Sparse {
                name: name().ok_or_else(damaged)?,
            },
            b"FLAT" | b"VMFS" => {
                let name = name().ok_or_else(damaged)?;
                let behind = quoted.next().map_or(b"".as_slice(), <[u8]>::trim_ascii);
                let offset = match behind {
                    b"" => 0,
                    behind => number(behind.split(|byte| *byte == b' ').next()).ok_or_else(damaged)?,
                };
                PartKind::Flat { name, offset }
            }
            other => {
                let kind = String::from_utf8_lossy(other);
                return Err(refused(path, format!("is a VMDK with a part of type {kind}")));
            }
        };
        size = size
            .checked_add(length)
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or_else(damaged)?;
        parts.push(Part { length, kind });
        if parts.len() > MAX_PARTS {
            return Err(ImageError::damaged(
                path,
                format!("it claims more than {MAX_PARTS} parts"),
            ));
        }
    }
    Ok(parts)
}

/// Refuses the description of a snapshot: `parentCID` names the disk that holds the rest.
pub(super) fn check_parent(path: &Path, line: &[u8]) -> Result<(), ImageError> {
    match line.strip_prefix(b"parentCID=") {
        Some(id) if !id.trim_ascii().eq_ignore_ascii_case(b"ffffffff") => {
            Err(refused(path, "is a VMDK of a snapshot, which needs its parent"))
        }
        _ => Ok(()),
    }
}

pub(super) fn refused(path: &Path, what: impl Into<String>) -> ImageError {
    ImageError::Refused {
        path: path.to_owned(),
        what: what.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Part>, String> {
        parse(Path::new("disk.vmdk"), text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn parts_are_read_in_their_order() {
        let text = "# Disk DescriptorFile\nversion=1\nCID=12\nparentCID=ffffffff\n\n\
                    RW 4 FLAT \"my disk-flat.vmdk\" 2\r\nRDONLY 2 ZERO\nRW 6 SPARSE \"s.vmdk\"\n\
                    ddb.x = \"1\"\n";
        let [flat, zero, sparse] = parsed(text).unwrap().try_into().unwrap();
        let name = b"my disk-flat.vmdk".to_vec();
        let kind = PartKind::Flat { name, offset: 1024 };
        assert_eq!(flat, Part { length: 2048, kind });
        assert_eq!((zero.length, zero.kind), (1024, PartKind::Zero));
        let name = b"s.vmdk".to_vec();
        assert_eq!((sparse.length, sparse.kind), (3072, PartKind::Sparse { name }));
    }

    #[test]
    fn what_makes_no_sense_or_is_not_read_is_told() {
        for (text, reason) in [
            ("RW x FLAT \"a\" 0", "makes no sense: RW x"),
            ("RW 0 FLAT \"a\" 0", "makes no sense"),
            ("RW 1 FLAT", "makes no sense"),
            ("RW 1 FLAT \"a\" b", "makes no sense"),
            ("RW 18446744073709551615 ZERO", "makes no sense"),
            (
                "RW 18014398509481983 ZERO\nRW 18014398509481983 ZERO",
                "makes no sense",
            ),
            (
                "RW 1 SESPARSE \"a\"",
                "part of type SESPARSE, which can't be read; convert it",
            ),
            ("NOACCESS 1 ZERO", "may not be read"),
            ("parentCID=12345678", "needs its parent"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
