//! Connections that are made late, or never.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::super::{Mutex, Purpose};
use super::*;
use crate::remote::memory::MemoryServer;
use crate::remote::{Dial, Extent};

#[test]
fn a_connection_that_cannot_be_made_at_the_start_is_left_to_the_keeper() {
    let server = MemoryServer::new(64, 7);
    let first = server.dial().unwrap();
    let epoch = server.epoch();
    server.state().ended = Some(epoch);
    let pool = Pool::open(server.clone(), first, 2, 2, Duration::from_secs(10));
    pool.await_all();
    server.state().ended = None;
    for purpose in [Purpose::Write, Purpose::Read] {
        assert_eq!(
            pool.lease(purpose).unwrap().index(),
            0,
            "the other one would have to be made"
        );
    }
    assert!(pool.flush_all().is_ok());
    assert!(!dial_again(&pool, 0, Duration::ZERO), "it is there");
    assert!(dial_again(&pool, 1, Duration::ZERO));
    let first = pool.lease(Purpose::Write).unwrap();
    let other = pool.lease(Purpose::Write).unwrap();
    let made = (other.index(), other.generation(), pool.replaced());
    assert_eq!(made, (1, 1, 0), "it replaces none");
    drop((first, other));
    assert!(pool.flush_all().is_ok());
}

#[test]
fn nobody_waits_for_a_connection_that_is_being_made() {
    let server = MemoryServer::new(64, 7);
    let first = server.dial().unwrap();
    let pool = Pool::open(
        Arc::new(Never(server.clone())),
        first,
        3,
        3,
        Duration::from_secs(10),
    );
    drop(pool.write(0, &[&[1]]).unwrap());
    pool.flush_all().unwrap();
    assert!(pool.is_quiet(Duration::ZERO));
    pool.close_all();
}

/// A remote whose flushes tell that they have begun, and wait until they may end.
struct Slow {
    begun: Sender<usize>,
    number: usize,
    go_on: Receiver<()>,
}

impl Remote for Slow {
    fn read(&mut self, _: u64, _: &mut [&mut [u8]]) -> Result<(), RemoteError> {
        Ok(())
    }
    fn write(&mut self, _: u64, _: &[&[u8]]) -> Result<(), RemoteError> {
        Ok(())
    }
    fn zero(&mut self, _: u64, _: u64) -> Result<(), RemoteError> {
        Ok(())
    }
    fn set_durable(&mut self, _: bool) {}
    fn flush(&mut self) -> Result<(), RemoteError> {
        self.begun.send(self.number).unwrap();
        self.go_on.recv().unwrap();
        Ok(())
    }
    fn touch(&mut self) -> Result<(), RemoteError> {
        Ok(())
    }
    fn extents(&mut self, _: &mut dyn FnMut(Extent)) -> Result<(), RemoteError> {
        Ok(())
    }
}

/// Dials when the test hands a remote over.
struct ByHand(Mutex<Receiver<Box<dyn Remote>>>);

impl Dial for ByHand {
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError> {
        Ok(self.0.lock().recv().unwrap())
    }
}

/// The storage's only report of a loss could go to the one while the other is believed.
#[test]
fn a_connection_made_during_a_flush_of_all_others_is_not_flushed_beside_it() {
    let (begun, flushes) = channel();
    let remote = |number| {
        let (end, go_on) = channel();
        let begun = begun.clone();
        (end, Box::new(Slow { begun, number, go_on }))
    };
    let ((end_first, first), (end_second, second)) = (remote(0), remote(1));
    let (hand, over) = channel();
    let dial = Arc::new(ByHand(Mutex::new(over)));
    let pool = Pool::open(dial, first, 2, 2, Duration::from_secs(10));
    std::thread::scope(|scope| {
        let all = scope.spawn(|| pool.flush_all());
        assert_eq!(flushes.recv(), Ok(0));
        hand.send(second).unwrap();
        pool.await_all();
        let one = scope.spawn(|| {
            let mut lease = pool.lease(Purpose::Write).unwrap();
            (lease.index(), lease.flush())
        });
        let beside = flushes.recv_timeout(Duration::from_millis(100));
        end_first.send(()).unwrap();
        end_second.send(()).unwrap();
        all.join().unwrap().unwrap();
        let (index, flushed) = one.join().unwrap();
        flushed.unwrap();
        assert_eq!(index, 1);
        assert!(beside.is_err(), "a flush was sent beside another one");
    });
}

/// Dials for ever.
struct Never(Arc<MemoryServer>);

impl Dial for Never {
    fn dial(&self) -> Result<Box<dyn Remote>, RemoteError> {
        loop {
            std::thread::park();
        }
    }

    fn epoch(&self) -> u64 {
        self.0.epoch()
    }
}
