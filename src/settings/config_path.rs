//! The places of `ovirt-img.conf`: the user's, then the system's. None of them depends on the working
//! directory, also where the environment has no HOME, as under cron, systemd or mount(8).

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::{User, geteuid};

/// The system's file.
const SYSTEM: &str = "/etc/ovirt-img.conf";

/// Returns the files in which a section is looked for, in this order.
pub(super) fn places() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name);
    let passwd = || User::from_uid(geteuid()).ok().flatten().map(|user| user.dir);
    places_of(variable("XDG_CONFIG_HOME"), variable("HOME"), passwd)
}

/// Does the same for these values of the variables. A relative path in one of them counts as none, as the XDG
/// base directory specification has it; `passwd` is asked for the home directory then.
fn places_of(
    config_home: Option<OsString>,
    home: Option<OsString>,
    passwd: impl FnOnce() -> Option<PathBuf>,
) -> Vec<PathBuf> {
    let absolute = |dir: Option<OsString>| dir.map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || absolute(home).or_else(passwd).map(|home| home.join(".config"));
    let user = absolute(config_home).or_else(home);
    let user = user.map(|dir| dir.join("ovirt-img.conf"));
    user.into_iter().chain([PathBuf::from(SYSTEM)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_looked_for_relative_to_the_working_directory() {
        let first = |config_home: &str, home: &str| {
            let value = |text: &str| (text != "unset").then(|| OsString::from(text));
            let passwd = || Some(PathBuf::from("/passwd"));
            let places = places_of(value(config_home), value(home), passwd);
            assert_eq!(places.len(), 2);
            assert_eq!(places[1], PathBuf::from(SYSTEM));
            places[0].display().to_string()
        };
        assert_eq!(first("/config", "/home"), "/config/ovirt-img.conf");
        for nothing in ["unset", "", "relative", "./x"] {
            assert_eq!(first(nothing, "/home"), "/home/.config/ovirt-img.conf");
            for home in ["unset", "", "relative"] {
                assert_eq!(first(nothing, home), "/passwd/.config/ovirt-img.conf");
            }
        }
        assert_eq!(places_of(None, None, || None), [PathBuf::from(SYSTEM)]);
    }
}
