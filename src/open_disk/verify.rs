//! Proof of the bytes: the block hash of the disk on its storage, and the comparison with what it should
//! hold.
//!
//! The server computes it where it can, while this side hashes what is expected; else the disk is read back.
//! All of it begins with a flush, and nobody may write meanwhile. A [`Watch`] stops it at once, although the
//! server goes on for a while: its answer has no reader then, and no connection of the pool waits for it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};
use tracing::{info, warn};

use super::OpenDisk;
use super::read_back::ReadBack;
use crate::amounts;
use crate::block_hash::{Bytes, Checksum, Difference, Hasher, Method, Padded, Watch, first_difference, hash};
use crate::disk::DiskError;
use crate::failure::{Exit, Failure};
use crate::pool::Pool;
use crate::process::spawn;
use crate::remote::{HashAnswer, HashRequest};

/// How often somebody who waits for the server looks whether to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

/// The bytes that a disk should hold.
pub(crate) enum Expected<'a> {
    /// These bytes, and zeros behind them where the disk is larger; with a name for messages.
    Bytes(&'a dyn Bytes, &'a str),
    /// The bytes that a copy has given to this hasher, which has the size of the disk.
    Hashed(&'a Hasher, &'a str),
    /// The bytes that are read back from it. That proves the wire and the way through the server, and that
    /// the storage gives the same bytes twice.
    Itself,
}

/// The block hash of a disk, and who has computed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskHash {
    pub(crate) checksum: Checksum,
    /// The server has; else the disk was read back.
    pub(crate) by_server: bool,
}

impl DiskHash {
    /// Says that the disk holds the same as `what`, with a word for the eye before it.
    pub(crate) fn told(&self, what: &str) -> String {
        format!(
            "verified: the disk holds the same as {what} ({} over blocks of {}, {}, {})",
            self.checksum.algorithm,
            amounts::size(self.checksum.block_size),
            self.checksum.checksum,
            match self.by_server {
                true => "computed by the server",
                false => "of what was read back",
            }
        )
    }
}

/// The server's answer; `Err` is the reason why there is none.
type Answer = Result<Checksum, String>;

impl OpenDisk {
    /// Returns the block hash of the disk: the server's, or that of what is read back where it has none.
    /// Blocks for as long as reading the disk takes.
    pub(crate) fn block_hash(&self, method: Method, watch: &Arc<Watch>) -> Result<DiskHash, Failure> {
        self.flush_for_hash()?;
        match await_answer(&self.ask_server(method, watch), watch)? {
            Ok(checksum) => Ok(DiskHash {
                checksum,
                by_server: true,
            }),
            Err(why) => {
                info!("the disk is read back: {why}");
                let (checksum, _) = hash(&ReadBack::of(self), method, watch)?;
                Ok(DiskHash {
                    checksum,
                    by_server: false,
                })
            }
        }
    }

    /// Fails, with the exit code of lost data, unless the disk on its storage holds what is expected. A
    /// hasher has a method of its own, which counts then.
    pub(crate) fn verify(
        &self,
        expected: Expected<'_>,
        method: Method,
        watch: &Arc<Watch>,
    ) -> Result<DiskHash, Failure> {
        self.flush_for_hash()?;
        let size = self.disk.capacity();
        let (here, hasher, name, there) = match expected {
            Expected::Bytes(bytes, name) => {
                let padded = self.padded(bytes, name)?;
                let asked = self.ask_server(method, watch);
                let (here, hasher) = hash(&padded, method, watch)?;
                (here, hasher, name, await_answer(&asked, watch)?)
            }
            Expected::Hashed(hasher, name) => {
                let (Some(here), true) = (hasher.finish(), hasher.size() == size) else {
                    let why = format!("{name} was not hashed as a whole");
                    return Err(Failure::text(Exit::DataLoss, unproven(&self.host(), &why)));
                };
                let there = await_answer(&self.ask_server(hasher.method(), watch), watch)?;
                return self.compare(here, hasher, name, there, watch);
            }
            Expected::Itself => {
                let asked = self.ask_server(method, watch);
                let (here, hasher) = hash(&ReadBack::of(self), method, watch)?;
                let there = await_answer(&asked, watch)?;
                if let Err(why) = &there {
                    let why = format!("{why}; --verify=IMAGE compares it with an image instead");
                    return Err(Failure::text(Exit::DataLoss, unproven(&self.host(), &why)));
                }
                (here, hasher, "what is read back from it", there)
            }
        };
        self.compare(here, &hasher, name, there, watch)
    }

    /// True where the server says that it computes block hashes.
    pub(crate) fn offers_block_hash(&self) -> bool {
        self.image.capabilities().checksum
    }

    fn padded<'a>(&self, bytes: &'a dyn Bytes, name: &str) -> Result<Padded<'a>, Failure> {
        let size = self.disk.capacity();
        match bytes.size() <= size {
            true => Ok(Padded { bytes, size }),
            false => Err(Failure::text(
                Exit::DataLoss,
                format!(
                    "the disk on {} is not the same as {name}, which is larger: it has {} bytes, and the disk \
                     {size}",
                    self.host(),
                    bytes.size()
                ),
            )),
        }
    }

    fn compare(
        &self,
        here: Checksum,
        hasher: &Hasher,
        name: &str,
        there: Answer,
        watch: &Watch,
    ) -> Result<DiskHash, Failure> {
        let judged = judge(&here, there);
        if judged == Judged::Same {
            return Ok(DiskHash {
                checksum: here,
                by_server: true,
            });
        }
        let difference = first_difference(&ReadBack::of(self), hasher, watch)?;
        if judged == Judged::Unknown && difference.is_none() {
            return Ok(DiskHash {
                checksum: here,
                by_server: false,
            });
        }
        let place = match difference {
            Some(Difference::At(block)) => {
                let range = hasher.range(block);
                format!(
                    "the first difference is in bytes {} to {} (block {block} of {})",
                    range.start,
                    range.end - 1,
                    hasher.blocks()
                )
            }
            Some(Difference::From(block)) => format!(
                "the first difference is not before byte {}",
                hasher.range(block).start
            ),
            None => "each block that is read back now is the same, so the bytes differ from one read to the \
                     next, or the server computes another hash"
                .to_owned(),
        };
        let hashes = match judged {
            Judged::Other(there) => format!(" ({} {there} instead of {})", here.algorithm, here.checksum),
            Judged::Same | Judged::Unknown => String::new(),
        };
        Err(Failure::text(
            Exit::DataLoss,
            format!(
                "the disk on {} is not the same as {name}{hashes}: {place}; write it again",
                self.host()
            ),
        ))
    }

    fn flush_for_hash(&self) -> Result<(), Failure> {
        let flushed = self.disk.flush();
        flushed.map_err(|e: DiskError| Failure::new(Exit::DataLoss, e))
    }

    /// Has a thread ask the server, which may take hours.
    fn ask_server(&self, method: Method, watch: &Arc<Watch>) -> Asked {
        let (give, answer) = bounded(1);
        let waits = Arc::new(());
        let ask = Ask {
            awaited: Arc::downgrade(&waits),
            pool: self.pool.clone(),
            is_allowed_beside: self.image.capabilities().allows_beside(self.pool.connections()),
            method,
            size: self.disk.capacity(),
        };
        let (watch, tell) = (watch.clone(), give.clone());
        let body = move || {
            // Nobody wants to hear of one that is stopped.
            if let Some(answer) = ask.answer(&watch) {
                let _ = tell.send(answer);
            }
        };
        if let Err(e) = spawn("checksum", body) {
            let _ = give.send(Err(e.to_string()));
        }
        Asked {
            answer,
            _waits: waits,
        }
    }
}

/// The one who waits for the server's answer. Where this side fails and nobody does any more, the server is
/// not waited for either.
struct Asked {
    answer: Receiver<Answer>,
    _waits: Arc<()>,
}

/// The request for a checksum.
struct Ask {
    pool: Arc<Pool>,
    /// It is gone once nobody waits for the answer.
    awaited: Weak<()>,
    /// The server allows one connection more than the pool has.
    is_allowed_beside: bool,
    method: Method,
    size: u64,
}

impl Ask {
    /// Waits for the answer; `None` where `watch` is stopped, or nobody waits any more. The place of a
    /// connection is taken from the pool for as long as this waits, and no longer.
    fn answer(self, watch: &Watch) -> Option<Answer> {
        let pool = self.pool.clone();
        let _room = match self.is_allowed_beside {
            true => None,
            false => pool.make_room().ok(),
        };
        let (give, answer) = bounded(1);
        // It can't be called back from a read of its connection, so it is left behind there.
        let awaited = self.awaited.clone();
        let started = spawn("asking", move || drop(give.send(self.ask())));
        if let Err(e) = started {
            return Some(Err(e.to_string()));
        }
        loop {
            match answer.recv_timeout(STOP_INTERVAL) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) if awaited.strong_count() == 0 => return None,
                Err(RecvTimeoutError::Timeout) => watch.check().ok()?,
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn ask(&self) -> Answer {
        let wanted = HashRequest {
            algorithm: self.method.algorithm.name(),
            block_size: self.method.block_size,
            size: self.size,
        };
        match self.pool.block_hash(wanted) {
            Ok(HashAnswer::Hash(checksum)) => Ok(Checksum {
                algorithm: self.method.algorithm.name().to_owned(),
                block_size: self.method.block_size,
                checksum,
            }),
            Ok(HashAnswer::NotOffered(why)) => Err(format!("the server computes no such checksum: {why}")),
            Err(e) => {
                warn!("the server's checksum failed: {e}");
                Err(format!("the server's checksum failed: {e}"))
            }
        }
    }
}

/// The server's answer about the disk.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// It holds what is expected.
    Same,
    /// It has this checksum instead.
    Other(String),
    /// There is no answer, and the disk has to be read back.
    Unknown,
}

/// Compares the checksum of what is expected with the server's.
fn judge(here: &Checksum, there: Answer) -> Judged {
    match there {
        Ok(there) if there == *here => Judged::Same,
        Ok(there) => Judged::Other(there.checksum),
        Err(why) => {
            info!("the disk is read back: {why}");
            Judged::Unknown
        }
    }
}

fn unproven(host: &str, why: &str) -> String {
    format!("the disk on {host} could not be verified: {why}")
}

/// Waits for the server's answer.
fn await_answer(asked: &Asked, watch: &Watch) -> Result<Answer, Failure> {
    loop {
        match asked.answer.recv_timeout(STOP_INTERVAL) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) => watch.check()?,
            Err(RecvTimeoutError::Disconnected) => {
                // It ends without an answer where it is stopped.
                watch.check()?;
                return Ok(Err("internal error in its thread".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_checksum_by_the_same_method_proves_a_disk() {
        let here = Checksum {
            algorithm: "blake2b".to_owned(),
            block_size: 4 << 20,
            checksum: "5e".to_owned(),
        };
        assert_eq!(judge(&here, Ok(here.clone())), Judged::Same);
        let others: [fn(&mut Checksum); 3] = [
            |other| other.checksum = "5f".to_owned(),
            |other| other.block_size = 1 << 20,
            |other| other.algorithm = "sha256".to_owned(),
        ];
        for change in others {
            let mut other = here.clone();
            change(&mut other);
            assert_eq!(judge(&here, Ok(other.clone())), Judged::Other(other.checksum));
        }
        assert_eq!(judge(&here, Err("no answer".to_owned())), Judged::Unknown);
    }
}
