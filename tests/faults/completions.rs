//! The offers of bash, zsh and fish when TAB is pressed, by the scripts that the built program prints.

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

/// Types the line `$1` and a TAB into an interactive zsh, and prints what has become of it. `$2` is a file of
/// its own.
const TYPE_INTO_ZSH: &str = r#"
zmodload zsh/zpty
zpty typed zsh -f -i
zpty -w typed "autoload -U compinit && compinit -u -D && source <(RHV_MOUNT_COMPLETE=zsh rhv-mount) && \
    show() { print -r -- \$BUFFER > $2.new; mv $2.new $2 } && zle -N show && bindkey '^X' show && \
    : > $2.ready"
await() {
    local some i
    for i in {1..1500}; do
        while zpty -rt typed some; do said+=$some; done
        [[ -e $1 ]] && return
        sleep 0.02
    done
    print -r -- "$said" >&2
    exit 1
}
await $2.ready
zpty -w -n typed "$1"$'\t\x18'
await $2
cat $2
"#;

/// Prints the offers of fish for the line `$argv[1]`, each with its description.
const ASK_FISH: &str = "RHV_MOUNT_COMPLETE=fish rhv-mount | source; complete --do-complete $argv[1]";

/// Runs a shell that finds the built program, and the configuration file in `config`, and returns what it
/// prints.
#[track_caller]
fn output_of(mut shell: Command, config: &Path) -> String {
    let programs = Path::new(BINARY).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    clean_environment(&mut shell);
    shell.env("PATH", format!("{}:{path}", programs.display()));
    shell.env("XDG_CONFIG_HOME", config).env("HOME", config);
    shell.env("TERM", "dumb");
    let ran = run(&mut shell, 40).ok();
    assert_eq!(ran.stderr, "", "{ran}");
    ran.stdout
}

/// Returns the offers of bash for the last of `words`.
fn offered(words: &[&str], config: &Path) -> Vec<String> {
    let mut bash = Command::new("bash");
    bash.args(["-c", PRESS_TAB, "bash"]).args(words);
    output_of(bash, config).lines().map(str::to_owned).collect()
}

/// Returns what zsh makes of a line in which one word fits.
fn completed_by_zsh(line: &str, config: &Path) -> String {
    let dir = scratch();
    let mut zsh = Command::new("zsh");
    zsh.args(["-f", "-c", TYPE_INTO_ZSH, "zsh", line])
        .arg(dir.path().join("line"));
    output_of(zsh, config).trim_end().to_owned()
}

/// Returns the offers of fish.
fn offered_by_fish(line: &str, config: &Path) -> Vec<String> {
    let mut fish = Command::new("fish");
    fish.args(["--no-config", "-c", ASK_FISH, line]);
    let offers = output_of(fish, config);
    let words = offers.lines().filter_map(|offer| offer.split('\t').next());
    words.map(str::to_owned).collect()
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

#[test]
fn zsh_and_fish_complete_names_options_mountpoints_and_sections() {
    let rig = Rig::start(settings(MIB), &[]);
    let point = rig.mount.mountpoint().to_str().unwrap();
    let config = scratch();
    let file = "[lab]\nsecure = no\n[prod]\npassword = not-shown\n";
    fs::write(config.path().join("ovirt-img.conf"), file).unwrap();
    let begun = &point[..point.len() - 1];
    for (line, word) in [
        ("rhv-mount umo", "umount"),
        ("rhv-mount --journal", "--journal-size"),
        ("rhv-mount -c prod recover --can", "--cancel"),
        (&format!("rhv-mount umount {begun}"), point),
        ("rhv-mount -c p", "prod"),
        ("rhv-mount status -o j", "json"),
    ] {
        let (before, _) = line.rsplit_once(' ').unwrap();
        assert_eq!(completed_by_zsh(line, config.path()), format!("{before} {word}"));
        assert_eq!(offered_by_fish(line, config.path()), [word], "{line}");
    }
    assert_eq!(offered_by_fish("rhv-mount -c ", config.path()), ["lab", "prod"]);
    assert_eq!(rig.umount().0.code, Some(0));
}
