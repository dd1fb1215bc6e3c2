//! Entry points for the fuzz targets in `fuzz/`: one plain function for each parser of input from a server, a
//! file or a user. They are compiled only with the feature `fuzzing` and in this crate's own tests.
//!
//! Each function feeds any bytes to its parser and panics if a promise is broken. No parser may panic or
//! hang; the further promises are listed at each function. A function that needs private items of a folder
//! stands in that folder's `fuzzing.rs`; [`TARGETS`] has all of them. The targets of cargo-fuzz call these
//! functions and nothing else, and `cargo test` replays every input in `fuzz/corpus` through them, without
//! cargo-fuzz.
//!
//! The inputs look like real ones, so that a person can write them: if a target needs several values, each
//! but the last has a line of its own at the beginning.

mod parts;
mod words;

pub(crate) use self::parts::{Pieces, assert_presentable, first_line, number_of};
pub use self::words::{command_line, config_file, engine_address, mount_options, redaction, sizes};
pub use crate::backup::fuzzing::manifests;
pub use crate::engine::fuzzing::{ca_pem, engine_answers, engine_values};
pub use crate::imageio::fuzzing::{extents_answer, imageio_answers, options_answer, transfer_url};
pub use crate::images::fuzzing::images;
pub use crate::run::fuzzing::{control_messages, mount_table, notes};

pub type Target = fn(&[u8]);

/// Every target with its name, which is also the name of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 18] = [
    ("ca_pem", ca_pem),
    ("command_line", command_line),
    ("config_file", config_file),
    ("control_messages", control_messages),
    ("engine_address", engine_address),
    ("engine_answers", engine_answers),
    ("engine_values", engine_values),
    ("extents_answer", extents_answer),
    ("imageio_answers", imageio_answers),
    ("images", images),
    ("manifests", manifests),
    ("mount_options", mount_options),
    ("mount_table", mount_table),
    ("notes", notes),
    ("options_answer", options_answer),
    ("redaction", redaction),
    ("sizes", sizes),
    ("transfer_url", transfer_url),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const VARIABLE: &str = "RHV_MOUNT_FUZZ_TARGET";

    fn names_in(folder: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| name(&entry.unwrap().path())).collect()
    }

    #[test]
    fn every_parser_has_a_target_and_inputs() {
        let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names_in("corpus"), names);
        assert_eq!(names_in("fuzz_targets"), names);
    }

    /// Each target runs in its own process, since secrets are registered per process and a stack overflow
    /// ends a process.
    #[test]
    fn every_kept_input_is_taken_well() {
        for (name, _) in TARGETS {
            let replayed = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "--ignored",
                    "--nocapture",
                    "fuzzing::tests::one_target",
                ])
                .env(VARIABLE, name)
                .output()
                .unwrap();
            let out = String::from_utf8_lossy(&replayed.stdout);
            assert!(
                replayed.status.success() && out.contains("1 passed"),
                "{name}: {}\n{out}{}",
                replayed.status,
                String::from_utf8_lossy(&replayed.stderr)
            );
        }
    }

    #[test]
    #[ignore = "run for each target by the test above"]
    fn one_target() {
        let wanted = std::env::var(VARIABLE).expect("the test above names it");
        let (name, target) = TARGETS.into_iter().find(|(name, _)| *name == wanted).unwrap();
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(name);
        let inputs: Vec<_> = fs::read_dir(corpus).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for path in inputs {
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
        }
    }
}
