//! `rhv-mount recover` ends what it finds, whether somebody reads its words or not.

use std::process::Command;

use crate::existing::write_and_sync;
use crate::rig::{assert_nothing_deleted, existing, state_file, used_disk};
use crate::support::content::MIB;
use crate::support::engine::Engine;
use crate::support::run::run;

#[test]
fn recover_ends_a_transfer_although_nobody_reads_what_it_says() {
    for output in [">/dev/full 2>/dev/full", "> >(:) 2>&1; sleep 0.2"] {
        let engine = Engine::start();
        used_disk(&engine, "web01", "raw");
        let mount = engine.mounting(existing("web01")).start();
        write_and_sync(&mount.file(), MIB, MIB, 1);
        mount.kill();
        let point = mount.mountpoint();
        let program = engine.tool();
        let mut recover = Command::new("bash");
        let script = format!(r#"exec {output}; exec "$0" "$@""#);
        recover.args(["-uc", &script]).arg(program.get_program());
        recover.arg("recover").args(engine.args()).arg(point);
        recover.envs(
            program
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let ran = run(&mut recover, 120);
        assert_eq!(ran.code, Some(0), "{output}: {ran}");
        assert_eq!(engine.transfer().phase, "finished_success", "{output}");
        assert!(state_file(point).is_none(), "{output}: the note is left");
        assert_nothing_deleted(&engine);
    }
}
