//! A disk that ends within a block of 4096 bytes. A program with O_DIRECT writes whole blocks, so its last
//! write has zeros behind the disk's end.

use crate::rig::{MIB, Rig, close, errno, pattern, read_at, settings, used_server};
use crate::support::run::run;
use libc::ENOSPC;
use nix::fcntl::FallocateFlags;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

const SIZE: u64 = 4 * MIB + 1536;

#[test]
fn zeros_that_fill_the_last_block_are_dropped_and_data_there_is_enospc() {
    let server = used_server(settings(SIZE));
    let mut model = server.visible();
    let rig = Rig::over(server, &[]);
    let file = rig.read_write();
    let mut block = pattern(1, 4096);
    assert_eq!(
        file.write_at(&block, 4 * MIB).unwrap(),
        1536,
        "data behind the end is cut"
    );
    block[1536..].fill(0);
    assert_eq!(file.write_at(&block, 4 * MIB).unwrap(), 4096);
    model.write(4 * MIB, &block[..1536]);
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    assert_eq!(read_at(&file, 4 * MIB..SIZE).unwrap(), block[..1536]);
    assert_eq!(
        file.read_at(&mut [1; 4096], 4 * MIB).unwrap(),
        1536,
        "nothing is behind the end"
    );
    assert_eq!(
        file.write_at(&[0; 512], SIZE).unwrap(),
        512,
        "the kernel may split the last write"
    );
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    assert_eq!(errno(file.write_at(&[1; 512], SIZE)), ENOSPC);
    assert_eq!(
        errno(file.write_at(&[0; 512], 4 * MIB + 4096)),
        ENOSPC,
        "another block"
    );
    let long = vec![0; 2 * 4096];
    assert_eq!(
        file.write_at(&long, 4 * MIB).unwrap(),
        1536,
        "zeros beyond the last block"
    );
    model.zero(4 * MIB..SIZE);
    let grow = FallocateFlags::FALLOC_FL_ZERO_RANGE;
    crate::rig::fallocate(&file, grow, 4 * MIB..4 * MIB + 4096).unwrap();
    assert_eq!(
        errno(crate::rig::fallocate(&file, grow, 4 * MIB..4 * MIB + 8192)),
        ENOSPC
    );
    assert_eq!(errno(file.set_len(4 * MIB + 4096)), ENOSPC);
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    close(file).unwrap();
    rig.umount_expecting(&model);
}

#[test]
fn a_copy_past_the_page_cache_fills_the_disk_to_its_end() {
    let server = used_server(settings(SIZE));
    let mut model = server.visible();
    let rig = Rig::over(server, &[]);
    let dir = crate::support::run::scratch();
    let image = dir.path().join("image");
    let bytes = pattern(3, SIZE as usize);
    std::fs::write(&image, &bytes).unwrap();
    model.write(0, &bytes);
    let file = rig.mount.file();
    for (how, args) in [("onto the file", &["-n"][..]), ("as a new file", &[])] {
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "raw", "-t", "none"]);
        let ran = run(convert.args(args).arg(&image).arg(&file), 60);
        assert_eq!(ran.code, Some(0), "{how}: {ran}");
        assert_eq!(std::fs::metadata(&file).unwrap().len(), SIZE, "{how}");
    }
    let direct = rig.open(OpenOptions::new().write(true).custom_flags(libc::O_DIRECT));
    drop(direct);
    rig.umount_expecting(&model);
}
