//! Which format an image has: by its first bytes where it is read, as qemu-img probes, by the name's ending
//! where it is written.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::disk::{HEAD_BYTES, ImageFormat, detect};

/// A format that is read; all but [`Format::Vmdk`] are written too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Raw,
    Qcow2,
    Vmdk,
}

/// As many bytes of an image are looked at: more than QEMU does, for the text of a VMDK with long comments.
pub(super) const PROBED: usize = 2048;

/// The format that the first bytes of a file look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probed {
    Known(Format),
    /// A format that qemu-img reads and this program does not.
    Foreign(ImageFormat),
}

impl Format {
    /// Returns the format in which a file of this name is written.
    pub(crate) fn of_name(path: &Path) -> Format {
        match path.extension().map(OsStr::as_bytes) {
            Some(ending) if ending.eq_ignore_ascii_case(b"qcow2") => Format::Qcow2,
            _ => Format::Raw,
        }
    }

    /// Returns the name that qemu-img gives the format.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
        }
    }

    /// Returns the format that qemu-img gives this name, if it is one of these.
    pub(crate) fn named(name: &str) -> Option<Format> {
        [Format::Raw, Format::Qcow2, Format::Vmdk]
            .into_iter()
            .find(|format| format.name() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Tells the format from the first bytes of a file, at most [`PROBED`], as QEMU detects it. A qcow2 image
/// that is cut off in its first bytes, and the text of a VMDK with long comments, are known, too. What has no
/// mark is raw.
pub(super) fn probe(head: &[u8]) -> Probed {
    let mut first = [0; HEAD_BYTES];
    let count = head.len().min(HEAD_BYTES);
    first[..count].copy_from_slice(&head[..count]);
    match detect(&first) {
        Some(ImageFormat::Qcow2) => Probed::Known(Format::Qcow2),
        Some(ImageFormat::Vmdk) => Probed::Known(Format::Vmdk),
        Some(foreign) => Probed::Foreign(foreign),
        None if head.len() < 8 && head.starts_with(b"QFI\xfb") => Probed::Known(Format::Qcow2),
        None if is_descriptor(head) => Probed::Known(Format::Vmdk),
        None => Probed::Known(Format::Raw),
    }
}

/// Tells the text that describes a VMDK: comments and empty lines, then `version=N` (block/vmdk.c,
/// `vmdk_probe`).
fn is_descriptor(head: &[u8]) -> bool {
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let blank = line.iter().all(|byte| *byte == b' ');
        if !blank && !line.starts_with(b"#") {
            return [b"version=1".as_slice(), b"version=2", b"version=3"].contains(&line);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_their_first_bytes() {
        let mut vdi = vec![0; 68];
        vdi[64..].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
        for (head, probed) in [
            (b"".as_slice(), Probed::Known(Format::Raw)),
            (b"QFI\xfb\0\0\0\x03", Probed::Known(Format::Qcow2)),
            (b"QFI\xfb\0\0\0\x01", Probed::Foreign(ImageFormat::Qcow)),
            (b"QFI\xfb", Probed::Known(Format::Qcow2)),
            (b"QFI\xfb\0\0\0\0", Probed::Known(Format::Raw)),
            (b"KDMV\x01\0\0\0", Probed::Known(Format::Vmdk)),
            (
                b"# Disk DescriptorFile\r\n\nversion=1\nCID=1\n",
                Probed::Known(Format::Vmdk),
            ),
            (b"# Disk DescriptorFile\nversion=9\n", Probed::Known(Format::Raw)),
            (b"# a comment\nexit 0\n", Probed::Known(Format::Raw)),
            (b"vhdxfile", Probed::Foreign(ImageFormat::Vhdx)),
            (b"LUKS\xba\xbe\0\x01", Probed::Foreign(ImageFormat::Luks)),
            // A guest's disk is raw, and its LUKS is the guest's.
            (b"LUKS\xba\xbe\0\x02", Probed::Known(Format::Raw)),
            (b"WithoutFreeSpace\x02", Probed::Foreign(ImageFormat::Parallels)),
            (b"WithoutFreeSpace\x03", Probed::Known(Format::Raw)),
            (b"Bochs Virtual HD Image\0", Probed::Known(Format::Raw)),
            (&vdi, Probed::Foreign(ImageFormat::Vdi)),
            (&vdi[1..], Probed::Known(Format::Raw)),
        ] {
            assert_eq!(probe(head), probed, "{head:?}");
        }
    }

    #[test]
    fn the_name_tells_what_is_written() {
        for (name, format) in [
            ("a.qcow2", Format::Qcow2),
            ("/b/a.QCOW2", Format::Qcow2),
            ("a.raw", Format::Raw),
            ("qcow2", Format::Raw),
            (".qcow2", Format::Raw),
            ("a.vmdk", Format::Raw),
        ] {
            assert_eq!(Format::of_name(Path::new(name)), format, "{name}");
        }
    }
}
