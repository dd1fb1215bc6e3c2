//! Runs a scenario under many schedules, and counts them.
//!
//! Half of the schedules follow priorities that change at a few random steps (probabilistic concurrency
//! testing), which holds one thread back for a long time; the other half choose at random at each step, which
//! mixes the threads thoroughly. A schedule that fails is printed, as a string for `shuttle::replay` and as a
//! seed for `SHUTTLE_RANDOM_SEED`.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, MaxSteps, Runner};

/// Upper bound on the steps of one schedule. Scenarios take hundreds of steps, some a few thousand.
const MAX_STEPS_PER_SCHEDULE: usize = 200_000;

/// Depth of bugs as [`PctScheduler`] counts it: the changes of priority that a bug may take, plus one.
const PCT_DEPTH: usize = 4;

/// Runs `scenario` under `count` schedules, times `RHV_MOUNT_SCHEDULES`. In each, all threads must come to
/// their end.
pub(crate) fn explore(name: &'static str, count: usize, scenario: fn()) {
    let times = std::env::var("RHV_MOUNT_SCHEDULES").map_or(1.0, |times| times.parse().expect("a number"));
    let each = (count as f64 * times / 2.0).ceil() as usize;
    run(name, "by priority", PctScheduler::new(PCT_DEPTH, each), scenario);
    run(name, "random", RandomScheduler::new(each), scenario);
}

fn run(name: &'static str, kind: &'static str, scheduler: impl Scheduler + 'static, scenario: fn()) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(MAX_STEPS_PER_SCHEDULE);
    config.stack_size = 256 << 10;
    config.silence_warnings = true;
    let figures = Figures {
        name,
        kind,
        counted: Arc::default(),
    };
    let counted = figures.counted.clone();
    Runner::new(Counting { scheduler, counted }, config).run(scenario);
}

#[derive(Default)]
struct Counted {
    schedules: u64,
    steps: u64,
    /// Hash of the choices in the present schedule so far.
    choices: DefaultHasher,
    /// Hashes of the choices of each schedule that has ended.
    different: HashSet<u64>,
}

impl Counted {
    fn ended(&mut self) {
        let choices = std::mem::take(&mut self.choices);
        self.different.insert(choices.finish());
    }
}

/// Prints the counts when it is dropped, also after a schedule that failed.
struct Figures {
    name: &'static str,
    kind: &'static str,
    counted: Arc<Mutex<Counted>>,
}

impl Drop for Figures {
    fn drop(&mut self) {
        let mut counted = self.counted.lock().unwrap_or_else(|e| e.into_inner());
        counted.ended();
        let Counted {
            schedules,
            steps,
            different,
            ..
        } = &*counted;
        println!(
            "schedules, {}, {}: {schedules}, {} different, {steps} steps{}",
            self.name,
            self.kind,
            different.len(),
            if std::thread::panicking() {
                "; the last one FAILED"
            } else {
                ""
            },
        );
    }
}

struct Counting<S> {
    scheduler: S,
    counted: Arc<Mutex<Counted>>,
}

impl<S: Scheduler> Scheduler for Counting<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        let next = self.scheduler.new_execution()?;
        let mut counted = self.counted.lock().unwrap();
        if counted.schedules > 0 {
            counted.ended();
        }
        counted.schedules += 1;
        Some(next)
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let next = self.scheduler.next_task(runnable, current, yields)?;
        let mut counted = self.counted.lock().unwrap();
        counted.steps += 1;
        next.hash(&mut counted.choices);
        Some(next)
    }

    fn next_u64(&mut self) -> u64 {
        self.scheduler.next_u64()
    }
}
