//! The hash function and the size of the blocks: two block hashes are comparable where both are the same.

use std::fmt;
use std::str::FromStr;

use blake2::digest::consts::U32;
use blake2::digest::{Digest, DynDigest};
use blake2::{Blake2b, Blake2s256};
use serde::{Deserialize, Serialize};

/// The size of a block where nobody asks for another one, in bytes: imageio's.
pub(crate) const DEFAULT_BLOCK_BYTES: u64 = 4 << 20;

/// The bounds of imageio's server for the size of a block, in bytes.
const MIN_BLOCK_BYTES: u64 = 1 << 20;
const MAX_BLOCK_BYTES: u64 = 16 << 20;

/// The size of a block is a multiple of this, in bytes.
const BLOCK_UNIT: u64 = 4096;

/// A hash function. Those of imageio's that are left out need OpenSSL (sm3, ripemd160, sha512_256), or make
/// its server fail (shake_128).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    Blake2b,
    Blake2s,
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

impl Algorithm {
    /// Every function by the name that Python, and so imageio, has for it.
    const NAMES: [(&'static str, Algorithm); 12] = [
        ("blake2b", Algorithm::Blake2b),
        ("blake2s", Algorithm::Blake2s),
        ("md5", Algorithm::Md5),
        ("sha1", Algorithm::Sha1),
        ("sha224", Algorithm::Sha224),
        ("sha256", Algorithm::Sha256),
        ("sha384", Algorithm::Sha384),
        ("sha512", Algorithm::Sha512),
        ("sha3_224", Algorithm::Sha3_224),
        ("sha3_256", Algorithm::Sha3_256),
        ("sha3_384", Algorithm::Sha3_384),
        ("sha3_512", Algorithm::Sha3_512),
    ];

    /// The names of all functions.
    pub(crate) fn names() -> Vec<&'static str> {
        Self::NAMES.iter().map(|(name, _)| *name).collect()
    }

    pub(crate) fn name(self) -> &'static str {
        let of = Self::NAMES.iter().find(|(_, algorithm)| *algorithm == self);
        of.map_or("", |(name, _)| name)
    }

    /// Begins a digest. That of blake2b and blake2s has 32 bytes, as imageio asks for.
    pub(super) fn begin(self) -> Box<dyn DynDigest + Send> {
        match self {
            Algorithm::Blake2b => Box::new(Blake2b::<U32>::new()),
            Algorithm::Blake2s => Box::new(Blake2s256::new()),
            Algorithm::Md5 => Box::new(md5::Md5::new()),
            Algorithm::Sha1 => Box::new(sha1::Sha1::new()),
            Algorithm::Sha224 => Box::new(sha2::Sha224::new()),
            Algorithm::Sha256 => Box::new(sha2::Sha256::new()),
            Algorithm::Sha384 => Box::new(sha2::Sha384::new()),
            Algorithm::Sha512 => Box::new(sha2::Sha512::new()),
            Algorithm::Sha3_224 => Box::new(sha3::Sha3_224::new()),
            Algorithm::Sha3_256 => Box::new(sha3::Sha3_256::new()),
            Algorithm::Sha3_384 => Box::new(sha3::Sha3_384::new()),
            Algorithm::Sha3_512 => Box::new(sha3::Sha3_512::new()),
        }
    }

    pub(super) fn digest(self, bytes: &[u8]) -> Box<[u8]> {
        let mut digest = self.begin();
        digest.update(bytes);
        digest.finalize()
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(name: &str) -> Result<Algorithm, String> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
            let names = Self::names().join(", ");
            format!("there is no algorithm {name}; there are {names}")
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The hash function and the size of the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Method {
    pub(crate) algorithm: Algorithm,
    /// Bytes, as [`Method::check_block_size`] allows.
    pub(crate) block_size: u64,
}

impl Method {
    /// The default for one disk, or for one of several that are hashed at once.
    pub(crate) fn of_several(several: bool) -> Method {
        match several {
            true => Method {
                block_size: MIN_BLOCK_BYTES,
                ..Method::default()
            },
            false => Method::default(),
        }
    }
}

impl Default for Method {
    /// imageio's.
    fn default() -> Self {
        Method {
            algorithm: Algorithm::Blake2b,
            block_size: DEFAULT_BLOCK_BYTES,
        }
    }
}

impl Method {
    /// Checks the size of a block, in bytes: an imageio server takes no other ones.
    pub(crate) fn check_block_size(bytes: u64) -> Result<u64, String> {
        match (MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&bytes) && bytes % BLOCK_UNIT == 0 {
            true => Ok(bytes),
            false => Err(format!(
                "a block has {} to {} MiB, and a multiple of {BLOCK_UNIT} bytes",
                MIN_BLOCK_BYTES >> 20,
                MAX_BLOCK_BYTES >> 20
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_its_function() {
        for name in Algorithm::names() {
            assert_eq!(name.parse::<Algorithm>().unwrap().name(), name);
        }
        let refused = "crc32".parse::<Algorithm>().unwrap_err();
        assert!(
            refused.contains("crc32") && refused.contains("sha3_256"),
            "{refused}"
        );
    }

    #[test]
    fn a_block_has_a_size_that_servers_take() {
        for good in [1 << 20, (1 << 20) + 4096, DEFAULT_BLOCK_BYTES, 16 << 20] {
            assert_eq!(Method::check_block_size(good), Ok(good));
        }
        for bad in [0, 1023 << 10, (1 << 20) + 512, (16 << 20) + 4096] {
            assert!(Method::check_block_size(bad).is_err(), "{bad}");
        }
    }
}
