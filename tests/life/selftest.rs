//! Runs the stand-in's own tests, in Python: the other tests rely on what they check.

use std::process::Command;

use crate::support::run::{run, text, top};

/// The parts of disks and transfers, which run in parallel. Each has its own daemon.
const OF_DISKS: [&[&str]; 5] = [
    &["test_api", "test_ending"],
    &[
        "test_switches.Requests",
        "test_switches.AtTheStart",
        "test_switches.DisksAndStarts",
    ],
    &["test_switches.Runs", "test_transfers.Uploads"],
    &["test_transfers.Pauses"],
    &[
        "test_transfers.ShortTickets",
        "test_transfers.CappedInactivity",
        "test_transfers.OldEngine",
        "test_transfers.ShortMemory",
        "test_transfers.SmallBlockDisks",
        "test_transfers.TheEnd",
    ],
];

/// The parts of VMs and their backups.
const OF_MACHINES: [&[&str]; 3] = [
    &[
        "test_machines",
        "test_backups.Refusals",
        "test_backups.OldLevel",
        "test_backups.TheEnd",
        "test_imports",
    ],
    &[
        "test_backups.HybridChains",
        "test_backups.LiveChains",
        "test_backups.ColdChains",
        "test_backups.Checkpoints",
    ],
    &["test_backup_faults"],
];

#[test]
fn the_stand_in_does_what_it_says() {
    assert_parts_succeed(&OF_DISKS);
}

#[test]
fn its_vms_and_backups_do_too() {
    assert_parts_succeed(&OF_MACHINES);
}

fn assert_parts_succeed(parts: &[&[&str]]) {
    let failed: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = parts
            .iter()
            .map(|names| {
                scope.spawn(move || {
                    let mut command = Command::new(top().join("target/venv/bin/python"));
                    command.arg("-B").arg(top().join("tests/engine/selftest.py"));
                    run(command.arg(top()).args(*names), 240)
                })
            })
            .collect();
        let ended = running.into_iter().map(|one| one.join().expect("a part ends"));
        ended
            .filter(|ran| !ran.success())
            .map(|ran| ran.to_string())
            .collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn every_class_of_the_selftest_is_run() {
    let directory = top().join("tests/engine/selftest");
    let names = std::fs::read_dir(&directory).expect("the selftest's files");
    let names = names.map(|one| one.expect("a file").file_name().into_string().expect("a name"));
    let files: Vec<String> = names
        .filter_map(|name| Some(name.strip_suffix(".py")?.to_owned()))
        .filter(|name| name.starts_with("test_"))
        .collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in &files {
        let text = text(&directory.join(format!("{file}.py")));
        let classes = text
            .lines()
            .filter_map(|line| line.strip_prefix("class ")?.split(['(', ':']).next());
        // A class without tests of its own is the base of others.
        for class in classes.filter(|class| !["BackupTest", "Chains", "Moments"].contains(class)) {
            let name = format!("{file}.{class}");
            let known = OF_DISKS
                .iter()
                .chain(&OF_MACHINES)
                .any(|part| part.contains(&file.as_str()) || part.contains(&name.as_str()));
            assert!(known, "{name} is not run");
        }
    }
}
