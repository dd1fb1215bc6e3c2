//! The programs that copy, as shell lines. In a writer's, `$1` is a raw image, `$2` the mounted file, and
//! `$3` a directory for the tool's own files.

/// A program that writes an image into the mounted file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) name: &'static str,
    pub(crate) script: &'static str,
    /// True when the tool truncates the mounted file, as it does with any file, so that the bytes behind the
    /// image are gone afterwards; false when they stay.
    pub(crate) truncates: bool,
    /// The image's size is rounded up to a multiple of this, in bytes, because qemu-img works in sectors.
    pub(crate) unit: u64,
    /// True when the tool writes a qcow2 file into the mounted file, which needs more room than the image.
    pub(crate) qcow2: bool,
}

const fn truncating(name: &'static str, script: &'static str) -> Writer {
    Writer {
        name,
        script,
        truncates: true,
        unit: 1,
        qcow2: false,
    }
}

const fn overlaying(name: &'static str, script: &'static str) -> Writer {
    Writer {
        truncates: false,
        ..truncating(name, script)
    }
}

const fn by_sector(writer: Writer) -> Writer {
    Writer { unit: 512, ..writer }
}

pub(crate) const WRITERS: &[Writer] = &[
    truncating("cp", r#"cp "$1" "$2""#),
    truncating("cp --sparse=always", r#"cp --sparse=always "$1" "$2""#),
    truncating("dd bs=1M", r#"dd if="$1" of="$2" bs=1M status=none"#),
    truncating(
        "dd bs=1M conv=sparse",
        r#"dd if="$1" of="$2" bs=1M conv=sparse status=none"#,
    ),
    overlaying(
        "dd bs=100001 conv=notrunc",
        r#"dd if="$1" of="$2" bs=100001 conv=notrunc status=none"#,
    ),
    truncating(
        "dd bs=1M oflag=direct",
        r#"dd if="$1" of="$2" bs=1M oflag=direct status=none"#,
    ),
    truncating("cat >", r#"cat "$1" > "$2""#),
    by_sector(truncating(
        "qemu-img convert",
        r#"qemu-img convert -f raw -O raw "$1" "$2""#,
    )),
    by_sector(overlaying(
        "qemu-img convert -n",
        r#"qemu-img convert -n -f raw -O raw "$1" "$2""#,
    )),
    by_sector(overlaying(
        "qemu-img convert -n -W -m 8",
        r#"qemu-img convert -n -W -m 8 -f raw -O raw "$1" "$2""#,
    )),
    by_sector(overlaying(
        "qemu-img convert -n -t none",
        r#"qemu-img convert -n -t none -f raw -O raw "$1" "$2""#,
    )),
    by_sector(truncating(
        "qemu-img convert from qcow2",
        r#"qemu-img convert -f raw -O qcow2 "$1" "$3/source.qcow2"
           qemu-img convert -f qcow2 -O raw "$3/source.qcow2" "$2""#,
    )),
    Writer {
        qcow2: true,
        ..by_sector(truncating(
            "qemu-img convert to qcow2",
            r#"qemu-img convert -f raw -O qcow2 "$1" "$2"
               qemu-img check -q -f qcow2 "$2"
               qemu-img compare -q -f raw -F qcow2 "$1" "$2""#,
        ))
    },
    truncating("rsync --inplace", r#"rsync --inplace --ignore-times "$1" "$2""#),
    truncating("nbdcopy", r#"nbdcopy "$1" "$2""#),
    overlaying("mmap", MMAP_WRITER),
];

/// Writes through a shared mapping, in pieces of an odd size and in random order.
const MMAP_WRITER: &str = r#"python3 - "$1" "$2" <<'PYTHON'
import mmap, random, sys
source = open(sys.argv[1], "rb").read()
with open(sys.argv[2], "r+b") as target:
    with mmap.mmap(target.fileno(), len(source)) as mapping:
        piece = 77777
        starts = list(range(0, len(source), piece))
        random.Random(7).shuffle(starts)
        for start in starts:
            mapping[start:start + piece] = source[start:start + piece]
        mapping.flush()
PYTHON"#;

/// A program that reads the mounted file, `$1`, into a raw image, `$2`; `$3` is a directory for the tool's
/// own files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    pub(crate) name: &'static str,
    pub(crate) script: &'static str,
}

const fn reader(name: &'static str, script: &'static str) -> Reader {
    Reader { name, script }
}

pub(crate) const READERS: &[Reader] = &[
    reader("cp", r#"cp "$1" "$2""#),
    reader("cp --sparse=always", r#"cp --sparse=always "$1" "$2""#),
    reader("dd bs=1M", r#"dd if="$1" of="$2" bs=1M status=none"#),
    reader("dd bs=100001", r#"dd if="$1" of="$2" bs=100001 status=none"#),
    reader(
        "dd bs=1M iflag=direct",
        r#"dd if="$1" of="$2" bs=1M iflag=direct status=none"#,
    ),
    reader("cat", r#"cat "$1" > "$2""#),
    reader("qemu-img convert", r#"qemu-img convert -f raw -O raw "$1" "$2""#),
    reader(
        "qemu-img convert -W -m 8",
        r#"qemu-img convert -W -m 8 -f raw -O raw "$1" "$2""#,
    ),
    reader(
        "qemu-img convert -T none",
        r#"qemu-img convert -T none -f raw -O raw "$1" "$2""#,
    ),
    reader(
        "qemu-img convert to qcow2",
        r#"qemu-img convert -f raw -O qcow2 "$1" "$3/read.qcow2"
           qemu-img convert -f qcow2 -O raw "$3/read.qcow2" "$2""#,
    ),
    reader("rsync", r#"rsync "$1" "$2""#),
    reader("rsync --sparse", r#"rsync --sparse "$1" "$2""#),
    reader("nbdcopy", r#"nbdcopy "$1" "$2""#),
    reader(
        "tar --sparse",
        r#"tar --create --sparse --directory "$(dirname "$1")" "$(basename "$1")" |
                tar --extract --to-stdout > "$2""#,
    ),
    reader(
        "mmap",
        r#"python3 - "$1" "$2" <<'PYTHON'
import mmap, sys
with open(sys.argv[1], "rb") as source, open(sys.argv[2], "wb") as target:
    with mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        target.write(mapping)
PYTHON"#,
    ),
];
