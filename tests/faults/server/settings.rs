//! The settings of the server: the features that it offers and how slow it is. A test may change them at any
//! time; the next request sees the change.

use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Settings {
    pub size: u64,
    pub ticket: String,
    pub read_only: bool,
    /// Revokes the ticket: every request is answered with 403 and the ticket in the text, as imageio does.
    pub revoked: bool,
    pub zero: bool,
    pub flush: bool,
    pub extents: bool,
    pub checksum: bool,
    pub max_readers: u32,
    pub max_writers: u32,
    pub unix_socket: Option<String>,
    /// The delay before every answer.
    pub delay: Duration,
    /// GETs and PUTs that lie in this range wait until so many of their kind are under way at once.
    pub company: Option<(Range<u64>, usize)>,
    /// The delay between reading a PUT's body and storing it.
    pub put_delay: Duration,
    pub flush_delay: Duration,
    /// The speed of the storage in bytes per second, which all PUTs, zero requests and flushes share; those
    /// of one connection are silent meanwhile. Without it, the storage takes no time.
    pub speed: Option<u64>,
    /// The storage writes nothing before a flush.
    pub lazy: bool,
    /// Connections that are silent for this time are closed.
    pub idle_limit: Duration,
    /// Bytes that are sent before each answer, in the same write.
    pub interim: &'static str,
    /// The status line, to the end of the version, of each answer.
    pub version: &'static str,
    /// Connections are closed after so many answers,
    pub lifetime: u32,
    /// and the last answer says so.
    pub announces: bool,
    /// Connections that may be there at once.
    pub most_connections: usize,
    /// A connection too many is left without an answer, instead of being closed at once.
    pub leaves_surplus: bool,
    /// Bytes that are sent behind each answer, in the same write.
    pub trailing: &'static str,
    /// The status of a change that is done.
    pub done: u16,
    /// Sends bodies in chunks, and no length.
    pub chunked: bool,
    /// The ways in which another server with imageio's API differs from it (`cousin`).
    pub cousin: bool,
    /// A cousin whose storage takes a whole image only.
    pub whole_only: bool,
    /// Reports the whole disk as one data extent, as imageio's file backend does.
    pub one_extent: bool,
    /// A byte of the storage that each flush leaves with the value 0xee.
    pub decays: Option<u64>,
}

impl Settings {
    pub fn new(size: u64, ticket: &str) -> Settings {
        Settings {
            size,
            ticket: ticket.to_string(),
            read_only: false,
            revoked: false,
            zero: true,
            flush: true,
            extents: true,
            checksum: true,
            max_readers: 8,
            max_writers: 8,
            unix_socket: None,
            delay: Duration::ZERO,
            company: None,
            put_delay: Duration::ZERO,
            flush_delay: Duration::ZERO,
            speed: None,
            lazy: false,
            idle_limit: Duration::from_secs(60),
            interim: "",
            version: "HTTP/1.1",
            lifetime: u32::MAX,
            announces: false,
            most_connections: usize::MAX,
            leaves_surplus: false,
            trailing: "",
            done: 200,
            chunked: false,
            cousin: false,
            whole_only: false,
            one_extent: false,
            decays: None,
        }
    }

    pub fn features(&self) -> Vec<&'static str> {
        let writable = !self.read_only;
        let known = [
            ("checksum", self.checksum),
            ("extents", self.extents),
            ("flush", self.flush && writable),
            ("zero", self.zero && writable),
        ];
        known
            .iter()
            .filter(|(_, offered)| *offered)
            .map(|(name, _)| *name)
            .collect()
    }
}
