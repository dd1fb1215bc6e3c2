//! Backing files: what they hold, and which are opened.

use std::fs;
use std::os::unix::fs::symlink;

use super::tools::{Folder, assert_as_qemu_sees, refusal};
use crate::images::qcow2::LOOKS;
use crate::images::{Backing, Format, Source};

#[test]
fn chains_of_three_are_read_as_qemu_reads_them() {
    for (base, base_size, sizes) in [
        ("raw", 1_000_001, ["3M", "2M"]),
        ("raw", 4 << 20, ["3M", "5M"]),
        ("qcow2", 2 << 20, ["3M", "3M"]),
        ("qcow2", (3 << 20) + 512, ["1M", "4M"]),
    ] {
        for options in [
            "cluster_size=64k",
            "extended_l2=on",
            "compat=0.10",
            "cluster_size=512",
        ] {
            let folder = Folder::new();
            folder.raw("base.raw", base_size);
            if base == "qcow2" {
                folder.run("qemu-img convert -f raw -O qcow2 -c base.raw base.qcow2");
            }
            let [middle, top] = sizes;
            folder.run(&format!(
                "qemu-img create -q -f qcow2 -o {options} -F {base} -b base.{base} middle.qcow2 {middle}"
            ));
            folder.qemu_io(
                "qcow2",
                "middle.qcow2",
                "write -P 9 300k 100k; write -z 512k 256k",
            );
            folder.run(&format!(
                "qemu-img create -q -f qcow2 -o {options} -F qcow2 -b middle.qcow2 top.qcow2 {top}"
            ));
            folder.qemu_io(
                "qcow2",
                "top.qcow2",
                "write -P 8 350k 3k; write -P 7 600k 1k; discard 0 64k",
            );
            assert_as_qemu_sees(&folder, "top.qcow2", Format::Qcow2);
        }
    }
}

/// They have no mark for the end of the extensions, and the oldest ones pad the name of the format.
#[test]
fn overlays_of_old_versions_of_qemu_are_read_as_qemu_reads_them() {
    const NAME: &[u8] = b"base.raw";
    let folder = Folder::new();
    folder.raw("base.raw", 1 << 20);
    folder.run("qemu-img create -q -f qcow2 -o compat=0.10 -F raw -b base.raw new.qcow2");
    folder.qemu_io("qcow2", "new.qcow2", "write -P 8 350k 3k");
    let new = fs::read(folder.path("new.qcow2")).unwrap();
    let padded = b"\xe2\x79\x2a\xca\0\0\0\x08raw\0\0\0\0\0";
    for extension in [&b""[..], padded] {
        let mut old = new.clone();
        let name = 72 + extension.len();
        old[72..4096].fill(0);
        old[72..name].copy_from_slice(extension);
        old[name..name + NAME.len()].copy_from_slice(NAME);
        old[8..16].copy_from_slice(&(name as u64).to_be_bytes());
        fs::write(folder.path("old.qcow2"), old).unwrap();
        assert_as_qemu_sees(&folder, "old.qcow2", Format::Qcow2);
    }
}

#[test]
fn layers_that_alternate_do_not_multiply_the_work() {
    const LAYERS: usize = 5;
    const CLUSTERS: usize = 512;
    let folder = Folder::new();
    folder.raw("base.raw", 32 << 20);
    let mut below = "-F raw -b base.raw".to_owned();
    for layer in 0..LAYERS {
        let name = format!("{layer}.qcow2");
        folder.run(&format!("qemu-img create -q -f qcow2 {below} {name} 32M"));
        let written: Vec<String> = (layer..CLUSTERS)
            .step_by(LAYERS + 1)
            .map(|cluster| match cluster % 2 {
                0 => format!("write -P 9 {}k 64k", cluster * 64),
                _ => format!("write -z {}k 64k", cluster * 64),
            })
            .collect();
        folder.qemu_io("qcow2", &name, &written.join("; "));
        below = format!("-F qcow2 -b {name}");
    }
    let top = folder.path(&format!("{}.qcow2", LAYERS - 1));
    let source = Source::open(&top, None).unwrap();
    let (before, mut at) = (LOOKS.get(), 0);
    while at < source.size() {
        at += source.extent_at(at).unwrap().length;
    }
    let looks = LOOKS.get() - before;
    // Each cluster is looked at from the middle of a run, and once more as what follows another extent; and a
    // run of a layer is at most LAYERS clusters and the one that ends it.
    let most = (CLUSTERS * 2 * LAYERS * (LAYERS + 1)) as u64;
    assert!(looks <= most, "{looks} looks of {most}");
}

#[test]
fn a_backing_file_elsewhere_is_opened_by_the_users_word_only() {
    let folder = Folder::new();
    fs::create_dir(folder.path("mine")).unwrap();
    fs::create_dir(folder.path("mine/below")).unwrap();
    fs::write(folder.path("secret"), [5; 1024]).unwrap();
    fs::write(folder.path("mine/below/secret"), [5; 1024]).unwrap();
    symlink("../secret", folder.path("mine/link")).unwrap();
    let absolute = folder.path("secret").display().to_string();
    let names = [
        absolute.as_str(),
        "../secret",
        "./../mine/../secret",
        "link",
        "file:../secret",
        "below/secret",
    ];
    for (number, name) in names.into_iter().enumerate() {
        let image = format!("mine/{number}.qcow2");
        folder.run(&format!(
            "qemu-img create -q -u -f qcow2 -F raw -b {name} {image} 1024"
        ));
        let error = refusal(&folder.path(&image));
        assert!(
            error.contains("secret") && error.contains("--allow-backing-elsewhere"),
            "{error}"
        );
        let source = Source::open_with(&folder.path(&image), None, Backing::Anywhere).unwrap();
        let mut bytes = [0; 1024];
        source.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, [5; 1024], "{name}");
    }
    // The file in the image's own folder is meant, whatever way leads to it.
    let absolute = folder.path("mine/base").display().to_string();
    fs::write(&absolute, [6; 1024]).unwrap();
    for (number, name) in [absolute.as_str(), "base", "../mine/base", "file:base"]
        .into_iter()
        .enumerate()
    {
        let image = format!("mine/own{number}.qcow2");
        folder.run(&format!(
            "qemu-img create -q -u -f qcow2 -F raw -b {name} {image} 1024"
        ));
        Source::open(&folder.path(&image), None).unwrap();
    }
    // So it is for the image's own file where a link leads to it.
    symlink("mine/own1.qcow2", folder.path("top.qcow2")).unwrap();
    let error = refusal(&folder.path("top.qcow2"));
    assert!(error.contains("base, which"), "{error}");
}

#[test]
fn the_middle_of_a_chain_reads_no_file_elsewhere_either() {
    let folder = Folder::new();
    fs::create_dir(folder.path("mine")).unwrap();
    fs::write(folder.path("secret"), [5; 1024]).unwrap();
    folder.run("qemu-img create -q -u -f qcow2 -F raw -b ../secret mine/middle.qcow2 1024");
    folder.run("qemu-img create -q -u -f qcow2 -F qcow2 -b middle.qcow2 mine/top.qcow2 1024");
    let error = Source::open(&folder.path("mine/top.qcow2"), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("middle.qcow2 needs") && error.contains("secret"),
        "{error}"
    );
}

#[test]
fn what_is_no_file_is_never_followed() {
    let folder = Folder::new();
    for (number, name) in [
        "nbd://localhost/x",
        "json:{\"driver\":\"nbd\"}",
        "ssh://host/x",
        "fat:/etc",
    ]
    .iter()
    .enumerate()
    {
        let image = format!("{number}.qcow2");
        folder.run(&format!(
            "qemu-img create -q -u -f qcow2 -F raw -b {name} {image} 1024"
        ));
        let path = folder.path(&image);
        let error = Source::open_with(&path, None, Backing::Anywhere)
            .unwrap_err()
            .to_string();
        assert!(error.contains("which is no file"), "{error}");
    }
}

#[test]
fn a_chain_that_leads_back_and_a_missing_file_are_told() {
    let folder = Folder::new();
    folder.run("qemu-img create -q -u -f qcow2 -F qcow2 -b b.qcow2 a.qcow2 1M");
    folder.run("qemu-img create -q -u -f qcow2 -F qcow2 -b a.qcow2 b.qcow2 1M");
    let error = refusal(&folder.path("a.qcow2"));
    assert!(error.contains("lead back to it"), "{error}");
    folder.run("qemu-img create -q -u -f qcow2 -F raw -b none.raw lost.qcow2 1M");
    let error = refusal(&folder.path("lost.qcow2"));
    assert!(
        error.contains("none.raw, which") && error.contains("No such file"),
        "{error}"
    );
}

#[test]
fn a_long_chain_is_read_and_an_endless_one_refused() {
    let folder = Folder::new();
    fs::write(folder.path("0.qcow2"), [9; 512]).unwrap();
    folder.run("qemu-img create -q -u -f qcow2 -F raw -b 0.qcow2 1.qcow2 512");
    let first = fs::read(folder.path("1.qcow2")).unwrap();
    let name = first.windows(7).position(|window| window == b"0.qcow2").unwrap();
    let format = first
        .windows(11)
        .position(|window| window == b"\xe2\x79\x2a\xca\0\0\0\x03raw")
        .unwrap();
    for number in 2..=210 {
        let mut image = first.clone();
        let below = format!("{}.qcow2", number - 1);
        image[name..name + below.len()].copy_from_slice(below.as_bytes());
        image[19] = below.len() as u8;
        image[format + 7] = 5;
        image[format + 8..format + 13].copy_from_slice(b"qcow2");
        fs::write(folder.path(&format!("{number}.qcow2")), image).unwrap();
    }
    let source = Source::open(&folder.path("199.qcow2"), None).unwrap();
    let mut bytes = [0; 512];
    source.read_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [9; 512]);
    let error = Source::open(&folder.path("210.qcow2"), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("below 200 other images"), "{error}");
}

#[test]
fn a_change_of_any_file_of_the_chain_is_told() {
    let folder = Folder::new();
    folder.raw("base.raw", 1 << 20);
    folder.run("qemu-img create -q -f qcow2 -F raw -b base.raw top.qcow2");
    let source = Source::open(&folder.path("top.qcow2"), None).unwrap();
    source.check_unchanged().unwrap();
    fs::write(folder.path("base.raw"), vec![1; (1 << 20) + 1]).unwrap();
    let error = source.check_unchanged().unwrap_err().to_string();
    assert!(error.contains("base.raw has changed"), "{error}");
}

/// The files stay open: what takes their names meanwhile is not read, and what is written into them is told.
#[test]
fn a_backing_file_that_is_replaced_is_read_as_it_was_and_one_that_changes_is_told() {
    let folder = Folder::new();
    folder.raw("base.raw", 1 << 20);
    folder.run("qemu-img create -q -f qcow2 -F raw -b base.raw top.qcow2 1M");
    let expected = fs::read(folder.path("base.raw")).unwrap();
    let source = Source::open(&folder.path("top.qcow2"), None).unwrap();
    fs::write(folder.path("other.raw"), vec![9; 1 << 20]).unwrap();
    fs::rename(folder.path("base.raw"), folder.path("kept.raw")).unwrap();
    fs::rename(folder.path("other.raw"), folder.path("base.raw")).unwrap();
    let mut bytes = vec![0; 1 << 20];
    source.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == expected, "bytes of another file");
    source.check_unchanged().unwrap();
    let kept = fs::File::options()
        .write(true)
        .open(folder.path("kept.raw"))
        .unwrap();
    kept.set_len(1000).unwrap();
    let error = source.check_unchanged().unwrap_err().to_string();
    assert!(
        error.contains("base.raw has changed since it was opened"),
        "{error}"
    );
    assert!(
        source.read_at(&mut bytes, 0).is_err(),
        "it is shorter than it was"
    );
}
