//! The JSON in imageio's answers: what OPTIONS offers, and the list of extents.

use std::cell::Cell;
use std::fmt;
use std::io::{self, Read};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer as _, SeqAccess, Visitor};

use crate::remote::Extent;

/// The abilities of a ticket and its server, as OPTIONS reports them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// The server answers OPTIONS with a feature list; an old one does not.
    pub(crate) options: bool,
    /// Writing is allowed. A read ticket offers neither PUT nor PATCH.
    pub(crate) write: bool,
    /// The server has PATCH zero.
    pub(crate) zero: bool,
    /// The server has PATCH flush. Without it every PUT flushes by itself.
    pub(crate) flush: bool,
    /// The server has GET .../extents.
    pub(crate) extents: bool,
    /// The server has GET .../checksum.
    pub(crate) checksum: bool,
    /// Path of the server's unix socket, or its abstract name after a NUL byte.
    pub(crate) unix_socket: Option<String>,
    /// The number of connections that the server advises for reading.
    pub(crate) max_readers: Option<usize>,
    /// The number of connections that the server advises for writing: 1 for a file backend.
    pub(crate) max_writers: Option<usize>,
}

impl Capabilities {
    /// Returns how many of the `wanted` connections the server advises, at least 1, for reading only or not.
    pub(crate) fn connections(&self, wanted: usize, read_only: bool) -> usize {
        let readers = self.max_readers.unwrap_or(wanted).max(1);
        // A single writer still leaves the other connections to the readers.
        let most = match read_only {
            true => readers,
            false => readers.max(self.max_writers.unwrap_or(wanted)),
        };
        wanted.min(most)
    }

    /// True when the server advises more than `connections`.
    pub(crate) fn allows_beside(&self, connections: usize) -> bool {
        connections < self.max_readers.max(self.max_writers).unwrap_or(0)
    }
}

#[derive(Deserialize)]
struct OptionsBody {
    features: Vec<String>,
    unix_socket: Option<String>,
    max_readers: Option<usize>,
    max_writers: Option<usize>,
}

impl Capabilities {
    /// The abilities of a server without a feature list: it answers OPTIONS with 405 or 204, and has GET and
    /// PUT only.
    pub(super) fn of_old_server() -> Self {
        Capabilities {
            write: true,
            ..Capabilities::default()
        }
    }

    /// Reads the body of a 200 answer and its Allow header. The ticket may write if Allow lists PUT. Without
    /// the header it may write if the server offers a feature that only write tickets have, or no feature at
    /// all.
    pub(super) fn parse(body: &[u8], allow: Option<&str>) -> Result<Self, String> {
        let body: OptionsBody = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let has = |name: &str| body.features.iter().any(|f| f == name);
        let write = match allow {
            Some(methods) => methods.split(',').any(|m| m.trim().eq_ignore_ascii_case("PUT")),
            None => has("zero") || has("flush") || body.features.is_empty(),
        };
        Ok(Capabilities {
            options: true,
            write,
            zero: has("zero"),
            flush: has("flush"),
            extents: has("extents"),
            checksum: has("checksum"),
            unix_socket: body.unix_socket.filter(|s| !s.is_empty()),
            max_readers: body.max_readers,
            max_writers: body.max_writers,
        })
    }
}

/// The answer to GET .../checksum.
#[derive(Deserialize)]
pub(super) struct ChecksumBody {
    pub(super) algorithm: String,
    pub(super) block_size: u64,
    pub(super) checksum: String,
}

impl ChecksumBody {
    /// Reads the answer to a request for this algorithm and size of blocks, and returns the hash.
    pub(super) fn parse(body: &[u8], algorithm: &str, block_size: u64) -> Result<String, String> {
        let body: ChecksumBody = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        if (body.algorithm.as_str(), body.block_size) != (algorithm, block_size) {
            return Err(format!(
                "a checksum by {} over blocks of {} bytes",
                body.algorithm, body.block_size
            ));
        }
        let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        match is_hex(&body.checksum) {
            true => Ok(body.checksum.to_ascii_lowercase()),
            false => Err(format!("the checksum {:?}", body.checksum)),
        }
    }
}

#[derive(Deserialize)]
pub(super) struct ExtentBody {
    pub(super) start: u64,
    pub(super) length: u64,
    zero: bool,
}

/// Upper bound on the JSON text of one extent, so that an endless key or string is given up early.
pub(super) const MAX_EXTENT_TEXT_BYTES: usize = 4096;

/// A reader that fails once its ration is used up; each complete extent renews the ration.
struct Rationed<'a, R> {
    reader: R,
    ration: &'a Cell<usize>,
}

impl<R: Read> Read for Rationed<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buf)?;
        let left = self.ration.get().checked_sub(read);
        self.ration
            .set(left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an endless extent"))?);
        Ok(read)
    }
}

/// Streams the array of extents to `found` as it comes, since a fragmented disk has millions and memory is
/// bounded. Returns the end of an extent to it as well; one that ends behind 2^64 is an error.
pub(super) fn each_extent<B: DeserializeOwned>(
    body: impl Read,
    range: impl Fn(&B) -> (u64, u64),
    found: &mut dyn FnMut(B, u64),
) -> Result<(), serde_json::Error> {
    struct Each<'a, B, F>(F, &'a mut dyn FnMut(B, u64), &'a Cell<usize>);
    impl<'de, B: DeserializeOwned, F: Fn(&B) -> (u64, u64)> Visitor<'de> for Each<'_, B, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of extents")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            while let Some(body) = seq.next_element()? {
                let (start, length) = (self.0)(&body);
                let Some(end) = start.checked_add(length) else {
                    return Err(serde::de::Error::custom(format!(
                        "extent at {start}+{length} ends behind 2^64"
                    )));
                };
                self.2.set(MAX_EXTENT_TEXT_BYTES);
                (self.1)(body, end);
            }
            Ok(())
        }
    }
    let ration = Cell::new(MAX_EXTENT_TEXT_BYTES);
    let mut json = serde_json::Deserializer::from_reader(Rationed {
        reader: io::BufReader::new(body),
        ration: &ration,
    });
    json.deserialize_seq(Each(range, found, &ration))?;
    json.end()
}

/// Streams the extents to `found`.
///
/// imageio's follow each other without gaps. A server that asks its storage piece by piece may leave gaps, or
/// tell a range twice (Apache CloudStack's does); then data wins: a run of zeros is cut where an extent
/// before it reached further, a run of data is passed on as it is, and a gap is data. Only a gap at the
/// beginning is passed on, so that the first extent is at offset 0.
pub(super) fn read_extents(body: impl Read, found: &mut dyn FnMut(Extent)) -> Result<(), serde_json::Error> {
    let (mut next, mut first) = (0, true);
    let range = |body: &ExtentBody| (body.start, body.length);
    each_extent(body, range, &mut |ExtentBody { start, zero, .. }, end| {
        // An extent without a byte says nothing, and is not the first one.
        if start == end {
            return;
        }
        if std::mem::take(&mut first) && start > 0 {
            found(Extent {
                start: 0,
                length: start,
                zero: false,
            });
        }
        let start = if zero { start.max(next) } else { start };
        next = end.max(next);
        if start < end {
            let length = end - start;
            found(Extent { start, length, zero });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_ticket_is_told_from_a_write_ticket() {
        let write = br#"{"features": ["extents", "zero", "flush"], "max_readers": 8, "max_writers": 1,
                         "unix_socket": "\u0000/org/ovirt/imageio"}"#;
        let got = Capabilities::parse(write, Some("OPTIONS,GET,PUT,PATCH")).unwrap();
        assert!(got.write && got.zero && got.flush && got.extents);
        assert_eq!(got.unix_socket.as_deref(), Some("\0/org/ovirt/imageio"));
        assert_eq!((got.max_readers, got.max_writers), (Some(8), Some(1)));
        let read = br#"{"features": ["checksum", "extents"]}"#;
        assert!(!Capabilities::parse(read, Some("OPTIONS,GET")).unwrap().write);
        assert!(!Capabilities::parse(read, None).unwrap().write);
        assert!(Capabilities::parse(br#"{"features": []}"#, None).unwrap().write);
        assert!(Capabilities::parse(b"{}", None).is_err());
    }

    #[test]
    fn a_checksum_is_that_which_was_asked_for() {
        let parse = |body: &[u8]| ChecksumBody::parse(body, "sha1", 4096);
        let good = br#"{"algorithm": "sha1", "block_size": 4096, "checksum": "00FFab"}"#;
        assert_eq!(parse(good).as_deref(), Ok("00ffab"));
        for bad in [
            &br#"{"algorithm": "md5", "block_size": 4096, "checksum": "00"}"#[..],
            br#"{"algorithm": "sha1", "block_size": 8192, "checksum": "00"}"#,
            br#"{"algorithm": "sha1", "block_size": 4096, "checksum": "xyz"}"#,
            br#"{"algorithm": "sha1", "block_size": 4096, "checksum": ""}"#,
            b"{}",
            b"",
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn extents_are_streamed_and_checked() {
        let mut seen = Vec::new();
        let json = br#"[{"start": 0, "length": 10, "zero": false, "hole": false},
                        {"start": 10, "length": 6, "zero": true, "hole": true}]"#;
        read_extents(&json[..], &mut |e| seen.push((e.start, e.length, e.zero))).unwrap();
        assert_eq!(seen, [(0, 10, false), (10, 6, true)]);
        for bad in [
            &b"{}"[..],
            br#"[{"start": 0, "length": 4, "zero": true}] x"#,
            br#"[{"start": 1, "length": 18446744073709551615, "zero": true}]"#,
        ] {
            assert!(
                read_extents(bad, &mut |_| ()).is_err(),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    /// Each case has extents as (start, length, zero), and what is passed on of them.
    #[test]
    fn no_zeros_are_passed_on_for_what_an_extent_before_has_covered() {
        type Runs = &'static [(u64, u64, bool)];
        let cases: [(Runs, Runs); 6] = [
            // The gap stays one.
            (&[(0, 4, true), (8, 4, true)], &[(0, 4, true), (8, 4, true)]),
            // The storage told more than it was asked for, and tells the rest again.
            (
                &[(0, 10, false), (6, 8, true), (14, 2, false)],
                &[(0, 10, false), (10, 4, true), (14, 2, false)],
            ),
            (&[(0, 10, true), (4, 3, true), (4, 0, true)], &[(0, 10, true)]),
            // An extent without a byte is not the one that the disk begins with.
            (&[(0, 0, true), (10, 5, false)], &[(0, 10, false), (10, 5, false)]),
            // Data is told after zeros of the same place, and wins where the map is made.
            (
                &[(0, 10, true), (4, 3, false), (10, 2, true)],
                &[(0, 10, true), (4, 3, false), (10, 2, true)],
            ),
            (
                &[(5, 5, false), (0, 7, true), (8, 4, true)],
                &[(0, 5, false), (5, 5, false), (10, 2, true)],
            ),
        ];
        for (told, expected) in cases {
            let one = |e: &(u64, u64, bool)| serde_json::json!({"start": e.0, "length": e.1, "zero": e.2});
            let json = serde_json::Value::from(told.iter().map(one).collect::<Vec<_>>()).to_string();
            let mut seen = Vec::new();
            read_extents(json.as_bytes(), &mut |e| seen.push((e.start, e.length, e.zero))).unwrap();
            assert_eq!(seen, expected, "{told:?}");
        }
    }

    /// An endless reader that counts the bytes read from it.
    struct Endless(u64);

    impl Read for &mut Endless {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            assert!(self.0 < 1 << 20, "it reads on and on");
            self.0 += buf.len() as u64;
            buf.fill(b'x');
            Ok(buf.len())
        }
    }

    #[test]
    fn an_extent_without_end_is_not_read_to_its_end() {
        for begin in ["[{\"", "[{\"start\": \"", "[{\"start\": 0, \"hole\": \""] {
            let mut endless = Endless(0);
            let body = begin.as_bytes().chain(&mut endless);
            assert!(read_extents(body, &mut |_| ()).is_err(), "{begin}");
        }
        let many = (0..100_000).map(|n| format!("{{\"start\": {n}, \"length\": 1, \"zero\": true}}"));
        let many = format!("[{}]", many.collect::<Vec<_>>().join(", "));
        let mut seen = 0;
        read_extents(many.as_bytes(), &mut |_| seen += 1).unwrap();
        assert_eq!(seen, 100_000);
    }
}
