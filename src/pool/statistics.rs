//! Counts what each connection did and how long it took. The text has the form of imageio's own log lines, so
//! that both sides of a transfer can be compared line by line.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::amounts::size;

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// GET of bytes.
    Read,
    /// PUT.
    Write,
    /// PATCH zero.
    Zero,
    /// PATCH flush.
    Flush,
    /// GET extents.
    Extents,
    /// OPTIONS, to keep the connection alive.
    Touch,
}

const OPS: [(Op, &str); 6] = [
    (Op::Read, "read"),
    (Op::Write, "write"),
    (Op::Zero, "zero"),
    (Op::Flush, "flush"),
    (Op::Extents, "extents"),
    (Op::Touch, "options"),
];

#[derive(Debug, Default)]
struct Counter {
    ops: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    bytes: AtomicU64,
}

/// The work of one connection, for programs; the names are those of `--stats=json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    /// Time since the mount began.
    pub(crate) seconds: f64,
    /// Every kind of request by its name: `read`, `write`, `zero`, `flush`, `extents`, `options`.
    #[serde(flatten)]
    pub(crate) operations: BTreeMap<&'static str, OpFigures>,
}

/// The requests of one kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct OpFigures {
    /// Requests that succeeded.
    pub(crate) ops: u64,
    /// Requests that failed, repeated ones included.
    pub(crate) errors: u64,
    /// Time that all of these took.
    pub(crate) seconds: f64,
    /// Bytes that those which succeeded moved.
    pub(crate) bytes: u64,
}

/// Counters of one pool slot. Failed requests count time and errors but not ops, as imageio does.
#[derive(Debug)]
pub(crate) struct ConnectionStatistics {
    since: Instant,
    counters: [Counter; OPS.len()],
}

impl ConnectionStatistics {
    /// Starts with all counters at zero.
    pub(crate) fn start() -> Self {
        ConnectionStatistics {
            since: Instant::now(),
            counters: Default::default(),
        }
    }

    /// Adds one request of `bytes` bytes that took `time` and succeeded if `done`.
    pub(crate) fn record(&self, op: Op, time: Duration, done: bool, bytes: u64) {
        let counter = &self.counters[op as usize];
        counter.nanoseconds.fetch_add(time.as_nanos() as u64, Relaxed);
        if done {
            counter.ops.fetch_add(1, Relaxed);
            counter.bytes.fetch_add(bytes, Relaxed);
        } else {
            counter.errors.fetch_add(1, Relaxed);
        }
    }

    /// Returns the number of requests of this kind that succeeded.
    pub(crate) fn ops(&self, op: Op) -> u64 {
        self.counters[op as usize].ops.load(Relaxed)
    }

    /// Returns the bytes moved by requests of this kind that succeeded.
    pub(crate) fn bytes(&self, op: Op) -> u64 {
        self.counters[op as usize].bytes.load(Relaxed)
    }

    /// Returns all counters.
    pub(crate) fn figures(&self) -> Figures {
        let operation = |(op, name): (Op, &'static str)| {
            let counter = &self.counters[op as usize];
            let figures = OpFigures {
                ops: counter.ops.load(Relaxed),
                errors: counter.errors.load(Relaxed),
                seconds: counter.nanoseconds.load(Relaxed) as f64 / 1e9,
                bytes: counter.bytes.load(Relaxed),
            };
            (name, figures)
        };
        Figures {
            seconds: self.since.elapsed().as_secs_f64(),
            operations: OPS.into_iter().map(operation).collect(),
        }
    }

    /// Returns the number of failed requests of any kind.
    pub(crate) fn errors(&self) -> u64 {
        self.counters.iter().map(|c| c.errors.load(Relaxed)).sum()
    }
}

/// Writes `[connection 1 ops, 1.234567 s] [write 3 ops, 0.500000 s, 12.00 MiB, 24.00 MiB/s] ...`.
impl fmt::Display for ConnectionStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[connection 1 ops, {:.6} s]",
            self.since.elapsed().as_secs_f64()
        )?;
        for (op, name) in OPS {
            let counter = &self.counters[op as usize];
            let (ops, bytes) = (counter.ops.load(Relaxed), counter.bytes.load(Relaxed));
            let seconds = counter.nanoseconds.load(Relaxed) as f64 / 1e9;
            if ops == 0 && counter.errors.load(Relaxed) == 0 {
                continue;
            }
            write!(f, " [{name} {ops} ops, {seconds:.6} s")?;
            if bytes > 0 {
                write!(
                    f,
                    ", {}, {}/s",
                    size(bytes),
                    size((bytes as f64 / seconds.max(1e-9)) as u64)
                )?;
            }
            f.write_str("]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ops_stand_at_their_index_and_print_like_imageio() {
        for (index, (op, _)) in OPS.iter().enumerate() {
            assert_eq!(*op as usize, index);
        }
        let statistics = ConnectionStatistics::start();
        statistics.record(Op::Write, Duration::from_millis(500), true, 12 << 20);
        statistics.record(Op::Write, Duration::from_millis(500), false, 1 << 20);
        statistics.record(Op::Flush, Duration::from_millis(20), true, 0);
        let line = statistics.to_string();
        assert!(
            line.contains("[write 1 ops, 1.000000 s, 12.00 MiB, 12.00 MiB/s]"),
            "{line}"
        );
        assert!(line.ends_with("[flush 1 ops, 0.020000 s]"), "{line}");
        assert_eq!((statistics.ops(Op::Write), statistics.errors()), (1, 1));
    }
}
