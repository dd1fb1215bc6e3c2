//! A copy runs on a terminal: the last row shows how it goes, and what COMMAND prints stays whole above it.

use crate::rig::{MIB, TICKET, settings};
use crate::server::Server;
use crate::support::content::random_image;
use crate::support::mount::rhv_mount_command;
use crate::support::redaction::Trace;
use crate::support::run::scratch;
use crate::support::terminal::{ROWS, Terminal};
use std::path::Path;
use std::process::Command;

/// The size of the copy, and the speed of the storage in bytes per second until a test has seen enough: the
/// copy would take more than a minute.
const SIZE: u64 = 160 * MIB;
const SPEED: u64 = 2 * MIB;

fn slow_server() -> Server {
    let mut settings = settings(192 * MIB);
    settings.speed = Some(SPEED);
    Server::start(settings)
}

/// Lets the storage take the rest at once.
fn hurry(server: &Server) {
    server.change(|settings| settings.speed = None);
}

/// `rhv-mount OPTIONS TARGET -- COMMAND` with so little memory that a copy is as fast as the storage.
fn program(url: &str, trace: &Trace, options: &[&str], target: &Path, command: &[&str]) -> Command {
    let mut program = rhv_mount_command(Some(url));
    program.args(trace.args()).args(["--memory", "8M"]);
    program.args(options).arg(target).arg("--").args(command);
    program
}

/// True for a bar with the size of the copy, its speed and the time left.
fn is_bar(row: &str) -> bool {
    let parts = ["disk [", "] ", " % ", " of 160.00 MiB", "B/s", " left"];
    parts.iter().all(|part| row.contains(part))
}

#[test]
fn a_copy_with_a_bar_of_its_own_and_ours_do_not_disturb_each_other() {
    let server = slow_server();
    let dir = scratch();
    let (source, target) = (dir.path().join("source.raw"), dir.path().join("disk.raw"));
    random_image(&source, SIZE, 3);
    let trace = Trace::of(&server.url());
    let source = source.to_str().unwrap();
    let copy = [
        "qemu-img", "convert", "-p", "-n", "-O", "raw", "-f", "raw", source, "{}",
    ];
    let terminal = Terminal::run(&program(&server.url(), &trace, &[], &target, &copy));
    terminal.wait_for_last_row("the bar", is_bar);
    terminal.wait_for_row("the copy's own", |row| {
        row.contains("/100%)") && !row.contains("disk [")
    });
    terminal.wait_for_last_row("the bar", is_bar);
    terminal.resize(90, 18);
    terminal.wait_for_last_row("the bar on another size", |row| {
        row.starts_with("disk") && row.contains("B/s")
    });
    hurry(&server);
    terminal.wait_for_row("the end", |row| row == "exit status: 0");
    let rows = terminal.rows();
    let last = |row: &&String| row.contains(": 160.00 MiB written in ");
    let said = rows.iter().find(last).unwrap_or_else(|| panic!("{rows:#?}"));
    assert!(
        said.starts_with("rhv-mount: the disk on http://127.0.0.1:")
            && said.ends_with("; every byte is on the storage"),
        "{said}"
    );
    assert!(rows.iter().any(|row| row.trim() == "(100.00/100%)"), "{rows:#?}");
    assert_eq!(terminal.last_row(), "", "the row is given back");
    assert!(!rows.iter().any(|row| row.contains(TICKET)), "{rows:#?}");
}

#[test]
fn lines_of_the_command_and_of_the_log_stay_whole_above_the_bar() {
    let server = slow_server();
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let script = "for n in $(seq 30); do [ $n != 15 ] || kill -USR1 $PPID; \
                  head -c 1048576 /dev/urandom | dd of={} bs=1M iflag=fullblock seek=$n \
                  conv=notrunc,fsync status=none; echo line-$n; done; exit 3";
    let mut program = rhv_mount_command(Some(&server.url()));
    program
        .args(["--memory", "8M", "--log-level", "info"])
        .arg(&target);
    program.args(["--", "sh", "-c", script]);
    let terminal = Terminal::run(&program);
    terminal.wait_for_last_row("what has moved", |row| {
        row.starts_with("disk  ") && row.contains("B/s") && !row.contains('%')
    });
    hurry(&server);
    terminal.wait_for_row("the end", |row| row == "exit status: 3");
    let rows = terminal.rows();
    for n in 1..=30 {
        let line = format!("line-{n}");
        assert_eq!(
            rows.iter().filter(|row| **row == line).count(),
            1,
            "{line}: {rows:#?}"
        );
    }
    // The statistics are logged while the bar is there.
    let statistics = format!(" INFO {}: ", target.display());
    let is_record = |row: &&String| row.contains(&statistics) && row.starts_with("20");
    assert_eq!(rows.iter().filter(is_record).count(), 1, "{rows:#?}");
    assert!(
        !rows.iter().any(|row| row.contains("B/s  ")),
        "a bar is left: {rows:#?}"
    );
    let last = |row: &String| row.contains("30.00 MiB written in ") && row.ends_with("; exit status 3");
    assert!(rows.iter().any(last), "{rows:#?}");
}

#[test]
fn a_region_that_the_command_drops_is_set_again_and_given_back_at_the_end() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let (target, go, end) = (
        dir.path().join("disk.raw"),
        dir.path().join("go"),
        dir.path().join("end"),
    );
    let trace = Trace::of(&server.url());
    let until = |mark: &Path| format!("until [ -e {} ]; do sleep 0.1; done; ", mark.display());
    let script = until(&go) + r"printf '\0337\033[r\0338dropped\n'; " + &until(&end);
    let program = program(&server.url(), &trace, &[], &target, &["sh", "-c", &script]);
    let terminal = Terminal::run(&program);
    terminal.wait_for_region("the last row is kept", ROWS - 1);
    std::fs::write(&go, "").unwrap();
    terminal.wait_for_row("the command has dropped it", |row| row == "dropped");
    terminal.wait_for_region("the last row is kept again", ROWS - 1);
    std::fs::write(&end, "").unwrap();
    terminal.wait_for_row("the end", |row| row == "exit status: 0");
    terminal.wait_for_region("all rows scroll", ROWS);
}

/// Runs `script` in bash, with the words of `program` as its arguments and the environment of `program`.
fn under_job_control(script: &str, program: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", script, "bash"]);
    shell.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Another program has the terminal by then, and what it has written into the last row is its own.
#[test]
fn at_an_end_in_the_background_the_rows_scroll_again_and_the_last_one_stays_as_it_is() {
    let server = Server::start(settings(MIB));
    let dir = scratch();
    let (target, end) = (dir.path().join("disk.raw"), dir.path().join("end"));
    let trace = Trace::of(&server.url());
    let wait = format!("until [ -e {} ]; do sleep 0.1; done", end.display());
    let mount = program(&server.url(), &trace, &[], &target, &["sh", "-c", &wait]);
    let script = format!(
        r#"set -m; "$@"; bg
printf '\0337\033[{ROWS};1H\033[2Kof the shell\0338'; echo in the background
wait -f %1"#
    );
    let terminal = Terminal::run(&under_job_control(&script, &mount));
    terminal.wait_for_region("the last row is kept", ROWS - 1);
    terminal.press("C-z");
    terminal.wait_for_row("the job is moved", |row| row == "in the background");
    terminal.wait_for_region("the last row is kept still", ROWS - 1);
    std::fs::write(&end, "").unwrap();
    terminal.wait_for_row("the end", |row| row == "exit status: 0");
    terminal.wait_for_region("all rows scroll", ROWS);
    assert_eq!(terminal.last_row(), "of the shell");
}

#[test]
fn a_mount_in_the_background_of_its_shell_ends_where_the_terminal_stops_who_writes() {
    let server = Server::start(settings(8 * MIB));
    let dir = scratch();
    let target = dir.path().join("disk.raw");
    let trace = Trace::of(&server.url());
    let copy = "head -c 1048576 /dev/urandom | dd of={} bs=1M conv=notrunc,fsync status=none; exit 3";
    let mount = program(&server.url(), &trace, &[], &target, &["sh", "-c", copy]);
    let shell = under_job_control(r#"set -m; stty tostop; "$@" & wait -f $!"#, &mount);
    let terminal = Terminal::run(&shell);
    terminal.wait_for_row("the end", |row| row == "exit status: 3");
    let rows = terminal.rows();
    let told = |row: &String| row.starts_with("rhv-mount: ") && row.contains("1.00 MiB written in ");
    assert!(rows.iter().any(told), "{rows:#?}");
}

#[test]
fn nothing_is_drawn_where_it_is_not_wanted() {
    for options in [&["--progress", "none"][..], &["--quiet"]] {
        let server = slow_server();
        let dir = scratch();
        let target = dir.path().join("disk.raw");
        let trace = Trace::of(&server.url());
        let copy = "head -c 8388608 /dev/urandom | dd of={} bs=1M conv=notrunc,fsync status=none; sleep 1";
        let program = program(&server.url(), &trace, options, &target, &["sh", "-c", copy]);
        let terminal = Terminal::run(&program);
        terminal.wait_for_row("the end", |row| row == "exit status: 0");
        let rows: Vec<String> = terminal.rows();
        let said: Vec<&String> = rows.iter().filter(|row| !row.is_empty()).collect();
        assert_eq!(said, ["exit status: 0"], "{options:?}");
    }
}
