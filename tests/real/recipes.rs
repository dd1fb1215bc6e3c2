//! Runs the commands of `docs/recipes.md` as they stand there, and looks at the bytes that they have moved.
//!
//! The line above each block says what becomes of it (`blocks.rs`). The blocks of a section run one after the
//! other, each in a shell of its own, as root, in namespaces where the folders that they write into belong to
//! the test.
//!
//! There, `prod` is a section of the configuration file, for an engine with the disks `web01`, `app01` and
//! `app02`, which hold `before.raw`, and `db01` of a running VM, whose snapshot (`$snapshot`) holds
//! `web01.raw`. The working directory has an image of a guest in several formats.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::blocks::{Fate, blocks, script_of};
use crate::support::content::{MIB, compare, sparse_image};
use crate::support::engine::{DiskState, Engine, PASSWORD, USER, write_private};
use crate::support::mount::{APART, BINARY, clean_environment};
use crate::support::redaction::assert_shows_none;
use crate::support::run::{Ran, is_root, run, scratch, sh, text};

/// Size of the disks and images, in bytes.
const SIZE: u64 = 32 * MIB;

/// Start of the only partition of the guest's image, in sectors of 512 bytes.
const PARTITION: u32 = 2048;

/// Makes a file system with files in the partition of `web01.raw`, and all images from that.
const MAKE_IMAGES: &str = r#"
    cd "$1"
    PATH=$PATH:/usr/sbin:/sbin
    mkdir -p guest/etc
    echo "127.0.0.1 web01" > guest/etc/hosts
    head -c 5000000 /dev/urandom > guest/data
    mke2fs -q -F -t ext4 -d guest -E offset="$2" web01.raw "$3"k
    qemu-img convert -f raw -O qcow2 web01.raw web01.qcow2
    cp web01.qcow2 web01-monday.qcow2
    qemu-img convert -f raw -O vmdk -o subformat=streamOptimized web01.raw web01-disk1.vmdk
    echo "<Envelope/>" > web01.ovf
    tar -cf web01.ova web01.ovf web01-disk1.vmdk
    rm web01.ovf web01-disk1.vmdk
"#;

/// Takes the mounts of other tests out of the namespace, which would be held there, and covers the folders
/// into which the commands write. Then it runs the script `$2`.
const STAGE: &str = r#"
    mapfile -t held < <(cut -d ' ' -f 5 /proc/self/mountinfo | grep '^/var/tmp/rhv-mount-' | tac)
    [ ${#held[@]} -eq 0 ] || umount -n -l -i "${held[@]}" || true
    mount -n -t tmpfs -o mode=755 tmpfs /run
    for place in /mnt /srv /usr/local/sbin /etc/systemd/system /var/lib/rhv-mount; do
        mkdir -p "$place" "$1/root$place"
        mount -n --bind "$1/root$place" "$place"
    done
    chmod 700 /var/lib/rhv-mount
    cd "$1/work"
    export HOME=$1 PATH=$1/bin:/usr/local/sbin:/usr/sbin:/sbin:$PATH
    bash -euxo pipefail "$2"
"#;

/// The document whose sections are run here.
const RECIPES: &str = "docs/recipes.md";

/// An engine with disks, and the folders of a test.
pub(crate) struct World {
    pub(crate) engine: Engine,
    dir: TempDir,
    snapshot: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let (engine, dir) = (Engine::start(), scratch());
        let path = |name: &str| dir.path().join(name);
        for name in ["work", "bin", "root/srv"] {
            fs::create_dir_all(path(name)).expect("make a directory");
        }
        symlink(BINARY, path("bin/rhv-mount")).expect("link the program");
        for name in ["restic.password", "borg.passphrase"] {
            write_private(&path("root/srv").join(name), "correct horse battery staple\n");
        }
        let section = format!(
            "[prod]\nengine_url = {}\nusername = {USER}\npassword = {PASSWORD}\ncafile = {}\n",
            engine.url(),
            engine.cafile().display()
        );
        write_private(&engine.dir().join("config/ovirt-img.conf"), &section);

        let (image, before) = (path("work/web01.raw"), path("work/before.raw"));
        make_partition(&image);
        let start = u64::from(PARTITION) * 512;
        let (start, room) = (start.to_string(), ((SIZE - start) / 1024).to_string());
        let args = [path("work").into_os_string(), start.into(), room.into()];
        sh(MAKE_IMAGES, args, 120).ok();
        sparse_image(&before, SIZE, 6);
        for name in ["web01", "app01", "app02"] {
            engine.add_disk(&json!({"name": name, "size": SIZE, "format": "raw", "content": before}));
        }
        let of_a_vm = engine.add_disk(&json!({
            "name": "db01", "size": SIZE, "format": "cow", "content": image, "snapshots": 1, "vm": "db"
        }));
        let snapshot = of_a_vm.snapshots[0].id.clone();
        Self {
            engine,
            dir,
            snapshot,
        }
    }

    /// A file in the working directory of the commands.
    pub(crate) fn work(&self, name: &str) -> PathBuf {
        self.dir.path().join("work").join(name)
    }

    /// A file that the commands know by this absolute path.
    fn root(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    fn perform_section(&self, section: &str) -> Ran {
        let blocks = blocks(RECIPES);
        let script = script_of(blocks.iter().filter(|block| block.section == section));
        let config = self.engine.dir().join("config");
        self.perform(
            &script,
            &[
                ("XDG_CONFIG_HOME", config.as_os_str()),
                ("snapshot", self.snapshot.as_ref()),
            ],
        )
    }

    /// Runs a script on the stage, with more variables in its environment, and checks that it leaves every
    /// disk free.
    pub(crate) fn perform(&self, script: &str, variables: &[(&str, &OsStr)]) -> Ran {
        let place = self.dir.path().join("script");
        fs::write(&place, script).expect("write the script");
        let mut command = Command::new("unshare");
        clean_environment(&mut command);
        command.args(["--mount", "--propagation", "private"]);
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args([APART, "bash", "-euo", "pipefail", "-c", STAGE, "sh"]);
        command.arg(self.dir.path()).arg(&place);
        command.envs(variables.iter().copied());
        let ran = run(&mut command, 300).ok();
        let mut secrets = self.engine.secrets();
        secrets.push(PASSWORD.to_owned());
        assert_shows_none(&ran, &secrets);
        for disk in self.engine.disks() {
            let state = (disk.status.as_str(), disk.locked_by.len());
            assert_eq!(state, ("ok", 0), "{} after: {ran}", disk.name);
        }
        ran
    }

    /// The home directory of the scripts.
    pub(crate) fn home(&self) -> &str {
        self.dir.path().to_str().expect("a path in UTF-8")
    }

    #[track_caller]
    pub(crate) fn assert_disk_holds(&self, disk: &str, image: &str) -> DiskState {
        let found = self.engine.disk(disk);
        let found = found.unwrap_or_else(|| panic!("there is no disk {disk}"));
        let same = self.engine.compare(&found, &self.work(image));
        same.unwrap_or_else(|reason| panic!("{disk} does not hold {image}: {reason}"));
        found
    }
}

/// Makes a raw image with a partition table of one entry, of type Linux.
fn make_partition(path: &Path) {
    let image = File::create(path).expect("make an image");
    image.set_len(SIZE).expect("size an image");
    let sectors = u32::try_from(SIZE / 512).expect("a small image") - PARTITION;
    let mut entry = vec![0, 0, 0, 0, 0x83, 0, 0, 0];
    entry.extend(PARTITION.to_le_bytes());
    entry.extend(sectors.to_le_bytes());
    image.write_all_at(&entry, 446).expect("write the table");
    image.write_all_at(&[0x55, 0xaa], 510).expect("write the mark");
}

/// Checks that a qcow2 file is whole, and holds the bytes of a raw one.
#[track_caller]
pub(crate) fn assert_same_as(raw: &Path, qcow2: &Path) {
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-f", "raw", "-F", "qcow2"]);
    run(command.arg(raw).arg(qcow2), 60).ok();
}

/// Checks that a file has one line for each of these disks, which says that it is done and verified.
#[track_caller]
fn assert_done(outcomes: &Path, disks: [&str; 2]) {
    let lines = text(outcomes);
    let lines = lines.lines().map(serde_json::from_str::<serde_json::Value>);
    let lines: Vec<_> = lines.collect::<Result<_, _>>().expect("lines of JSON");
    let mut done: Vec<&str> = lines
        .iter()
        .filter(|line| line["exit_status"] == 0 && line["verified"] == true)
        .filter_map(|line| line["disk_name"].as_str())
        .collect();
    done.sort_unstable();
    assert_eq!(
        (done.as_slice(), lines.len()),
        (disks.as_slice(), 2),
        "{lines:#?}"
    );
}

/// Runs the lists of a section that has been run once more, without making new ones.
#[track_caller]
fn the_same_lists_copy_nothing_again(world: &World) {
    let blocks = blocks(RECIPES);
    let lists = blocks.iter().filter(|block| block.section == "Many disks");
    let script = script_of(lists);
    // A command ends with the first line that goes on nowhere.
    let again = |from: &str| {
        let at = script.find(from).unwrap_or_else(|| panic!("no {from}"));
        let lines: Vec<&str> = script[at..].lines().collect();
        let last = lines.iter().position(|line| !line.ends_with('\\'));
        lines[..=last.expect("a last line")].join("\n")
    };
    let before = world.engine.transfers().len();
    let config = world.engine.dir().join("config");
    let variables = [("XDG_CONFIG_HOME", config.as_os_str())];
    for command in ["parallel --jobs 4 --retries", "xargs -P 4 -L 1"] {
        world.perform(&again(command), &variables);
    }
    assert_eq!(
        world.engine.transfers().len(),
        before,
        "something was copied again"
    );
}

/// Makes a test of each section, and a list of them.
macro_rules! recipes {
    ($($name:ident, $section:literal, $check:expr;)*) => {
        const PERFORMED: &[&str] = &[$($section),*];
        $(
            #[test]
            fn $name() {
                if !is_root() {
                    return;
                }
                let world = World::new();
                let ran = world.perform_section($section);
                let check: fn(&World, &Ran) = $check;
                check(&world, &ran);
            }
        )*
    };
}

recipes! {
    images_of_each_format_become_disks, "Upload an image", |world, _| {
        assert_eq!(world.assert_disk_holds("web02", "web01.raw").format, "raw");
        assert_eq!(world.assert_disk_holds("web03", "web01.raw").format, "cow");
        world.assert_disk_holds("web04", "web01.raw");
    };
    a_disk_becomes_a_qcow2_file, "Download a disk", |world, _| {
        assert_same_as(&world.work("before.raw"), &world.work("web01-copy.qcow2"));
    };
    copies_have_the_holes_of_their_source, "Sparse copies", |world, _| {
        let copy = world.work("web01-copy.raw");
        compare(&copy, &world.work("before.raw")).expect("the copy is the disk as it was");
        let allocated = fs::metadata(&copy).expect("the copy").blocks() * 512;
        assert!(allocated < SIZE - 4 * MIB, "{allocated} bytes are allocated");
        world.assert_disk_holds("web01", "web01.raw");
    };
    a_file_comes_out_of_a_snapshot, "Files out of a disk", |world, _| {
        let hosts = text(&world.work("restored-hosts"));
        assert_eq!(hosts, "127.0.0.1 web01\n");
    };
    backup_programs_bring_disks_back, "Backup programs", |world, _| {
        world.assert_disk_holds("web02", "before.raw");
        world.assert_disk_holds("web03", "before.raw");
    };
    a_disk_leaves_as_an_image, "Leaving RHV", |world, _| {
        assert_same_as(&world.work("before.raw"), &world.work("web01-export.qcow2"));
    };
    a_nightly_job_leaves_one_whole_copy, "A nightly job", |world, ran| {
        assert_one_copy(world);
        let said = ran.stderr.lines().filter(|line| !line.starts_with('+') && line.contains("backup-disk@"));
        assert_eq!(said.count(), 0, "systemd has something to say: {ran}");
        a_failed_job_keeps_the_last_copy(world);
    };
    many_disks_are_copied_at_once, "Many disks", |world, _| {
        let before = world.work("before.raw");
        for name in ["web01", "app01", "app02"] {
            assert_same_as(&before, &world.work(&format!("{name}-copy.qcow2")));
        }
        for disk in world.engine.disks().iter().filter(|disk| disk.name.starts_with("app")) {
            assert_same_as(&before, &world.work(&format!("{}.qcow2", disk.id)));
            assert_same_as(&before, &world.work(&format!("{}-old.qcow2", disk.name)));
        }
        for (outcomes, disks) in [("old.jsonl", ["app01", "app02"]), ("new.jsonl", ["web05", "web06"])] {
            assert_done(&world.work(outcomes), disks);
        }
        for name in ["web05", "web06"] {
            world.assert_disk_holds(name, "web01.raw");
        }
        the_same_lists_copy_nothing_again(world);
    };
    a_disk_gets_its_old_bytes_back, "Restore a disk in place", |world, _| {
        let disk = world.assert_disk_holds("web01", "web01.raw");
        assert_eq!(world.engine.disk(&disk.id).map(|disk| disk.name).as_deref(), Some("web01"));
    };
}

/// The job of the document, with a password that the engine refuses. It runs outside of the namespaces, so
/// it has the folders of the test.
fn a_failed_job_keeps_the_last_copy(world: &World) {
    let config = world.engine.dir().join("config");
    let section = text(&config.join("ovirt-img.conf"));
    write_private(
        &config.join("ovirt-img.conf"),
        &section.replace(PASSWORD, "wrong"),
    );
    let job = world.root("/usr/local/sbin/backup-disk");
    let mode = fs::metadata(&job).expect("the job").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let (backup, dir) = (world.root("/srv/backup"), world.dir.path().display().to_string());
    let mut moved = text(&job).replace("/srv/backup", &backup.display().to_string());
    for place in ["/mnt/", "/run/"] {
        moved = moved.replace(&format!("\"{place}"), &format!("\"{dir}/"));
    }
    let mut command = Command::new("sh");
    clean_environment(&mut command);
    command
        .args(["-c", &moved, "sh", "web01"])
        .env("XDG_CONFIG_HOME", config);
    command.env("PATH", format!("{dir}/bin:/usr/bin:/bin"));
    let ran = run(&mut command, 60);
    assert_eq!(ran.code, Some(3), "{ran}");
    assert!(
        ran.stderr.contains("the password of the section prod is wrong"),
        "{ran}"
    );
    assert_one_copy(world);
}

/// Checks that the nightly job has left a whole copy, and nothing else.
#[track_caller]
fn assert_one_copy(world: &World) {
    let backup = world.root("/srv/backup");
    let left: Vec<_> = fs::read_dir(&backup).expect("the copies").flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_same_as(&world.work("before.raw"), &backup.join("web01.qcow2"));
}

#[test]
fn every_block_is_run_or_says_why_not() {
    let blocks = blocks(RECIPES);
    assert!(
        blocks.len() > 20,
        "{} blocks: the document was not parsed",
        blocks.len()
    );
    let mut sections: Vec<_> = blocks
        .iter()
        .filter(|one| matches!(one.fate, Fate::Run(_)))
        .collect();
    sections.dedup_by(|a, b| a.section == b.section);
    let sections: Vec<_> = sections.iter().map(|block| block.section.as_str()).collect();
    assert_eq!(
        sections, PERFORMED,
        "the sections with blocks to run, and the tests of this file"
    );
}
