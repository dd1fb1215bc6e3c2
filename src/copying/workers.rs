//! Several threads at one piece of work: the first failure stops all, and is the one that counts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::CopyError;

/// Runs `work` in `count` threads, and waits for all. `stop` is set at the first failure.
pub(super) fn in_parallel(
    count: usize,
    stop: &AtomicBool,
    work: impl Fn() -> Result<(), CopyError> + Sync,
) -> Result<(), CopyError> {
    let first: Mutex<Result<(), CopyError>> = Mutex::new(Ok(()));
    let run = || {
        let done = catch_unwind(AssertUnwindSafe(&work)).unwrap_or(Err(CopyError::Panicked));
        if let Err(e) = done {
            let mut first = first.lock();
            // Others that stop after it have no story of their own.
            if first.is_ok() {
                *first = Err(e);
            }
            stop.store(true, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for n in 1..count {
            let builder = std::thread::Builder::new().name(format!("copy-{n}"));
            // With fewer threads it takes longer.
            if builder.spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
    first.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stops_the_others_and_a_panic_is_one() {
        let stop = AtomicBool::new(false);
        let turn = Mutex::new(0);
        let work = || {
            let mine = {
                let mut turn = turn.lock();
                *turn += 1;
                *turn
            };
            if mine == 2 {
                panic!("the second one");
            }
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            Err(CopyError::Stopped)
        };
        let result = in_parallel(3, &stop, work);
        assert!(matches!(result, Err(CopyError::Panicked)), "{result:?}");
    }
}
