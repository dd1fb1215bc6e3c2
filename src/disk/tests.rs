//! The disk against a model: an in-memory remote whose connections each keep their writes to themselves
//! until they are flushed, with faults. Whatever happens, a read returns the last acknowledged write; after
//! a flush that succeeded, the durable image is the file; after a failure nothing succeeds again.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::remote::{Dial, Extent, Remote, RemoteError};

const SIZE: usize = 512 << 10;

#[derive(Default)]
struct Server {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// By connection: what it wrote and didn't flush.
    unflushed: HashMap<u64, Vec<Range<usize>>>,
    /// Faults for the next requests, by kind.
    faults: Vec<(Kind, RemoteError)>,
    zeros: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Read,
    Change,
    Flush,
}

struct Cloud {
    server: Arc<Mutex<Server>>,
    next: AtomicU64,
}

struct Connection {
    server: Arc<Mutex<Server>>,
    id: u64,
    broken: bool,
}

impl Dial for Cloud {
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Connection {
            server: self.server.clone(),
            id,
            broken: false,
        }))
    }
}

impl Connection {
    fn request(&mut self, kind: Kind, perform: impl FnOnce(&mut Server, u64)) -> Result<(), RemoteError> {
        if self.broken {
            return Err(RemoteError::Lost("broken before".into()));
        }
        let mut server = self.server.lock().unwrap();
        let fault = server.faults.iter().position(|(k, _)| *k == kind);
        match fault.map(|at| server.faults.remove(at).1) {
            None => perform(&mut server, self.id),
            Some(error) => {
                self.broken = matches!(error, RemoteError::Lost(_));
                return Err(error);
            }
        }
        Ok(())
    }

    fn change(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<(), RemoteError> {
        self.request(Kind::Change, |server, id| {
            server.visible[range.clone()].copy_from_slice(bytes);
            server.unflushed.entry(id).or_default().push(range);
        })
    }
}

impl Remote for Connection {
    fn read(&mut self, offset: u64, parts: &mut [&mut [u8]]) -> Result<(), RemoteError> {
        self.request(Kind::Read, |server, _| {
            let mut at = offset as usize;
            for part in parts {
                part.copy_from_slice(&server.visible[at..][..part.len()]);
                at += part.len();
            }
        })
    }
    fn write(&mut self, offset: u64, parts: &[&[u8]]) -> Result<(), RemoteError> {
        let data = parts.concat();
        self.change(offset as usize..offset as usize + data.len(), &data)
    }
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), RemoteError> {
        self.server.lock().unwrap().zeros += 1;
        self.change(offset as usize..(offset + len) as usize, &vec![0; len as usize])
    }
    fn flush(&mut self) -> Result<(), RemoteError> {
        self.request(Kind::Flush, |server, id| {
            // What is durable then is what is visible there now: later writes of others included.
            for range in server.unflushed.remove(&id).unwrap_or_default() {
                let bytes = server.visible[range.clone()].to_vec();
                server.durable[range].copy_from_slice(&bytes);
            }
        })
    }
    fn touch(&mut self) -> Result<(), RemoteError> {
        Ok(())
    }
    fn extents(&mut self, found: &mut dyn FnMut(Extent)) -> Result<(), RemoteError> {
        let server = self.server.lock().unwrap();
        for (n, block) in server.visible.chunks(4096).enumerate() {
            let zero = block.iter().all(|b| *b == 0);
            found(Extent {
                start: n as u64 * 4096,
                length: block.len() as u64,
                zero,
            });
        }
        Ok(())
    }
}

/// A disk of [`SIZE`] bytes of `fill` on four connections.
fn disk(fill: u8, zero_detect: bool) -> (Arc<Mutex<Server>>, Disk) {
    let image = vec![fill; SIZE];
    let server = Server {
        visible: image.clone(),
        durable: image,
        ..Server::default()
    };
    let server = Arc::new(Mutex::new(server));
    let cloud = Arc::new(Cloud {
        server: server.clone(),
        next: AtomicU64::new(0),
    });
    let pool = Pool::open(cloud.clone(), cloud.dial().unwrap(), 4, 4).unwrap();
    let options = DiskOptions {
        read_only: false,
        cache_size: 4 << 20,
        request_size: 64 << 10,
        zero_detect,
        extents: true,
    };
    (server, Disk::open(pool, SIZE as u64, options).unwrap())
}

fn whole(disk: &Disk) -> Vec<u8> {
    let mut all = Vec::new();
    disk.read(0, SIZE, &mut all).unwrap().to_vec()
}

#[derive(Debug, Clone)]
enum Step {
    Write(u64, usize, u8),
    Zero(u64, u64),
    Punch(u64, u64),
    Truncate(u64),
    Read(u64, usize),
    Seek(u64),
    Drain,
    Flush,
    Fail(Kind, bool),
}

fn steps(faults: bool) -> impl Strategy<Value = Vec<Step>> {
    let offset = 0..SIZE as u64;
    let len = prop_oneof![1..100usize, 1..9000usize, 1..SIZE / 2];
    let fail = (
        prop_oneof![Just(Kind::Read), Just(Kind::Change), Just(Kind::Flush)],
        any::<bool>(),
    );
    let step = prop_oneof![
        6 => (offset.clone(), len.clone(), 0..=255u8).prop_map(|(o, l, b)| Step::Write(o, l, b)),
        2 => (offset.clone(), len.clone()).prop_map(|(o, l)| Step::Zero(o, l as u64)),
        2 => (offset.clone(), len.clone()).prop_map(|(o, l)| Step::Punch(o, l as u64)),
        1 => (0..=SIZE as u64).prop_map(Step::Truncate),
        4 => (offset.clone(), len).prop_map(|(o, l)| Step::Read(o, l)),
        1 => offset.prop_map(Step::Seek),
        1 => Just(Step::Drain),
        2 => Just(Step::Flush),
        u32::from(faults) => fail.prop_map(|(kind, lost)| Step::Fail(kind, lost)),
    ];
    prop::collection::vec(step, 1..60)
}

/// The file as it must be, and whether an operation has failed.
struct Model {
    image: Vec<u8>,
    len: usize,
    failed: bool,
}

impl Model {
    /// A change that is acknowledged, or refused for good.
    fn change(&mut self, done: Result<(), DiskError>, apply: impl FnOnce(&mut Model)) {
        match done {
            Ok(()) => {
                assert!(!self.failed, "a change after a failure was acknowledged");
                apply(self);
            }
            Err(DiskError::Failed(_)) => self.failed = true,
            Err(DiskError::NoSpace { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }

    fn step(&mut self, disk: &Disk, server: &Mutex<Server>, step: Step) {
        match step {
            Step::Write(offset, len, byte) => {
                let (at, data) = (offset as usize, vec![byte; len]);
                let fits = len.min(SIZE - at);
                self.change(disk.write(offset, &data).map(|n| assert_eq!(n, fits)), |model| {
                    model.image[at..at + fits].fill(byte);
                    model.len = model.len.max(at + fits);
                });
            }
            Step::Zero(offset, len) => {
                let (at, end) = (offset as usize, offset as usize + len as usize);
                self.change(disk.zero(offset, len, true), |model| {
                    assert!(end <= SIZE);
                    model.image[at..end].fill(0);
                    model.len = model.len.max(end);
                });
            }
            Step::Punch(offset, len) => {
                let (at, end) = (offset as usize, SIZE.min((offset + len) as usize));
                self.change(disk.zero(offset, len, false), |model| {
                    model.image[at..end].fill(0)
                });
            }
            Step::Truncate(len) => {
                let len = len as usize;
                self.change(disk.truncate(len as u64), |model| {
                    model.image[len..].fill(0);
                    model.len = len;
                });
            }
            Step::Read(offset, len) => {
                let mut seen = Vec::new();
                let seen = disk.read(offset, len, &mut seen).expect("reads are repeated");
                let end = (offset as usize + len).min(self.len);
                assert!(
                    *seen == self.image[(offset as usize).min(end)..end],
                    "not the last write"
                );
            }
            Step::Seek(offset) => {
                if let Ok(data) = disk.next_data(offset) {
                    let skipped = offset as usize..data as usize;
                    assert!(self.image[skipped].iter().all(|b| *b == 0), "data skipped");
                }
                if let Ok(hole) = disk.next_hole(offset)
                    && (hole as usize) < self.len
                {
                    assert_eq!(self.image[hole as usize], 0, "data in a hole");
                }
            }
            Step::Drain => self.failed |= disk.drain().is_err(),
            Step::Flush => match disk.flush() {
                Ok(()) => {
                    assert!(!self.failed, "a flush after a failure succeeded");
                    assert!(
                        server.lock().unwrap().durable == self.image,
                        "not durable after a flush"
                    );
                }
                Err(_) => self.failed = true,
            },
            Step::Fail(kind, lost) => {
                let error = match lost {
                    true => RemoteError::Lost("reset".into()),
                    false => RemoteError::Failed("500".into()),
                };
                server.lock().unwrap().faults.push((kind, error));
            }
        }
        assert_eq!(disk.len(), self.len as u64);
    }
}

fn run(steps: Vec<Step>, zero_detect: bool) {
    let (server, disk) = disk(9, zero_detect);
    let mut model = Model {
        image: vec![9; SIZE],
        len: SIZE,
        failed: false,
    };
    for step in steps {
        model.step(&disk, &server, step);
    }
    // What is acknowledged is readable to the end, whatever happened.
    server.lock().unwrap().faults.clear();
    assert!(whole(&disk) == model.image[..model.len]);
    let failed = model.failed || disk.failure().is_some();
    match disk.close() {
        Ok(()) => {
            assert!(!failed);
            assert!(server.lock().unwrap().durable == model.image);
        }
        Err(_) => assert!(disk.failure().is_some()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_disk_is_what_was_written_to_it(steps in steps(false), zero_detect: bool) {
        run(steps, zero_detect);
    }

    #[test]
    fn faults_are_survived_or_told_for_good(steps in steps(true), zero_detect: bool) {
        run(steps, zero_detect);
    }
}

#[test]
fn a_used_disk_is_emptied_by_one_zero_request_and_a_zero_disk_by_none() {
    for (fill, requests) in [(9, 1), (0, 0)] {
        let (server, disk) = disk(fill, true);
        disk.truncate(0).unwrap();
        disk.truncate(SIZE as u64).unwrap();
        disk.truncate(0).unwrap();
        disk.flush().unwrap();
        let server = server.lock().unwrap();
        assert_eq!(server.zeros, requests);
        assert!(server.durable.iter().all(|b| *b == 0));
    }
}

#[test]
fn a_write_behind_the_end_is_refused_and_one_across_it_is_short() {
    let (_, disk) = disk(0, false);
    assert!(matches!(
        disk.write(SIZE as u64, b"x"),
        Err(DiskError::NoSpace { .. })
    ));
    assert_eq!(disk.write(SIZE as u64 - 3, b"12345").unwrap(), 3);
    assert!(matches!(
        disk.truncate(SIZE as u64 + 1),
        Err(DiskError::NoSpace { .. })
    ));
}

#[test]
fn readers_beside_writers_never_see_an_older_block() {
    let (_, disk) = disk(0, false);
    let latest: Vec<AtomicU64> = (0..16).map(|_| AtomicU64::new(0)).collect();
    const BLOCK: u64 = 8192;
    std::thread::scope(|scope| {
        for writer in 0..2u64 {
            let (disk, latest) = (&disk, &latest);
            scope.spawn(move || {
                for round in 1..400u64 {
                    for block in (writer..16).step_by(2) {
                        disk.write(block * BLOCK, &round.to_le_bytes().repeat(BLOCK as usize / 8))
                            .unwrap();
                        latest[block as usize].store(round, Ordering::SeqCst);
                    }
                }
            });
        }
        for _ in 0..3 {
            scope.spawn(|| {
                let mut seen = Vec::new();
                for n in 0..4000u64 {
                    let block = n % 16;
                    let before = latest[block as usize].load(Ordering::SeqCst);
                    let read = disk.read(block * BLOCK, BLOCK as usize, &mut seen).unwrap();
                    let round = u64::from_le_bytes(read[..8].try_into().unwrap());
                    assert!(round >= before, "read {round} after {before} was acknowledged");
                }
            });
        }
    });
    disk.close().unwrap();
}
