//! The log as records of journald, with a field for each value, in its own protocol
//! (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram of lines `NAME=value`, where a value of several lines has
//! its length in front.
//!
//! Each record has MESSAGE, PRIORITY, SYSLOG_IDENTIFIER, RHV_MOUNT_MOUNTPOINT, RHV_MOUNT_TARGET (the part of
//! the program), and RHV_MOUNT_NAME for each value `name` of the record. journald adds the process and the
//! unit. The crate tracing-journald sends values as they are, with the secrets in them.

use std::fmt;
use std::path::Path;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::datagrams::Datagrams;
use super::lines::severity;
use crate::secret::clean;

/// Upper bound on a value, in bytes: a record of a few of them fits into a datagram.
const MAX_VALUE_BYTES: usize = 32 << 10;

/// The layer that sends records to journald.
pub(super) struct Journal {
    socket: Mutex<Datagrams>,
    mountpoint: String,
}

impl Journal {
    pub(super) fn over(socket: Datagrams, mountpoint: &Path) -> Journal {
        Journal {
            socket: Mutex::new(socket),
            mountpoint: mountpoint.display().to_string(),
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record::default();
        record.add("SYSLOG_IDENTIFIER", "rhv-mount");
        record.add("PRIORITY", &severity(*event.metadata().level()).to_string());
        record.add("RHV_MOUNT_MOUNTPOINT", &self.mountpoint);
        // Records of the crate log, which libraries use, have theirs among the values.
        match event.metadata().target() {
            "log" => {}
            target => record.add("RHV_MOUNT_TARGET", target),
        }
        event.record(&mut record);
        self.socket.lock().send(&record.bytes);
    }
}

/// A record in the form in which it is sent.
#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
}

impl Record {
    fn add(&mut self, name: &str, value: &str) {
        let value = clean(value);
        let mut ends = (0..=value.len().min(MAX_VALUE_BYTES)).rev();
        let end = ends.find(|at| value.is_char_boundary(*at)).unwrap_or(0);
        let value = &value.as_bytes()[..end];
        self.bytes.extend(name.as_bytes());
        match value.contains(&b'\n') {
            true => {
                self.bytes.push(b'\n');
                self.bytes.extend((value.len() as u64).to_le_bytes());
            }
            false => self.bytes.push(b'='),
        }
        self.bytes.extend(value);
        self.bytes.push(b'\n');
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.add("MESSAGE", value),
            "log.target" => self.add("RHV_MOUNT_TARGET", value),
            name if name.starts_with("log.") => {}
            name => {
                let upper = |c: char| match c.is_ascii_alphanumeric() {
                    true => c.to_ascii_uppercase(),
                    false => '_',
                };
                let name: String = name.chars().map(upper).collect();
                self.add(&format!("RHV_MOUNT_{name}"), value);
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_record_has_a_field_for_each_value_and_no_secret_in_any() {
        crate::secret::hide("zyx-journal-7f31");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::over(Datagrams::to(&path).unwrap(), Path::new("/mnt"));
        let subscriber = tracing_subscriber::registry().with(journal);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(
                target: "there",
                connections = 4,
                url = "/images/zyx-journal-7f31",
                "said zyx-journal-7f31\nPRIORITY=0"
            );
        });
        let mut record = [0; 1024];
        let n = daemon.recv(&mut record).unwrap();
        let text = String::from_utf8_lossy(&record[..n]);
        for line in [
            "SYSLOG_IDENTIFIER=rhv-mount\n",
            "PRIORITY=4\n",
            "RHV_MOUNT_MOUNTPOINT=/mnt\n",
            "RHV_MOUNT_TARGET=there\n",
            "RHV_MOUNT_CONNECTIONS=4\n",
            "RHV_MOUNT_URL=/images/***\n",
            "MESSAGE\n\u{13}\0\0\0\0\0\0\0said ***\nPRIORITY=0\n",
        ] {
            assert!(text.contains(line), "no {line:?} in {text:?}");
        }
        assert!(!text.contains("zyx"), "{text:?}");
    }

    #[test]
    fn a_long_value_is_cut_between_two_characters() {
        let mut record = Record::default();
        record.add("A", &"\u{20ac}".repeat(MAX_VALUE_BYTES));
        assert!(record.bytes.len() <= MAX_VALUE_BYTES + 3);
        assert!(String::from_utf8(record.bytes).is_ok());
    }
}
