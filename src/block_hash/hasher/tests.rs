//! The values here are those of ovirt-imageio 2.5.1 (its `blkhash.checksum`) for the same bytes.

use proptest::prelude::*;

use super::super::{Bytes, Difference, Padded, Run, Watch, first_difference, hash};
use super::*;
use crate::failure::{Exit, Failure};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 5 * MIB + 1000;
const HOLE: Range<u64> = MIB..3 * MIB;

/// The hash of [`content`] by blake2b over blocks of 1 MiB.
const KNOWN: &str = "816f0abd6e86e931313705716c3d81a31721f22dbcd765b9ef7b132c10a46f75";

fn content() -> Vec<u8> {
    let byte = |at: u64| match HOLE.contains(&at) {
        true => 0,
        false => ((at * 2_654_435_761) >> 13) as u8,
    };
    (0..SIZE).map(byte).collect()
}

#[derive(Clone)]
struct InMemory {
    bytes: Vec<u8>,
    holes: Vec<Range<u64>>,
    /// The byte that can't be read.
    bad: Option<u64>,
}

impl Bytes for InMemory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn run_at(&self, offset: u64) -> Result<Run, Failure> {
        let hole = self.holes.iter().find(|hole| hole.contains(&offset));
        let next = self
            .holes
            .iter()
            .map(|hole| hole.start)
            .find(|start| *start > offset);
        Ok(Run {
            length: hole.map_or(next.unwrap_or(self.size()), |hole| hole.end) - offset,
            zero: hole.is_some(),
        })
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Failure> {
        let range = offset..offset + buf.len() as u64;
        if self.bad.is_some_and(|bad| range.contains(&bad)) {
            return Err(Failure::text(Exit::Other, "a bad sector"));
        }
        buf.copy_from_slice(&self.bytes[range.start as usize..range.end as usize]);
        Ok(())
    }
}

fn image(holes: &[Range<u64>]) -> InMemory {
    InMemory {
        bytes: content(),
        holes: holes.to_vec(),
        bad: None,
    }
}

fn method(algorithm: &str, block_size: u64) -> Method {
    Method {
        algorithm: algorithm.parse().unwrap(),
        block_size,
    }
}

fn hash_of(bytes: &dyn Bytes, method: Method) -> String {
    hash(bytes, method, &Watch::default()).unwrap().0.checksum
}

#[test]
fn every_algorithm_gives_the_value_of_imageio() {
    let image = image(&[]);
    for (algorithm, block_size, expected) in [
        ("blake2b", 1, KNOWN),
        (
            "blake2b",
            4,
            "587cb25f5a9ab97874102667136e1c2ac26a14fe5b2983503bd34ce30f9adc2e",
        ),
        (
            "blake2s",
            4,
            "a2d62e2659d99964bedd681848ff5e2cc60c967cb0739c2ea8e03c3dfd5f3b70",
        ),
        ("md5", 4, "84f2a5eb098f7731c548b36c5d813d4c"),
        ("sha1", 4, "59230fc767e2c0e7b88c092b4c7bc6b41fdf6304"),
        (
            "sha224",
            4,
            "84243bb5de1ac4f59327f5d89474cc94a351e8c4a5aa79ed589da100",
        ),
        (
            "sha256",
            1,
            "670589e50e977251e9aa89f73ddb4bf8d306026646cccb2551f265755892e179",
        ),
        (
            "sha256",
            4,
            "9d153e482971c19bb7ec3ba06f372a13c2c68518ad39fde15c3f7e9b34f3fb09",
        ),
        (
            "sha384",
            4,
            "d1d983f0eed1bec9b44ea946d4be8433b864fe1c85b79cad\
             1549b421c90f6ec906e7278ac1250f9f1ded404ce42d7367",
        ),
        (
            "sha512",
            4,
            "71eea7997d1493ae6d4aaa7a3422ca958fdd0297c82cfab8246ffd0e014398bee69b266d8d282f5962ccb78b750a123c\
             83b3b901f3492c33ff842ac5d5dafc1d",
        ),
        (
            "sha3_224",
            4,
            "75abc02b2f508f740ddda9365b2a940d77b46f4f1330aa4f835eff95",
        ),
        (
            "sha3_256",
            4,
            "e8f3470b922fee9bf963af565dd445f7ab66ff9eb6684dc37c3b0313f48c3481",
        ),
        (
            "sha3_384",
            4,
            "3d9c7a65fee3645490992c6f8613d8a2186422f25fdf3684\
             f9e01382eb350e534970d59b24395033c79abf8f85f050b0",
        ),
        (
            "sha3_512",
            4,
            "33190a917ceaa14ff9c3fe1d19304cbf94f46c1db4829b2321ef977fb669800e32be91395a5eb5eaa7ba72548d8b5a2c\
             0e882e34d818d92aa453036dbae777d0",
        ),
    ] {
        let got = hash_of(&image, method(algorithm, block_size * MIB));
        assert_eq!(got, expected, "{algorithm} over {block_size} MiB");
    }
}

#[test]
fn an_empty_image_has_the_hash_of_no_block() {
    let hasher = Hasher::new(Algorithm::Blake2b, 4 * MIB, 0);
    assert_eq!(
        hasher.finish().unwrap().checksum,
        "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
    );
}

/// imageio takes seconds for this; the value is that of 2 Mi digests of a block of zeros.
#[test]
fn eight_tebibytes_of_holes_are_hashed_without_reading() {
    let hasher = Hasher::new(Algorithm::Blake2b, 4 * MIB, 8 << 40);
    hasher.zero(0, 8 << 40);
    assert_eq!(
        hasher.finish().unwrap().checksum,
        "c5d3e15c06ed48a876c82ddf53956fc609d4a0ce7eabf42f0865597e28bf2a35"
    );
}

#[test]
fn where_the_holes_are_known_does_not_change_the_hash() {
    let (inside, at_the_end) = (MIB + 5..2 * MIB + 7, 3 * MIB - 1..3 * MIB);
    let holes: [&[Range<u64>]; 4] = [
        &[HOLE],
        &[inside],
        &[MIB..2 * MIB, 2 * MIB..2 * MIB + 1, 2 * MIB + 1..3 * MIB],
        &[at_the_end],
    ];
    for holes in holes {
        assert_eq!(hash_of(&image(holes), method("blake2b", MIB)), KNOWN, "{holes:?}");
    }
}

#[test]
fn a_block_that_a_hole_covers_in_part_is_read() {
    let mut partly = image(&[]);
    partly.bytes[2 * MIB as usize + 7..3 * MIB as usize].fill(5);
    let read = hash_of(&partly, method("blake2b", MIB));
    assert_ne!(read, KNOWN);
    partly.holes.push(MIB..2 * MIB + 7);
    assert_eq!(hash_of(&partly, method("blake2b", MIB)), read);
}

#[test]
fn zeros_behind_an_image_are_hashed_with_it() {
    let mut longer = image(&[]);
    longer.bytes.resize(8 * MIB as usize + 3, 0);
    let image = image(&[HOLE]);
    let padded = Padded {
        bytes: &image,
        size: longer.size(),
    };
    let method = method("sha256", MIB);
    assert_eq!(hash_of(&padded, method), hash_of(&longer, method));
}

#[test]
fn the_first_block_that_differs_is_found() {
    let image = image(&[HOLE]);
    let (_, hasher) = hash(&image, method("blake2b", MIB), &Watch::default()).unwrap();
    let difference = |other: &InMemory| first_difference(other, &hasher, &Watch::default()).unwrap();
    assert_eq!(difference(&image), None);
    for (at, block) in [(0, 0), (2 * MIB + 1, 2), (SIZE - 1, 5)] {
        let mut other = image.clone();
        other.holes.clear();
        other.bytes[SIZE as usize - 1] ^= 1;
        other.bytes[at as usize] ^= u8::from(at != SIZE - 1);
        assert_eq!(difference(&other), Some(Difference::At(block)), "byte {at}");
    }
}

#[test]
fn a_difference_behind_what_is_kept_is_found_all_the_same() {
    let image = image(&[HOLE]);
    let hasher = Hasher::new(Algorithm::Blake2b, MIB, SIZE);
    hasher.digests.lock().keep_at_most(0);
    hasher.data(0, &image.bytes);
    assert_eq!(hasher.digest_of(0), None, "it was forgotten");
    let difference = |other: &InMemory| first_difference(other, &hasher, &Watch::default()).unwrap();
    assert_eq!(difference(&image), None);
    let mut other = image.clone();
    other.bytes[SIZE as usize - 1] ^= 1;
    assert_eq!(difference(&other), Some(Difference::From(0)));
}

#[test]
fn a_read_that_fails_and_a_stop_end_the_work() {
    let mut bad = image(&[]);
    bad.bad = Some(4 * MIB);
    let failure = hash(&bad, method("blake2b", MIB), &Watch::default())
        .err()
        .unwrap();
    assert_eq!(failure.to_string(), "a bad sector");
    let watch = Watch::default();
    watch.stop();
    let failure = hash(&image(&[]), method("blake2b", MIB), &watch).err().unwrap();
    assert!(failure.to_string().contains("stopped"), "{failure}");
}

#[test]
fn what_is_missing_is_named_until_it_is_there() {
    let hasher = Hasher::new(Algorithm::Blake2b, MIB, SIZE);
    let bytes = content();
    hasher.data(2 * MIB, &bytes[2 * MIB as usize..]);
    hasher.zero(0, 100);
    assert_eq!(hasher.missing(), Some(0..MIB));
    assert_eq!(hasher.take_given_up(), None, "its other bytes may come");
    assert!(hasher.finish().is_none() && hasher.digest_of(0).is_none() && hasher.digest_of(5).is_some());
    hasher.data(0, &bytes[..MIB as usize]);
    hasher.zero(MIB, MIB);
    assert_eq!(hasher.missing(), None);
    assert_eq!(hasher.finish().unwrap().checksum, KNOWN);
}

#[test]
fn a_block_of_which_a_byte_came_twice_has_to_be_given_again() {
    let bytes = content();
    let hasher = Hasher::new(Algorithm::Blake2b, MIB, SIZE);
    hasher.data(0, &bytes[..600]);
    hasher.data(500, &bytes[500..MIB as usize]);
    hasher.data(MIB, &bytes[MIB as usize..]);
    assert_eq!(hasher.missing(), Some(0..MIB));
    assert_eq!(hasher.take_given_up(), Some(0..MIB));
    assert_eq!(hasher.take_given_up(), None, "somebody reads it");
    hasher.data(0, &bytes[..MIB as usize]);
    assert_eq!(hasher.finish().unwrap().checksum, KNOWN);
}

/// A copy that goes from the end to the beginning would otherwise be held as a whole.
#[test]
fn what_comes_before_its_turn_is_held_up_to_a_bound() {
    let (block, blocks) = (16 * MIB, 8);
    let hasher = Hasher::new(Algorithm::Blake2b, block, blocks * block);
    let late = vec![1; block as usize - 1];
    for n in 0..blocks {
        hasher.data(n * block + 1, &late);
        let held = hasher.held.load(std::sync::atomic::Ordering::Relaxed);
        assert!(held <= super::super::assembly::MAX_HELD_BYTES, "{held}");
    }
    for n in 0..blocks {
        hasher.data(n * block, &[1]);
    }
    assert_eq!(hasher.missing(), Some(4 * block..5 * block));
    let held = hasher.held.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(held, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A copy sends requests of any size from several threads, in any order.
    #[test]
    fn the_order_of_the_bytes_does_not_matter(
        cuts in prop::collection::vec(0..SIZE, 0..40),
        seed in any::<u64>(),
        known_holes in any::<bool>(),
    ) {
        let mut cuts = cuts;
        cuts.extend([0, HOLE.start, HOLE.end, SIZE]);
        cuts.sort();
        cuts.dedup();
        let mut parts: Vec<Range<u64>> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
        parts.sort_by_key(|part| (part.start ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let hasher = Hasher::new(Algorithm::Blake2b, MIB, SIZE);
        let bytes = content();
        std::thread::scope(|scope| {
            let (hasher, bytes) = (&hasher, &bytes);
            for parts in parts.chunks(parts.len().div_ceil(3)) {
                scope.spawn(move || for part in parts {
                    match known_holes && HOLE.contains(&part.start) {
                        true => hasher.zero(part.start, part.end - part.start),
                        false => hasher.data(part.start, &bytes[part.start as usize..part.end as usize]),
                    }
                });
            }
        });
        prop_assert_eq!(hasher.missing(), None);
        prop_assert_eq!(hasher.finish().unwrap().checksum, KNOWN);
    }
}
