//! Contents of test images, and the comparison of two images.
//!
//! A sparse source image has the features of real ones that break copying programs: whole MiBs of data,
//! holes, runs of zeros inside data (4 KiB to 64 KiB long, which zero detection may turn into zero requests),
//! runs of zeros that do not start at a block boundary, and an end that is a hole or data. The same seed
//! always gives the same image.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// A small random number generator (xorshift64*): the same seed gives the same contents and the same test.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Creates a file of random bytes, like a disk that has been used.
pub fn random_image(path: &Path, size: u64, seed: u64) {
    let file = File::create(path).expect("create a random image");
    let mut random = Random::new(seed);
    let mut offset = 0;
    while offset < size {
        let length = MIB.min(size - offset);
        file.write_all_at(&random.bytes(length as usize), offset)
            .expect("write a random image");
        offset += length;
    }
}

/// Creates a sparse file with data, holes and zeros as the module describes.
pub fn sparse_image(path: &Path, size: u64, seed: u64) {
    let file = File::create(path).expect("create a sparse image");
    file.set_len(size).expect("size a sparse image");
    let mut random = Random::new(seed);
    let mut offset = 0;
    while offset < size {
        let length = MIB.min(size - offset);
        match random.below(4) {
            0 => {}
            kind => {
                let mut bytes = random.bytes(length as usize);
                if kind == 1 {
                    punch(&mut bytes, &mut random);
                }
                file.write_all_at(&bytes, offset).expect("write a sparse image");
            }
        }
        offset += length;
    }
}

/// Zeroes four runs in `bytes`, each of them aligned to 4 KiB or at an arbitrary offset.
fn punch(bytes: &mut [u8], random: &mut Random) {
    for _ in 0..4 {
        let length = (4 * KIB) << random.below(5);
        let start = random.below(bytes.len() as u64);
        let start = if random.below(2) == 0 {
            start / (4 * KIB) * (4 * KIB)
        } else {
            start
        };
        let end = (start + length).min(bytes.len() as u64);
        bytes[start as usize..end as usize].fill(0);
    }
}

/// Checks that `image` holds the bytes of `source` and only zeros behind them; the error says where they
/// differ.
pub fn compare(image: &Path, source: &Path) -> Result<(), String> {
    let open = |path: &Path| File::open(path).map_err(|error| format!("{}: {error}", path.display()));
    let (mut image_file, mut source_file) = (open(image)?, open(source)?);
    let length = |file: &File| {
        file.metadata()
            .map_err(|error| error.to_string())
            .map(|metadata| metadata.len())
    };
    let (image_size, source_size) = (length(&image_file)?, length(&source_file)?);
    if image_size < source_size {
        return Err(format!(
            "the image has {image_size} bytes and its source {source_size}"
        ));
    }
    let (mut got, mut want) = (vec![0; MIB as usize], vec![0; MIB as usize]);
    let (mut offset, mut first, mut wrong) = (0_u64, None, 0_u64);
    while offset < image_size {
        let length =
            read_full(&mut image_file, &mut got).map_err(|error| format!("read the image: {error}"))?;
        let filled =
            read_full(&mut source_file, &mut want).map_err(|error| format!("read the source: {error}"))?;
        want[filled..].fill(0);
        if got[..length] != want[..length] {
            let differ = (0..length).filter(|&index| got[index] != want[index]);
            for index in differ {
                wrong += 1;
                first.get_or_insert_with(|| (offset + index as u64, got[index], want[index]));
            }
        }
        offset += length as u64;
    }
    match first {
        None => Ok(()),
        Some((at, got, want)) => Err(format!(
            "{wrong} of {image_size} bytes differ, the first at {at}: {got:#04x}, expected {want:#04x} \
             (the source ends at {source_size})"
        )),
    }
}

/// Overwrites the beginning of `path` with `source` and leaves the bytes behind it alone, as `dd
/// conv=notrunc` should do.
pub fn overlay(path: &Path, source: &Path) {
    let mut source = File::open(source).expect("open the source");
    let mut file = OpenOptions::new()
        .write(true)
        .open(path)
        .expect("open the file to overwrite");
    io::copy(&mut source, &mut file).expect("overwrite a file");
}

/// Reads until `buffer` is full or the file ends; returns the number of bytes read.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}
