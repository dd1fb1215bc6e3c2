//! One case of the search: a mount, its server, and the model that every step changes or checks.

use super::SIZE;
use super::steps::{Step, Weather};
use crate::rig::{Rig, assert_same, close, fallocate, pattern, punch_hole, read_at, settings, used_server};
use crate::server::{Fault, Image, Verb};
use crate::support::run::run;
use libc::EIO;
use nix::fcntl::FallocateFlags;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

pub struct Run {
    rig: Rig,
    file: File,
    model: Image,
    unknown: Vec<Range<u64>>,
    weather: Weather,
    broken: bool,
    read_faults: bool,
    /// True when the server has lost unflushed bytes since the last fsync.
    forgotten: bool,
    hit: usize,
}

impl Run {
    pub fn new(weather: Weather) -> Run {
        let mut settings = settings(SIZE);
        settings.put_delay = Duration::from_millis(1);
        let server = used_server(settings);
        let rig = Rig::over(server, weather.options());
        let (file, model) = (rig.read_write(), rig.server.visible());
        Run {
            rig,
            file,
            model,
            unknown: Vec::new(),
            weather,
            broken: false,
            read_faults: false,
            forgotten: false,
            hit: 0,
        }
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Write(range, seed) => {
                let bytes = pattern(*seed, (range.end - range.start) as usize);
                let result = self.file.write_all_at(&bytes, range.start);
                self.changed(result, range, |model| model.write(range.start, &bytes));
            }
            Step::WriteZeros(range) => {
                let result = self
                    .file
                    .write_all_at(&vec![0; (range.end - range.start) as usize], range.start);
                self.changed(result, range, |model| model.zero(range.clone()));
            }
            Step::Punch(range) => {
                let result = punch_hole(&self.file, range.clone());
                self.changed(result, range, |model| model.zero(range.clone()));
            }
            Step::ZeroRange(range) => {
                let result = fallocate(&self.file, FallocateFlags::FALLOC_FL_ZERO_RANGE, range.clone());
                self.changed(result, range, |model| model.zero(range.clone()));
            }
            Step::TruncateAndGrow(end) => {
                let result = self.file.set_len(*end).and_then(|()| self.file.set_len(SIZE));
                self.changed(result, &(*end..SIZE), |model| model.zero(*end..SIZE));
            }
            Step::Read(range) => self.read(range),
            Step::Fsync => self.fsync(),
            Step::Close => self.close(),
            Step::Map(range, seed) => {
                let bytes = pattern(*seed, (range.end - range.start) as usize);
                let result = self.write_mapped(range, &bytes);
                self.changed(result, range, |model| model.write(range.start, &bytes));
            }
            Step::Arm(verb, action) => {
                if *verb == Verb::Get {
                    self.read_faults = true;
                    // Only one fault may hit reads, because a read fails after four failed attempts.
                    self.rig.server.disarm_verb(Verb::Get);
                }
                self.rig.server.arm(Fault::next(*verb, action.clone()));
            }
            Step::CutClean => {
                if self.file.sync_all().is_ok() && self.rig.server.unflushed().is_empty() {
                    self.rig.server.cut(&self.rig.server.connections_alive());
                } else {
                    self.noticed("an fsync failed");
                }
            }
            Step::Cut => {
                self.rig.server.cut(&self.rig.server.connections_alive());
                self.hit += 1;
            }
            Step::Restart => {
                self.rig.server.restart();
                self.forgotten = true;
                self.hit += 1;
            }
        }
    }

    fn changed(&mut self, result: io::Result<()>, range: &Range<u64>, apply: impl FnOnce(&mut Image)) {
        match result {
            Ok(()) => apply(&mut self.model),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "a change of {range:?}: {error}");
                self.noticed(&format!("a change of {range:?} failed"));
                self.unknown.push(range.clone());
            }
        }
    }

    fn noticed(&mut self, what: &str) {
        assert!(self.weather.may_be_noticed(), "{what}\n{}", self.retry_log());
        self.broken = true;
    }

    /// Returns the lines of the mount's log about failures and retries.
    fn retry_log(&self) -> String {
        let log = self.rig.mount.log();
        let lines = log
            .lines()
            .filter(|line| line.contains(" INFO ") || line.contains(" WARN "));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Writes `bytes` through a shared mapping, in another program: mapping memory is unsafe, and this crate
    /// has no unsafe code.
    fn write_mapped(&self, range: &Range<u64>, bytes: &[u8]) -> io::Result<()> {
        const PROGRAM: &str = "
import mmap, sys
file, offset, data = open(sys.argv[1], 'r+b'), int(sys.argv[2]), open(sys.argv[3], 'rb').read()
try:
    memory = mmap.mmap(file.fileno(), 0)
    memory[offset:offset + len(data)] = data
    memory.flush()
except OSError as error:
    sys.exit(error.errno)
";
        let data = self.rig.mount.dir().join("to-map");
        fs::write(&data, bytes)?;
        let mut command = Command::new("python3");
        command.args(["-c", PROGRAM]).arg(self.rig.mount.file());
        let ran = run(command.arg(range.start.to_string()).arg(data), 120);
        match ran.code {
            Some(0) => Ok(()),
            // A page that cannot be read leads to a signal.
            None if ran.signal == Some(libc::SIGBUS) => Err(io::Error::from_raw_os_error(EIO)),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => panic!("{ran}"),
        }
    }

    fn close(&mut self) {
        let other = self.rig.read_write();
        match close(std::mem::replace(&mut self.file, other)) {
            Ok(()) if self.forgotten => {}
            Ok(()) => {
                assert!(!self.broken, "a close succeeded after a failure");
                assert_same(
                    "visible after a successful close",
                    &self.rig.server.visible(),
                    &self.model,
                );
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
                self.noticed("a close failed");
            }
        }
    }

    fn read(&self, range: &Range<u64>) {
        match read_at(&self.file, range.clone()) {
            Err(error) => assert!(
                self.weather.may_be_noticed() && (self.read_faults || self.broken),
                "a read of {range:?} failed: {error}\n{}",
                self.retry_log()
            ),
            Ok(bytes) => {
                let known = |at: &u64| !self.unknown.iter().any(|unknown| unknown.contains(at));
                let expected = self.model.read(range.clone());
                let wrong = range.clone().filter(known).find(|at| {
                    let index = (at - range.start) as usize;
                    bytes[index] != expected[index]
                });
                assert_eq!(
                    wrong, None,
                    "a read of {range:?} is not the last acknowledged write there"
                );
            }
        }
    }

    fn fsync(&mut self) {
        match self.file.sync_all() {
            Ok(()) => {
                self.forgotten = false;
                assert!(!self.broken, "an fsync succeeded after a failure");
                assert_eq!(self.rig.server.unflushed(), [], "after a successful fsync");
                assert_same(
                    "durable after a successful fsync",
                    &self.rig.server.durable(),
                    &self.model,
                );
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO), "{error}");
                self.noticed("an fsync failed");
            }
        }
    }

    /// Unmounts, checks the outcome, and returns the number of faults that hit a request or a connection.
    pub fn end(self) -> usize {
        drop(self.file);
        let (ran, server) = self.rig.umount();
        let hit = self.hit + server.faults_fired();
        match ran.code {
            Some(0) => {
                assert!(!self.broken, "umount exits 0 after a failure: {ran}");
                assert_same("durable after umount", &server.durable(), &self.model);
                assert_eq!(server.unflushed(), [], "after umount");
            }
            code => assert!(
                code == Some(7) && self.weather.may_be_noticed() && hit > 0,
                "{ran}"
            ),
        }
        // A request whose answer was too late is still in flight on the server when it is repeated, so two
        // writes in one block are no violation then.
        if !matches!(self.weather, Weather::Late | Weather::Passing) {
            assert_eq!(server.violations(), Vec::<String>::new());
        }
        hit
    }
}
