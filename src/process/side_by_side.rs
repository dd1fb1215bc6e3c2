//! The same work for several things, by a few threads side by side.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

/// Does `work` for each of `items`, in `most` threads at most, which are called after `name`. It gets the
/// number of its thread, below `most`, and that of the item; the results are in the order of the items.
pub(crate) fn side_by_side<T: Sync, R: Send>(
    name: &str,
    items: &[T],
    most: usize,
    work: impl Fn(usize, usize, &T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let run = |thread: usize| {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(n) else { return };
            *results[n].lock() = Some(work(thread, n, item));
        }
    };
    let run = &run;
    thread::scope(|scope| {
        // This thread works too, so all is done even where the system grants no thread.
        for number in 1..items.len().min(most) {
            let builder = thread::Builder::new().name(format!("{name}-{number}"));
            if builder.spawn_scoped(scope, move || run(number)).is_err() {
                break;
            }
        }
        run(0);
    });
    results.into_iter().filter_map(Mutex::into_inner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_however_many_work_at_once() {
        for most in [1, 3, 100] {
            let items: Vec<usize> = (0..20).collect();
            let done = side_by_side("test", &items, most, |number, n, item| {
                assert_eq!(n, *item);
                assert!(number < most);
                thread::yield_now();
                item * 2
            });
            assert_eq!(done, (0..20).map(|n| n * 2).collect::<Vec<_>>());
        }
        assert!(side_by_side("test", &[0; 0], 4, |_, _, _| ()).is_empty());
    }
}
