//! Tells those who look after a mount, or a copy, how it goes, from the first connection to the outcome.
//!
//! ```text
//! a service manager     a line for people, READY, STOPPING, more time, watchdog     process/notify
//! node_exporter         a file with figures, every 15 s and at the end              metrics
//! SIGUSR1               statistics in the log                                       statistics
//! who has started it    a bar, or lines of JSON                                     display
//! forklift's controller a page over HTTPS, for `populate`                           endpoint
//! ```
//!
//! One thread, "reports", does all of this, in the order in which it is asked: a slow reader of one of them
//! holds up no other work, and the end of the mount waits for it for seconds at most. The main thread says
//! which [`Stage`] has begun; the figures are the disks' own, which the thread looks at but does not keep
//! alive. A watchdog hears of this process only after such a look: a disk whose locks are stuck is not told
//! as alive. A storage that is slow, or an engine that is away, has limits of its own and is no reason to
//! kill a mount that holds data, so no look goes through the mount or over the network.

mod attended;
mod display;
mod endpoint;
mod metrics;
pub(crate) mod statistics;
mod words;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use parking_lot::Mutex;
use tracing::{info, warn};

pub(crate) use self::attended::{Words, attend};
use self::display::Display;
use self::endpoint::Endpoint;
use self::metrics::Picture;
use crate::failure::{Exit, Failure};
use crate::logging::STATISTICS;
use crate::open_disk::{DiskStatus, OpenDisk};
use crate::process::handover::Role;
use crate::process::notify::{self, Word};
use crate::process::spawn;
use crate::settings::backup::BackupSettings;
use crate::settings::cli::Output;
use crate::settings::copy::{CopySettings, Volume};
use crate::settings::restore::RestoreSettings;
use crate::settings::{OutputSettings, Settings, Task};

/// How often the figures are looked at, for the line that people read and for the speed that `status` tells.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How often that is done while the mount begins or ends. A manager counts anew when the command that stops a
/// unit has ended, so the next request for time has to come before a short limit is over.
const STEP_INTERVAL: Duration = Duration::from_secs(2);

/// How often it is done for those who ask over the network.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// How often the file with the figures is written. Prometheus asks every 15 s by custom, every minute by
/// default.
const METRICS_INTERVAL: Duration = Duration::from_secs(15);

/// The time for which a manager is asked at each look while the mount begins or ends, which both have limits
/// of their own.
const MORE_TIME: Duration = Duration::from_secs(60);

/// A part of the life of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The disk is looked for or made, and connected.
    Opening,
    /// The file can be used.
    Mounted,
    /// Bytes move between the disk and an image.
    Copying,
    /// The last data is on its way to the storage.
    Flushing,
    /// The transfers are being ended.
    Finalizing,
    /// All is over, with this exit code, and the message where it ended badly.
    Ended(u8, Option<String>),
}

impl Stage {
    /// Its name for programs.
    fn name(&self) -> &'static str {
        match self {
            Stage::Opening => "opening",
            Stage::Mounted => "mounted",
            Stage::Copying => "copying",
            Stage::Flushing => "flushing",
            Stage::Finalizing => "finalizing",
            Stage::Ended(..) => "ended",
        }
    }
}

/// The run that is told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    /// The mountpoint, or the image.
    place: &'a Path,
    task: Task,
    /// It is a mount without a COMMAND.
    is_service: bool,
    output: &'a OutputSettings,
    /// The volume that is populated, which somebody asks about over the network.
    volume: Option<&'a Volume>,
}

impl<'a> Told<'a> {
    pub(crate) fn of_mount(settings: &'a Settings) -> Told<'a> {
        Told {
            place: &settings.mountpoint,
            task: settings.disk.task,
            is_service: settings.command.is_empty(),
            output: &settings.output,
            volume: None,
        }
    }

    pub(crate) fn of_backup(settings: &'a BackupSettings) -> Told<'a> {
        Told::of_directory(&settings.dir, settings.disk.task, &settings.output)
    }

    pub(crate) fn of_restore(settings: &'a RestoreSettings) -> Told<'a> {
        Told::of_directory(&settings.dir, settings.disk.task, &settings.output)
    }

    fn of_directory(place: &'a Path, task: Task, output: &'a OutputSettings) -> Told<'a> {
        Told {
            place,
            task,
            is_service: false,
            output,
            volume: None,
        }
    }

    pub(crate) fn of_copy(settings: &'a CopySettings) -> Told<'a> {
        Told {
            place: settings.image.shown(),
            task: settings.disk.task,
            is_service: false,
            output: &settings.output,
            volume: settings.volume.as_ref(),
        }
    }
}

/// Work for the thread.
enum Ask {
    Watch(Vec<Weak<OpenDisk>>),
    WatchUnopened(Vec<DiskStatus>),
    Measure(Arc<AtomicU64>, u64),
    Enter(Stage),
    Statistics,
}

/// See the head of this file.
pub(crate) struct Supervisor {
    asks: Sender<Ask>,
    thread: Mutex<Option<JoinHandle<()>>>,
    endpoint: Option<Arc<Endpoint>>,
}

impl Supervisor {
    /// Begins to tell of a run whose disk is about to be opened. Fails where the file with the figures can't
    /// be written, and where there is no thread.
    pub(crate) fn start(run: &Told<'_>, role: Role) -> Result<Supervisor, Failure> {
        let first = Picture {
            place: run.place.display().to_string(),
            task: run.task,
            ..Picture::default()
        };
        let endpoint = run.volume.map(|volume| Arc::new(Endpoint::start(volume, &first)));
        let mut reports = Reports {
            display: Display::of(run, role),
            endpoint: endpoint.clone(),
            place: run.place.to_owned(),
            task: run.task,
            stage: Stage::Opening,
            began: SystemTime::now(),
            entered: Instant::now(),
            disks: Vec::new(),
            measured: None,
            last: Picture::default(),
            metrics: run.output.metrics_file.clone(),
            metrics_written: Instant::now(),
            metrics_failed: false,
            form: run.output.stats.unwrap_or(Output::Text),
            // A program that runs a COMMAND over a disk is not the service.
            manager: notify::is_wanted() && (notify::is_for_us() || run.is_service),
            is_heard: role == Role::Foreground,
            status: String::new(),
            watchdog: notify::watchdog_period(),
        };
        if let Some(path) = reports.metrics.clone() {
            metrics::write(&path, &reports.picture()).map_err(|e| {
                let message = format!("cannot write --metrics-file {}: {e}", path.display());
                Failure::text(Exit::Usage, message)
            })?;
        }
        let (asks, inbox) = unbounded();
        let thread = spawn("reports", move || reports.run(&inbox))?;
        Ok(Supervisor {
            asks,
            thread: Mutex::new(Some(thread)),
            endpoint,
        })
    }

    /// Takes the figures from `disks` from now on.
    pub(crate) fn watch<'a>(&self, disks: impl Iterator<Item = &'a Arc<OpenDisk>>) {
        self.ask(Ask::Watch(disks.map(Arc::downgrade).collect()));
    }

    /// Tells of disks, beside those that are watched, that could not be opened.
    pub(crate) fn watch_unopened(&self, disks: Vec<DiskStatus>) {
        self.ask(Ask::WatchUnopened(disks));
    }

    /// Takes from `done` how many of the `total` bytes of a copy are there.
    pub(crate) fn measure(&self, done: &Arc<AtomicU64>, total: u64) {
        self.ask(Ask::Measure(done.clone(), total));
    }

    /// Tells that `stage` has begun.
    pub(crate) fn enter(&self, stage: Stage) {
        self.ask(Ask::Enter(stage));
    }

    /// Writes the statistics to the log.
    pub(crate) fn log_statistics(&self) {
        self.ask(Ask::Statistics);
    }

    /// Tells how it ended, and returns when that is told, or could not be. A second call does nothing.
    pub(crate) fn end(&self, code: u8, message: Option<String>) {
        self.enter(Stage::Ended(code, message));
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
            self.endpoint.iter().for_each(|endpoint| endpoint.linger());
        }
    }

    fn ask(&self, ask: Ask) {
        // Once it has ended, nobody wants to know any more.
        let _ = self.asks.send(ask);
    }
}

/// The thread's own state.
struct Reports {
    display: Display,
    place: PathBuf,
    task: Task,
    stage: Stage,
    began: SystemTime,
    /// When the stage began.
    entered: Instant,
    disks: Vec<Weak<OpenDisk>>,
    /// Counts the bytes of a copy that are there, beside their whole.
    measured: Option<(Arc<AtomicU64>, u64)>,
    /// The last figures of the disks, for when they are gone.
    last: Picture,
    endpoint: Option<Arc<Endpoint>>,
    metrics: Option<PathBuf>,
    metrics_written: Instant,
    /// The file could not be written, and that is told.
    metrics_failed: bool,
    form: Output,
    /// There is a service manager.
    manager: bool,
    /// The manager listens to this process.
    is_heard: bool,
    /// The line that it was last told.
    status: String,
    watchdog: Option<Duration>,
}

impl Reports {
    fn run(mut self, inbox: &Receiver<Ask>) {
        self.enter(Stage::Opening);
        let mut due = Instant::now() + self.period();
        loop {
            let next = self.display.due().map_or(due, |shown| shown.min(due));
            match inbox.recv_deadline(next) {
                Ok(Ask::Watch(disks)) => self.disks = disks,
                Ok(Ask::WatchUnopened(disks)) => self.last.unopened = disks,
                Ok(Ask::Measure(done, total)) => self.measured = Some((done, total)),
                Ok(Ask::Statistics) => self.log_statistics(),
                Ok(Ask::Enter(stage)) => {
                    self.enter(stage);
                    if matches!(self.stage, Stage::Ended(..)) {
                        return;
                    }
                    due = Instant::now() + self.period();
                }
                Err(RecvTimeoutError::Timeout) => {
                    let picture = self.picture();
                    self.display.show(&picture, self.entered.elapsed(), false);
                    self.publish(&picture);
                    if Instant::now() < due {
                        continue;
                    }
                    due = Instant::now() + self.period();
                    self.notify(&picture, &[]);
                    if self.metrics_written.elapsed() >= METRICS_INTERVAL {
                        self.write_metrics(&picture);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// True while the mount begins or ends.
    fn is_on_its_way(&self) -> bool {
        matches!(self.stage, Stage::Opening | Stage::Flushing | Stage::Finalizing)
    }

    /// The time to the next look.
    fn period(&self) -> Duration {
        let period = match self.is_on_its_way() {
            true => STEP_INTERVAL,
            false => LOOK_INTERVAL,
        };
        let published = self.endpoint.as_ref().map(|_| PUBLISH_INTERVAL);
        let shorter = published.into_iter().chain(self.watchdog).min();
        shorter.map_or(period, |shorter| shorter.min(period))
    }

    fn enter(&mut self, stage: Stage) {
        let first: &[Word<'_>] = match &stage {
            // The launcher has said so.
            Stage::Mounted if !self.is_heard => &[],
            Stage::Mounted | Stage::Copying => &[Word::Ready],
            Stage::Flushing => &[Word::Stopping],
            _ => &[],
        };
        self.is_heard |= matches!(stage, Stage::Mounted | Stage::Copying);
        self.stage = stage;
        self.entered = Instant::now();
        let picture = self.picture();
        self.display.show(&picture, self.entered.elapsed(), true);
        self.publish(&picture);
        self.notify(&picture, first);
        self.write_metrics(&picture);
    }

    /// Looks at the disks. Where they are gone, the last look counts.
    fn picture(&mut self) -> Picture {
        let disks: Vec<Arc<OpenDisk>> = self.disks.iter().filter_map(Weak::upgrade).collect();
        if !disks.is_empty() {
            self.last.disks = disks.iter().map(|disk| (disk.status(), disk.figures())).collect();
        }
        let measured = self.measured.as_ref();
        self.last.copied = measured.map(|(done, total)| (done.load(Ordering::Relaxed), *total));
        self.last.place = self.place.display().to_string();
        self.last.task = self.task;
        self.last.began = Some(self.began);
        self.last.stage = Some(self.stage.clone());
        self.last.clone()
    }

    fn notify(&mut self, picture: &Picture, first: &[Word<'_>]) {
        if !self.manager || !self.is_heard {
            return;
        }
        let status = words::line(picture, self.entered.elapsed());
        let mut words = first.to_vec();
        if status != self.status {
            words.push(Word::Status(&status));
        }
        if self.is_on_its_way() {
            words.push(Word::ExtendTimeout(MORE_TIME));
        }
        if self.watchdog.is_some() {
            words.push(Word::Watchdog);
        }
        notify::tell(&words);
        self.status = status;
    }

    fn publish(&self, picture: &Picture) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.publish(picture);
        }
    }

    fn write_metrics(&mut self, picture: &Picture) {
        let Some(path) = &self.metrics else {
            return;
        };
        self.metrics_written = Instant::now();
        match metrics::write(path, picture) {
            Ok(()) => self.metrics_failed = false,
            Err(e) => {
                if !self.metrics_failed {
                    warn!("the file of metrics {} cannot be written: {e}", path.display());
                }
                self.metrics_failed = true;
            }
        }
    }

    fn log_statistics(&mut self) {
        let picture = self.picture();
        let summary = words::line(&picture, self.entered.elapsed());
        info!(target: STATISTICS, "{}: {summary}", self.place.display());
        let disks: Vec<Arc<OpenDisk>> = self.disks.iter().filter_map(Weak::upgrade).collect();
        for line in statistics::lines(disks.iter(), self.form) {
            info!(target: STATISTICS, "{line}");
        }
    }
}
