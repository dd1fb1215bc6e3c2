//! The offers of bash when TAB is pressed, by the script that the built program prints.

use crate::rig::{MIB, Rig, settings};
use crate::support::mount::{BINARY, clean_environment};
use crate::support::run::{run, scratch};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Completes the last of the words that it gets, as bash does.
const PRESS_TAB: &str = r#"
source <(RHV_MOUNT_COMPLETE=bash rhv-mount)
function=$(complete -p rhv-mount | sed 's/.* -F \([^ ]*\) .*/\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
"$function" rhv-mount "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// Returns what is offered for the last of `words`, with the configuration file in `config`.
fn offered(words: &[&str], config: &Path) -> Vec<String> {
    let programs = Path::new(BINARY).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut bash = Command::new("bash");
    clean_environment(&mut bash);
    bash.args(["-c", PRESS_TAB, "bash"]).args(words);
    bash.env("PATH", format!("{}:{path}", programs.display()));
    bash.env("XDG_CONFIG_HOME", config);
    let ran = run(&mut bash, 40).ok();
    assert_eq!(ran.stderr, "", "{ran}");
    ran.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn mounts_are_offered_to_umount_and_status_and_sections_to_c() {
    let rig = Rig::start(settings(MIB), &[]);
    let point = rig.mount.mountpoint().to_str().unwrap();
    let config = scratch();
    let file = "[DEFAULT]\nusername = a@b\n[lab]\nsecure = no\n[prod]\npassword = not-shown\n";
    // Bash would put these words into the command line as they are.
    let unquoted = "[test lab]\n[x;reboot]\n[$(reboot)]\n";
    fs::write(config.path().join("ovirt-img.conf"), format!("{file}{unquoted}")).unwrap();
    let offered = |words: &[&str]| offered(words, config.path());
    for name in ["umount", "status", "unmount"] {
        assert!(offered(&["rhv-mount", name, ""]).contains(&point.to_owned()));
        let begun = &point[..point.len() - 1];
        assert_eq!(offered(&["rhv-mount", "-c", "prod", name, begun]), [point]);
    }
    assert_eq!(offered(&["rhv-mount", "-c", ""]), ["lab", "prod"]);
    assert_eq!(offered(&["rhv-mount", "recover", "--config", "p"]), ["prod"]);
    assert_eq!(offered(&["rhv-mount", "reco"]), ["recover"]);
    let directory = format!("{}/", config.path().display());
    let file = format!("{directory}ovirt-img.conf");
    assert_eq!(offered(&["rhv-mount", "--cafile", &directory]), [file]);
    assert_eq!(rig.umount().0.code, Some(0));
}
