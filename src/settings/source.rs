//! SOURCE, the disk's name or id before MOUNTPOINT, as mount(8) and fstab write it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::failure::{Exit, Failure};

/// The SOURCE that names no disk: an option does.
pub(super) const NONE: &str = "none";

/// Tells SOURCE, where there is one, from MOUNTPOINT.
pub(super) fn tell_apart(places: &[OsString]) -> Result<(Option<String>, PathBuf), Failure> {
    match places {
        [mountpoint] => Ok((None, mountpoint.into())),
        [source, mountpoint] => Ok((Some(name(source)?), mountpoint.into())),
        _ => Err(usage("more than SOURCE and MOUNTPOINT; see rhv-mount --help")),
    }
}

/// Reads SOURCE. A path there is a mistake, or mount(8)'s work.
pub(super) fn name(source: &OsStr) -> Result<String, Failure> {
    let refuse = |why: &str| Err(usage(format!("SOURCE {} {why}", source.to_string_lossy())));
    match source.to_str() {
        None => refuse("is not valid UTF-8"),
        Some("") => Err(usage("SOURCE is empty: it is the disk's name or id, or `none`")),
        Some(url) if url.contains("://") => Err(usage(
            "SOURCE is a URL. It shows in the table of mounts, and the URL of a transfer is a secret: give \
             SOURCE `none`, and transfer_url_file=PATH",
        )),
        Some(path) if path.contains('/') => refuse(
            "is a path, and before MOUNTPOINT stands the disk's name or id. mount(8) makes a path of a name \
             that its working directory has, too: give SOURCE `none`, and disk=NAME",
        ),
        Some(name) => Ok(name.to_owned()),
    }
}

fn usage(text: impl std::fmt::Display) -> Failure {
    Failure::text(Exit::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::cli::tests::{mount, parse};

    #[test]
    fn a_source_stands_before_the_mountpoint_wherever_the_options_are() {
        for line in [
            "rhv-mount web01 /mnt -o ro",
            "rhv-mount -o ro web01 /mnt",
            "rhv-mount web01 -o ro /mnt",
        ] {
            let args = mount(line);
            assert_eq!(
                (args.source.as_deref(), args.mountpoint, args.disk.read_only),
                (Some("web01"), PathBuf::from("/mnt"), true)
            );
        }
        let args = mount("rhv-mount web01 /mnt -- cat {}");
        assert_eq!((args.source.as_deref(), args.command.len()), (Some("web01"), 2));
        assert_eq!(mount("rhv-mount /mnt -- cat {}").source, None);
    }

    #[test]
    fn a_source_that_is_no_name_is_refused() {
        for (line, word) in [
            ("rhv-mount a b c", "more than"),
            ("rhv-mount a -o ro b c", "more than"),
            ("rhv-mount /home /mnt", "disk=NAME"),
            ("rhv-mount https://h:54322/images/x /mnt", "transfer_url_file"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.to_string().contains(word), "{line}: {error}");
        }
        assert!(name(OsStr::new("")).is_err());
    }
}
