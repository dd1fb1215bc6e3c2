//! The image formats that QEMU detects by the first bytes of a file.
//!
//! vdsm lets `qemu-img info` detect the format of an upload, and the engine removes a raw disk that is
//! detected as anything but raw. So the rules are QEMU's own (the `probe` function of each block driver,
//! which sees the first [`HEAD_BYTES`]), no stricter and no laxer: a guest's LUKS version 2, for example, is
//! raw to QEMU. The driver for dmg goes by the ending of a file's name, which no volume of vdsm has.

use std::fmt;

/// Number of bytes at which QEMU looks (`BLOCK_PROBE_BUF_SIZE`).
pub(crate) const HEAD_BYTES: usize = 512;

/// The beginning of a disk.
pub(crate) type Head = [u8; HEAD_BYTES];

/// An image format, by QEMU's name for its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageFormat {
    Bochs,
    Cloop,
    Luks,
    Parallels,
    Qcow,
    Qcow2,
    Qed,
    Vdi,
    Vhdx,
    Vmdk,
    Vpc,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ImageFormat::Bochs => "bochs",
            ImageFormat::Cloop => "cloop",
            ImageFormat::Luks => "luks",
            ImageFormat::Parallels => "parallels",
            ImageFormat::Qcow => "qcow",
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Qed => "qed",
            ImageFormat::Vdi => "vdi",
            ImageFormat::Vhdx => "vhdx",
            ImageFormat::Vmdk => "vmdk",
            ImageFormat::Vpc => "vpc",
        })
    }
}

/// Returns the format that QEMU detects in `head`; `None` when it is raw.
pub(crate) fn detect(head: &Head) -> Option<ImageFormat> {
    let be32 = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let le32 = |at: usize| be32(at).swap_bytes();
    match (&head[..4], be32(4)) {
        (b"QFI\xfb", 1) => return Some(ImageFormat::Qcow),
        (b"QFI\xfb", 2..) => return Some(ImageFormat::Qcow2),
        (b"QED\0", _) => return Some(ImageFormat::Qed),
        (b"COWD" | b"KDMV", _) => return Some(ImageFormat::Vmdk),
        _ => {}
    }
    if head.starts_with(b"conectix") {
        return Some(ImageFormat::Vpc);
    }
    if head.starts_with(b"vhdxfile") {
        return Some(ImageFormat::Vhdx);
    }
    if head.starts_with(b"LUKS\xba\xbe\x00\x01") {
        return Some(ImageFormat::Luks);
    }
    if le32(0x40) == 0xbeda_107f {
        return Some(ImageFormat::Vdi);
    }
    if (head.starts_with(b"WithoutFreeSpace") || head.starts_with(b"WithouFreSpacExt")) && le32(16) == 2 {
        return Some(ImageFormat::Parallels);
    }
    if head.starts_with(b"Bochs Virtual HD Image\0")
        && head[32..].starts_with(b"Redolog\0")
        && head[48..].starts_with(b"Growing\0")
        && matches!(le32(64), 0x1_0000 | 0x2_0000)
    {
        return Some(ImageFormat::Bochs);
    }
    if head.starts_with(CLOOP) {
        return Some(ImageFormat::Cloop);
    }
    is_vmdk_descriptor(head).then_some(ImageFormat::Vmdk)
}

/// The beginning of a compressed loop image of version 2, which is a shell script.
const CLOOP: &[u8] =
    b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";

/// True for the text file that describes a VMDK image: comments and lines of spaces, then the version.
fn is_vmdk_descriptor(head: &Head) -> bool {
    let mut rest = &head[..];
    loop {
        let blank = rest.iter().take_while(|byte| **byte == b' ').count();
        let after = match rest.first() {
            Some(b'#') => rest.iter().position(|byte| *byte == b'\n'),
            Some(b' ') => {
                let end = blank + usize::from(rest.get(blank) == Some(&b'\r'));
                (rest.get(end) == Some(&b'\n')).then_some(end)
            }
            _ => break,
        };
        match after {
            Some(newline) => rest = &rest[newline + 1..],
            None => return false,
        }
    }
    let Some(version) = rest.strip_prefix(b"version=") else {
        return false;
    };
    let end = |number: &[u8]| number.starts_with(b"\n") || number.starts_with(b"\r\n");
    matches!(version.first(), Some(b'1'..=b'3')) && end(&version[1..])
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn head(begin: &[u8]) -> Head {
        let mut head = [0; HEAD_BYTES];
        head[..begin.len()].copy_from_slice(begin);
        head
    }

    fn with(begin: &[u8], at: usize, more: &[u8]) -> Head {
        let mut head = head(begin);
        head[at..at + more.len()].copy_from_slice(more);
        head
    }

    fn bochs(version: u32) -> Head {
        let mut head = with(b"Bochs Virtual HD Image", 32, b"Redolog");
        head[48..55].copy_from_slice(b"Growing");
        head[64..68].copy_from_slice(&version.to_le_bytes());
        head
    }

    /// Each was shown to `qemu-img info` (10.0), which took the format's driver.
    #[test]
    fn what_qemu_detects_is_detected() {
        for (format, head) in [
            (ImageFormat::Qcow, head(b"QFI\xfb\0\0\0\x01")),
            (ImageFormat::Qcow2, head(b"QFI\xfb\0\0\0\x02")),
            (ImageFormat::Qcow2, head(b"QFI\xfb\xff\xff\xff\xff")),
            (ImageFormat::Qed, head(b"QED\0")),
            (ImageFormat::Vdi, with(b"", 64, b"\x7f\x10\xda\xbe")),
            (ImageFormat::Vmdk, head(b"COWD")),
            (ImageFormat::Vmdk, head(b"KDMV")),
            (ImageFormat::Vmdk, head(b"# Disk DescriptorFile\nversion=1\n")),
            (ImageFormat::Vmdk, head(b"# x\n   \r\n  \nversion=3\r\n")),
            (ImageFormat::Vpc, head(b"conectix")),
            (ImageFormat::Vhdx, head(b"vhdxfile")),
            (ImageFormat::Luks, head(b"LUKS\xba\xbe\0\x01")),
            (ImageFormat::Parallels, head(b"WithoutFreeSpace\x02")),
            (ImageFormat::Parallels, head(b"WithouFreSpacExt\x02")),
            (ImageFormat::Bochs, bochs(0x1_0000)),
            (ImageFormat::Bochs, bochs(0x2_0000)),
            (ImageFormat::Cloop, head(CLOOP)),
        ] {
            assert_eq!(detect(&head), Some(format));
        }
    }

    /// The same program took each of these for raw.
    #[test]
    fn what_is_raw_to_qemu_is_raw() {
        for head in [
            head(b""),
            head(b"QFI\xfb\0\0\0\0"),
            head(b"LUKS\xba\xbe\0\x02"),
            head(b"version=4\n"),
            head(b"version=2\r"),
            head(b"\nversion=1\n"),
            head(b" x\nversion=1\n"),
            head(b"WithouFreSpacExt\x03"),
            bochs(3),
            head(&CLOOP[..CLOOP.len() - 1]),
            head(b"koly"),
            with(b"", 510, b"\x55\xaa"),
        ] {
            assert_eq!(detect(&head), None);
        }
    }

    #[test]
    fn a_descriptor_counts_when_its_version_ends_within_the_head() {
        for (comment, found) in [
            (500, Some(ImageFormat::Vmdk)),
            (501, Some(ImageFormat::Vmdk)),
            (502, None),
        ] {
            let text = [b"#", &vec![b'x'; comment - 1][..], b"\nversion=1\n"].concat();
            let mut head = [0; HEAD_BYTES];
            let n = text.len().min(HEAD_BYTES);
            head[..n].copy_from_slice(&text[..n]);
            assert_eq!(detect(&head), found, "{comment}");
        }
    }
}
