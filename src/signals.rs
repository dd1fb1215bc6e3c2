//! The signals that end a run or ask how it goes, and the answer to one, at once: what is stopped, and what
//! the next one does.

use std::io::{self, IsTerminal};

use nix::sys::signal::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::output;
use crate::process::spawn;

/// Passes each signal that ends a run to `end`, and calls `report` for SIGUSR1, in a thread of its own.
pub(crate) fn forward(
    end: impl Fn(i32) + Send + 'static,
    report: impl Fn() + Send + 'static,
) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1])?;
    spawn("signals", move || {
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => report(),
                signal => end(signal),
            }
        }
    })?;
    Ok(())
}

/// Tells what a signal has stopped.
pub(crate) fn tell(signal: i32, what: &str) {
    begin_a_line(signal);
    let name = Signal::try_from(signal).map_or("a signal", Signal::as_str);
    output::tell(format_args!("{name}: {what}"));
}

/// Has the next message begin on a line of its own where the terminal shows `^C` at the cursor.
pub(crate) fn begin_a_line(signal: i32) {
    if signal == SIGINT && io::stderr().is_terminal() {
        output::begin_a_line();
    }
}
