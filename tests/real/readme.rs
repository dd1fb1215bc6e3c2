//! Runs the commands of the README as they stand there, one after the other, as one who has nothing yet but
//! the installed program and an engine.

use crate::blocks::{Fate, blocks, script_of};
use crate::recipes::{World, assert_same_as};
use crate::support::engine::PASSWORD;
use crate::support::run::is_root;

const README: &str = "README.md";

#[test]
fn the_readme_works_as_it_stands() {
    if !is_root() {
        return;
    }
    let world = World::new();
    // Nothing is expanded in the configuration file, so the words stand in the script as they are.
    let script = script_of(&blocks(README))
        .replace("$engine", world.engine.url())
        .replace("$password", PASSWORD)
        .replace("$home", world.home());
    let ran = world.perform(&script, &[]);
    world.assert_disk_holds("web02", "web01.raw");
    assert_same_as(&world.work("web01.raw"), &world.work("web02-copy.qcow2"));
    for words in ["SHA-256 fingerprint: ", "Compare it with the engine's own"] {
        assert!(ran.stderr.contains(words), "{words}: {ran}");
    }
    for words in ["(web02)", "every byte is on the storage, and the disk is free"] {
        assert!(ran.stdout.contains(words), "{words}: {ran}");
    }
}

#[test]
fn every_block_of_the_readme_is_run_or_says_why_not() {
    let blocks = blocks(README);
    let run = blocks.iter().filter(|block| matches!(block.fate, Fate::Run(_)));
    assert_eq!((run.count(), blocks.len()), (4, 5));
}
