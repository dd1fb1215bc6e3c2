//! A terminal, as a user sees one: tmux runs a program in it and keeps what is on the screen.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::run::{run, scratch};

pub const COLUMNS: u16 = 110;
pub const ROWS: u16 = 24;

/// A terminal that lives until it is dropped, with all that runs in it.
#[derive(Debug)]
pub struct Terminal {
    dir: TempDir,
}

impl Terminal {
    /// Runs `command` in a new terminal of [`COLUMNS`] and [`ROWS`], and then shows its exit status.
    pub fn run(command: &Command) -> Self {
        let dir = scratch();
        let script = dir.path().join("script");
        fs::write(&script, script_of(command)).expect("write the script");
        fs::write(dir.path().join("tmux.conf"), "set -g status off\n").expect("configure tmux");
        let terminal = Self { dir };
        let size = ["-x", &COLUMNS.to_string(), "-y", &ROWS.to_string()].map(str::to_owned);
        let shell = format!("exec bash {}", quoted(script.as_os_str()));
        let mut tmux = terminal.tmux();
        tmux.args(["new-session", "-d"]).args(size).arg(shell);
        run(&mut tmux, 30).ok();
        terminal
    }

    /// Returns the rows on the screen, and those that have scrolled away before them. A line that did not fit
    /// is one.
    pub fn rows(&self) -> Vec<String> {
        let mut tmux = self.tmux();
        let ran = run(tmux.args(["capture-pane", "-p", "-J", "-S", "-1000"]), 30).ok();
        ran.stdout.lines().map(|row| row.trim_end().to_owned()).collect()
    }

    /// Returns the last row of the screen.
    pub fn last_row(&self) -> String {
        let mut tmux = self.tmux();
        let ran = run(tmux.args(["capture-pane", "-p"]), 30).ok();
        // tmux leaves out empty rows at the end.
        let height = self.height();
        let row = ran.stdout.lines().nth(height - 1).unwrap_or_default();
        row.trim_end().to_owned()
    }

    fn height(&self) -> usize {
        let mut tmux = self.tmux();
        let ran = run(tmux.args(["display-message", "-p", "#{pane_height}"]), 30).ok();
        ran.stdout.trim().parse().expect("a number of rows")
    }

    /// Waits until a row fits.
    #[track_caller]
    pub fn wait_for_row(&self, what: &str, fits: impl Fn(&str) -> bool) {
        self.wait(what, || self.rows().iter().any(|row| fits(row)));
    }

    /// Waits until the last row of the screen fits.
    #[track_caller]
    pub fn wait_for_last_row(&self, what: &str, fits: impl Fn(&str) -> bool) {
        self.wait(what, || fits(&self.last_row()));
    }

    /// Waits until the first `count` rows scroll, and no others.
    #[track_caller]
    pub fn wait_for_region(&self, what: &str, count: u16) {
        self.wait(what, || {
            let mut tmux = self.tmux();
            let last = "#{scroll_region_lower}";
            let ran = run(tmux.args(["display-message", "-p", last]), 30).ok();
            ran.stdout.trim() == (count - 1).to_string()
        });
    }

    #[track_caller]
    fn wait(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(90);
        while !holds() {
            assert!(
                std::time::Instant::now() < end,
                "waited for {what}: {:#?}",
                self.rows()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Presses keys, as tmux calls them: `C-c`.
    pub fn press(&self, keys: &str) {
        let mut tmux = self.tmux();
        run(tmux.args(["send-keys", keys]), 30).ok();
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let size = [
            "-x".to_owned(),
            columns.to_string(),
            "-y".to_owned(),
            rows.to_string(),
        ];
        let mut tmux = self.tmux();
        run(tmux.arg("resize-window").args(size), 30).ok();
    }

    fn tmux(&self) -> Command {
        let mut tmux = Command::new("tmux");
        let (socket, config): (PathBuf, PathBuf) =
            (self.dir.path().join("socket"), self.dir.path().join("tmux.conf"));
        tmux.arg("-u").arg("-S").arg(socket).arg("-f").arg(config);
        tmux.env("LC_ALL", "C.UTF-8").env_remove("TMUX");
        tmux
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut tmux = self.tmux();
        let _ = run(tmux.arg("kill-server"), 30);
    }
}

/// `command` as a script for bash, which shows its exit status and stays.
fn script_of(command: &Command) -> String {
    let mut script = String::new();
    for (name, value) in command.get_envs() {
        let name = name.to_str().expect("a variable's name");
        script += &match value {
            Some(value) => format!("export {name}={}\n", quoted(value)),
            None => format!("unset {name}\n"),
        };
    }
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    script += &words.map(quoted).collect::<Vec<_>>().join(" ");
    script + "\necho \"exit status: $?\"\nexec sleep 600\n"
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_str().expect("words in UTF-8");
    format!("'{}'", word.replace('\'', r"'\''"))
}
