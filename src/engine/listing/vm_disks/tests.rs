use super::*;

fn attached(disks: &[Value]) -> Vec<(Value, Value)> {
    let attachment = |disk: &Value| {
        let active = disk.get("active").cloned().unwrap_or("true".into());
        (json!({"id": disk["id"], "active": active}), disk.clone())
    };
    disks.iter().map(attachment).collect()
}

fn names(found: &VmDisks) -> (Vec<&str>, Vec<(&str, &str)>) {
    let left = found.left_out.iter();
    (
        found.disks.iter().map(|disk| disk.name.as_str()).collect(),
        left.map(|one| (one.name.as_str(), one.why)).collect(),
    )
}

#[test]
fn every_disk_takes_part_or_is_named_with_the_reason() {
    let disks = attached(&[
        json!({"id": "1", "alias": "root", "provisioned_size": "4096", "storage_type": "image"}),
        json!({"id": "2", "alias": "shared", "shareable": "true"}),
        json!({"id": "3", "alias": "lun", "storage_type": "lun"}),
        json!({"id": "4", "alias": "old lun", "lun_storage": {}}),
        json!({"id": "5", "alias": "off", "active": "false"}),
        json!({"id": "6", "alias": "cinder", "storage_type": "managed_block_storage"}),
        json!({"alias": "no id"}),
    ]);
    let found = of_attachments(&disks);
    let (taken, left) = names(&found);
    assert_eq!((taken, found.disks[0].size), (vec!["root"], 4096));
    for (name, word) in [
        ("shared", "shareable"),
        ("lun", "direct LUN"),
        ("old lun", "direct LUN"),
        ("off", "not active"),
        ("cinder", "storage"),
        ("", "tells nothing"),
    ] {
        assert!(
            left.iter().any(|(one, why)| *one == name && why.contains(word)),
            "{left:?}"
        );
    }
    assert_eq!(left.len(), 6);
}

#[test]
fn a_snapshot_has_the_disks_that_it_was_made_of_by_the_ids_of_their_volumes() {
    let now = attached(&[
        json!({"id": "1", "alias": "root"}),
        json!({"id": "2", "alias": "lun", "storage_type": "lun"}),
        json!({"id": "3", "alias": "added later"}),
    ]);
    let then = [
        (json!({"id": "1", "alias": "root"}), Some("v1".to_owned())),
        (
            json!({"id": "9", "alias": "detached since"}),
            Some("v9".to_owned()),
        ),
        (json!({"id": "8", "alias": "odd"}), None),
    ];
    let found = of_snapshot(&now, &then);
    let volumes: Vec<_> = found
        .disks
        .iter()
        .map(|disk| disk.disk_snapshot.as_deref())
        .collect();
    assert_eq!(volumes, [Some("v1"), Some("v9")]);
    let (taken, left) = names(&found);
    assert_eq!(taken, ["root", "detached since"]);
    for (name, word) in [
        ("odd", "names no"),
        ("lun", "direct LUN"),
        ("added later", "not in"),
    ] {
        assert!(
            left.iter().any(|(one, why)| *one == name && why.contains(word)),
            "{left:?}"
        );
    }
}

/// Another volume has other bytes, and the active one changes.
#[test]
fn the_volume_in_a_snapshot_is_the_one_that_belongs_to_it() {
    let volume = |id: &str, of: &str| json!({"id": id, "snapshot": {"id": of}});
    let all = [volume("v1", "older"), volume("v2", "s"), volume("v3", "active")];
    let disk = json!({"id": "d", "image_id": "v3", "snapshot": {"id": "s"}});
    assert_eq!(volume_of("s", &disk, &all, Some("v3")).as_deref(), Some("v2"));
    assert_eq!(volume_of("other", &disk, &all, None), None);
    // An engine that tells nothing else.
    assert_eq!(volume_of("s", &disk, &[], Some("v4")).as_deref(), Some("v3"));
    assert_eq!(
        volume_of("s", &json!({"image_id": "v1"}), &[], Some("v4")).as_deref(),
        Some("v1")
    );
    assert_eq!(
        volume_of("s", &disk, &[], Some("v3")),
        None,
        "it is the active one"
    );
    assert_eq!(
        volume_of("other", &disk, &[], None),
        None,
        "it is of another snapshot"
    );
}

fn snapshots() -> Vec<VmSnapshot> {
    let of = |(id, words, kind, status): (&str, &str, &str, &str)| VmSnapshot {
        id: id.to_owned(),
        description: Some(words.to_owned()),
        date: None,
        kind: Some(kind.to_owned()),
        status: Some(status.to_owned()),
    };
    [
        ("a", "nightly", "regular", "ok"),
        ("b", "nightly", "regular", "ok"),
        ("c", "before the update", "regular", "ok"),
        ("d", "half", "regular", "locked"),
        ("e", "Active VM", "active", "ok"),
    ]
    .map(of)
    .to_vec()
}

#[test]
fn a_snapshot_is_chosen_by_id_or_description_and_the_active_one_never() {
    let vm = ListedVm {
        name: "web".into(),
        id: "m".into(),
        status: None,
        disk_count: None,
        disks: None,
        snapshots: None,
        disk_ids: vec![],
    };
    for (wanted, id) in [("a", "a"), ("before the update", "c"), ("C", "c")] {
        assert_eq!(chosen(snapshots(), &vm, wanted).unwrap().id, id);
    }
    for (wanted, words) in [
        (
            "nightly",
            vec!["2 snapshots", "a (nightly)", "b (nightly)", "one of these ids"],
        ),
        ("half", vec!["locked", "try again"]),
        ("Active VM", vec!["as it is now", "c (before the update)"]),
        ("e", vec!["as it is now"]),
        ("other", vec!["no snapshot other", "a (nightly)"]),
    ] {
        let why = chosen(snapshots(), &vm, wanted).unwrap_err();
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
    let only_active = snapshots().split_off(4);
    let why = chosen(only_active, &vm, "x").unwrap_err();
    assert!(why.contains("it has no snapshots"), "{why}");
}

#[test]
fn a_vm_that_is_not_down_is_refused_with_both_ways_out() {
    let vm = |status: &str| ListedVm {
        name: "web 01".into(),
        id: "m".into(),
        status: Some(status.into()),
        disk_count: None,
        disks: None,
        snapshots: None,
        disk_ids: vec![],
    };
    assert!(refuse_while_it_runs(&vm("down")).is_ok());
    for status in ["up", "paused", "suspended", "powering_down", "image_locked"] {
        let why = refuse_while_it_runs(&vm(status)).unwrap_err().to_string();
        for word in [
            status,
            "--snapshot",
            "--backup",
            "Shut it down",
            "list vms 'web 01'",
        ] {
            assert!(why.contains(word), "{why}");
        }
    }
}
