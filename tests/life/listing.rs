//! `rhv-mount list`: what the engine has, in tables and in JSON, with ids that the other commands take.

use std::collections::BTreeSet;
use std::ffi::OsString;

use serde_json::{Value, json};

use crate::listing_of_vms::machine;
use crate::rig::{ENGINE_FAILED, LOGIN_REFUSED, USAGE, assert_refused};
use crate::support::content::MIB;
use crate::support::engine::{Engine, PASSWORD, USER, write_private};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, text, top};

/// Runs `rhv-mount list WORDS` with the options for the engine.
pub(crate) fn list(engine: &Engine, words: &[&str]) -> Ran {
    let mut args: Vec<OsString> = vec!["list".into()];
    args.extend(words.iter().map(OsString::from));
    args.extend(engine.args());
    let before = engine.sessions();
    let ran = engine.run(args, 60);
    assert_shows_none(&ran, &engine.secrets());
    assert!(engine.sessions() <= before, "a session is left open");
    ran
}

/// Returns the lines of the table as their cells, the titles first.
pub(crate) fn table(engine: &Engine, words: &[&str]) -> Vec<Vec<String>> {
    let ran = list(engine, words).ok();
    let cells = |line: &str| -> Vec<String> {
        let cells = line.split("  ").map(str::trim);
        cells.filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    ran.stdout.lines().map(cells).collect()
}

pub(crate) fn objects(engine: &Engine, words: &[&str]) -> Vec<Value> {
    let ran = list(engine, &[words, &["--output", "json"]].concat()).ok();
    serde_json::from_str(&ran.stdout).expect("an array of objects")
}

/// Returns the texts of one field.
pub(crate) fn each(objects: &[Value], field: &str) -> Vec<String> {
    let texts = objects
        .iter()
        .map(|one| one[field].as_str().unwrap_or("-").to_owned());
    texts.collect()
}

#[test]
fn disks_are_listed_in_columns_and_by_name() {
    let engine = Engine::start();
    let big = engine.add_disk(&json!({"name": "web_Disk2", "size": 20_u64 << 30, "format": "cow"}));
    let small = engine.add_disk(&json!({"name": "db", "size": 3 * MIB / 2, "domain": "san",
        "sparse": false, "status": "locked"}));
    let lines = table(&engine, &["disks"]);
    let expected = [
        ["NAME", "ID", "SIZE", "FORMAT", "STATUS", "STORAGE DOMAIN"],
        ["db", &small.id, "1.50 MiB", "raw", "locked", "san"],
        ["web_Disk2", &big.id, "20.00 GiB", "qcow2", "ok", "data"],
    ];
    assert_eq!(lines, expected);
    let shown = list(&engine, &["disks"]).ok().stdout;
    let at: BTreeSet<Option<usize>> = [("ID", 0), (&small.id, 1), (&big.id, 2)]
        .map(|(cell, line)| shown.lines().nth(line).and_then(|line| line.find(cell)))
        .into();
    assert_eq!(at.len(), 1, "the ids do not stand below each other: {shown}");
}

#[test]
fn disks_in_json_have_numbers_and_the_same_ids() {
    let engine = Engine::start();
    let disk = engine.add_disk(&json!({"name": "web", "size": 4 * MIB, "format": "cow"}));
    let listed = objects(&engine, &["disks"]);
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["size"], &listed[0]["format"]),
        (&json!(disk.id), &json!(4 * MIB), &json!("qcow2"))
    );
    assert!(listed[0]["actual_size"].is_u64(), "{}", listed[0]);
}

#[test]
fn an_engine_without_disks_has_an_empty_list() {
    let engine = Engine::start();
    assert_eq!(table(&engine, &["disks"]).len(), 1, "only the titles");
    for what in ["disks", "snapshots", "vms"] {
        assert_eq!(objects(&engine, &[what]), [] as [Value; 0], "{what}");
    }
}

#[test]
fn a_name_is_exact_or_an_id_and_else_a_pattern() {
    let engine = Engine::start();
    let names = ["web01", "web02", "db", "w*1", "WEB03"];
    let disks = names.map(|name| engine.add_disk(&json!({"name": name, "size": MIB})));
    for (wanted, found) in [
        ("web01", vec!["web01"]),
        (&disks[2].id, vec!["db"]),
        ("web*", vec!["web01", "web02"]),
        ("*0*", vec!["WEB03", "web01", "web02"]),
        // This is a disk's whole name, and so no pattern.
        ("w*1", vec!["w*1"]),
    ] {
        assert_eq!(
            each(&objects(&engine, &["disks", wanted]), "name"),
            found,
            "{wanted}"
        );
    }
    let twins = [1, 2].map(|n| engine.add_disk(&json!({"name": "twin", "size": n * MIB})).id);
    let found = each(&objects(&engine, &["disks", "twin"]), "id");
    assert_eq!(found.iter().collect::<BTreeSet<_>>(), twins.iter().collect());
}

#[test]
fn a_name_that_nothing_has_is_answered_with_what_there_is() {
    let engine = Engine::start();
    for name in ["web01", "web02"] {
        engine.add_disk(&json!({"name": name, "size": MIB, "vm": "machine"}));
    }
    let nowhere = "0f3c2d4e-88f5-4a59-b1a9-3c6e2f1d7a60";
    for (what, wanted, words) in [
        ("disks", "web03", ["web01", "web02"]),
        ("disks", "WEB01", ["web01", "web02"]),
        ("disks", "db*", ["web01", "web02"]),
        ("disks", nowhere, ["web01", "web02"]),
        ("disks", "", ["web01", "web02"]),
        ("domains", "dtaa", ["data", "san"]),
        ("vms", "web", ["VM web", "machine"]),
        ("snapshots", "web", ["web01", "machine"]),
    ] {
        let ran = list(&engine, &[what, wanted]);
        assert_refused(&ran, &[ENGINE_FAILED], &[&[wanted], words.as_slice()].concat());
        assert_eq!(ran.stdout, "", "{ran}");
    }
}

/// The engine's search refuses some of these characters, and reads others as something else.
#[test]
fn a_name_may_have_characters_that_the_search_refuses() {
    let engine = Engine::start();
    for name in [
        "it's",
        "a;b",
        "100%",
        "two words",
        "größe",
        "back\\slash",
        "says \"x\"",
    ] {
        engine.add_disk(&json!({"name": name, "size": MIB}));
        assert_eq!(each(&objects(&engine, &["disks", name]), "name"), [name]);
    }
    assert_eq!(each(&objects(&engine, &["disks", "*'*"]), "name"), ["it's"]);
}

#[test]
fn names_of_others_steer_no_terminal_and_make_no_line() {
    let engine = Engine::start();
    let name = "evil\u{1b}[2J\u{9b}31m\nfake  line\t\u{7f}";
    engine.add_disk(&json!({"name": name, "size": MIB, "vm": name, "snapshots": 1}));
    let steers = |text: &str| text.contains(|c: char| c.is_control() && c != '\n');
    for (words, lines) in [
        (vec!["disks"], 2),
        (vec!["snapshots"], 3),
        (vec!["vms"], 2),
        // A table of the VM, of its disk and of its two snapshots, each with a line before it.
        (vec!["vms", name], 2 + 4 + 5),
    ] {
        let shown = list(&engine, &words).ok().stdout;
        assert!(!steers(&shown), "{shown:?}");
        assert_eq!(shown.lines().count(), lines, "{shown:?}");
        let raw = list(&engine, &[words.as_slice(), &["-o", "json"]].concat())
            .ok()
            .stdout;
        assert!(!steers(&raw), "{raw:?}");
    }
    assert_eq!(each(&objects(&engine, &["disks", name]), "name"), [name]);
}

#[test]
fn storage_domains_have_their_status_their_space_and_their_data_center() {
    let engine = Engine::with([
        "--domain",
        "data=nfs",
        "--domain",
        "old=iscsi,maintenance",
        "--domain",
        "lost=nfs,detached",
    ]);
    let listed = objects(&engine, &["domains"]);
    assert_eq!(each(&listed, "name"), ["data", "lost", "old"]);
    assert_eq!(each(&listed, "status"), ["active", "unattached", "maintenance"]);
    assert_eq!(each(&listed, "storage_type"), ["nfs", "nfs", "iscsi"]);
    let centers: Vec<&Value> = listed.iter().map(|one| &one["data_centers"]).collect();
    assert_eq!(centers, [&json!(["Default"]), &json!([]), &json!(["Default"])]);
    assert_eq!(
        (&listed[0]["available"], &listed[0]["used"]),
        (&json!(500_u64 << 30), &json!(20_u64 << 30))
    );
    let lines = table(&engine, &["domains", "data"]);
    let id = listed[0]["id"].as_str().expect("an id");
    assert_eq!(
        lines[1],
        [
            "data",
            id,
            "active",
            "data",
            "nfs",
            "500.00 GiB",
            "20.00 GiB",
            "Default"
        ]
    );
}

#[test]
fn a_list_that_is_too_long_is_refused_with_the_remedy() {
    let engine = Engine::start();
    engine.switch(&json!({"switch": "huge", "match": "/disks"}));
    let ran = list(&engine, &["disks"]);
    assert_refused(&ran, &[ENGINE_FAILED], &["48 MiB", "pattern"]);
    assert_eq!(engine.requests("GET", "/disks").len(), 1, "it was asked again");
}

#[test]
fn the_engine_is_named_as_for_a_mount() {
    let engine = Engine::start();
    let config = format!(
        "[prod]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\n",
        engine.url(),
        engine.cafile().display()
    );
    write_private(&engine.dir().join("config/ovirt-img.conf"), &config);
    let ran = engine
        .run(["list", "domains", "-c", "prod", "-o", "json"], 60)
        .ok();
    assert!(ran.stdout.contains("\"data\""), "{ran}");

    write_private(&engine.password_file(), "wrong\n");
    let mut args: Vec<OsString> = vec!["list".into(), "disks".into()];
    args.extend(engine.args());
    assert_refused(&engine.run(args, 60), &[LOGIN_REFUSED], &["login", USER]);
    assert_refused(
        &engine.run(["list", "disks"], 60),
        &[USAGE],
        &["URL", "--engine-url"],
    );
    assert_refused(&engine.run(["list", "hosts"], 60), &[USAGE], &["disks", "vms"]);
}

/// A reader of the JSON, or of the documentation, finds each field in the other.
#[test]
fn every_field_is_documented() {
    let engine = Engine::start();
    machine(&engine);
    let fields = |object: &Value| -> BTreeSet<String> {
        let members = object.as_object().expect("an object");
        members.keys().cloned().collect()
    };
    let disk = fields(&objects(&engine, &["disks"])[0]);
    let vm = &objects(&engine, &["vms", "web"])[0];
    let attached: BTreeSet<String> = fields(&vm["disks"][0]).difference(&disk).cloned().collect();
    assert!(fields(&vm["disks"][0]).is_superset(&disk));
    for (heading, fields) in [
        ("disks", disk),
        ("snapshots", fields(&objects(&engine, &["snapshots", "web"])[0])),
        ("domains", fields(&objects(&engine, &["domains"])[0])),
        ("vms", fields(vm)),
        ("disks of a VM", attached),
        ("snapshots of a VM", fields(&vm["snapshots"][0])),
    ] {
        assert_eq!(
            documented(heading),
            fields,
            "under {heading:?} in docs/listing.md"
        );
    }
}

/// Returns the fields in the table under a heading of the documentation.
fn documented(heading: &str) -> BTreeSet<String> {
    let document = text(&top().join("docs/listing.md"));
    let start = format!("### {heading}\n");
    let (_, part) = document.split_once(&start).expect("the heading");
    let part = part.split("\n#").next().unwrap_or_default();
    let rows = part
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_owned).collect()
}
