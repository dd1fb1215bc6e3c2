//! Engine settings from the places where `ovirt-img` has them: options, then a section of `ovirt-img.conf`,
//! then the environment, then a prompt.
//!
//! The file (`config_path` says which) is read only when a section is named with `-c`. Its keys are those of
//! ovirt-img (engine_url, username, password, cafile, secure, log_file, log_level), and the names of some of
//! our own options ([`KEYS`]).

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use configparser::ini::{Ini, IniDefault};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::engine;
use crate::failure::{Exit, Failure};
use crate::output::tell;
use crate::secret::hide;
use crate::settings::cli::{EngineArgs, long_options};
use crate::settings::config_path::places;

/// The section whose values count in all others.
const COMMON: &str = "DEFAULT";

/// The keys that are read. Other programs may have others.
const KEYS: [&str; 25] = [
    "backup",
    "cafile",
    "create",
    "disk",
    "disk_id",
    "disk_snapshot",
    "engine_url",
    "format",
    "live",
    "log_file",
    "log_level",
    "log_target",
    "password",
    "preallocated",
    "read_only",
    "require_consistency",
    "secure",
    "since",
    "size",
    "snapshot",
    "storage_domain",
    "transfer_url",
    "transfer_url_file",
    "username",
    "vm",
];

/// A configuration that can't be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file can't be read or parsed.
    #[error("cannot use the configuration file {path}: {why}")]
    File { path: PathBuf, why: String },
    /// There is no file.
    #[error(
        "there is no configuration file for -c {section}, looked for in {places}: make one, or name it with \
         --config-file"
    )]
    NoFile { section: String, places: String },
    /// There is no such section.
    #[error("no section [{section}] in {path}: there are {there}")]
    Section {
        path: PathBuf,
        section: String,
        there: String,
    },
    /// A value is missing.
    #[error(
        "{what} is missing: give {option}, or `{key}` in a section of ovirt-img.conf (-c SECTION), or \
         {variable}"
    )]
    Missing {
        what: &'static str,
        option: &'static str,
        key: &'static str,
        variable: &'static str,
    },
    /// A value makes no sense.
    #[error("{0}")]
    Value(String),
    /// The password file can't be used.
    #[error("cannot use the password file {path}: {why}")]
    PasswordFile { path: PathBuf, why: String },
    /// The engine's URL can't be used.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Engine(error) => error.into(),
            error => Failure::new(Exit::Usage, error),
        }
    }
}

/// A section of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    #[serde(with = "crate::path_bytes")]
    pub(crate) file: PathBuf,
    pub(crate) section: String,
}

/// The chosen section of the file; empty when none was chosen.
#[derive(Debug, Default)]
pub(crate) struct Section {
    values: HashMap<String, Zeroizing<String>>,
    origin: Option<Origin>,
}

impl Section {
    /// Reads the section that `args` name: of the file that they name, else of the first usual one that has
    /// it.
    pub(crate) fn read(args: &EngineArgs) -> Result<Section, ConfigError> {
        match (&args.config, &args.config_file) {
            (None, None) => Ok(Section::default()),
            (None, Some(path)) => Err(ConfigError::Value(format!(
                "--config-file {}: name a section of it, too (-c SECTION)",
                path.display()
            ))),
            (Some(name), Some(path)) => Section::of_file(path, name),
            (Some(name), None) => Section::of_first(&places(), name),
        }
    }

    /// Reads section `name` of the first file that has it. A file that is there and can't be used is an
    /// error: another one would say something else.
    fn of_first(places: &[PathBuf], name: &str) -> Result<Section, ConfigError> {
        let missing = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
        let is_there = |path: &&PathBuf| !fs::metadata(path).is_err_and(|e| missing.contains(&e.kind()));
        let mut without = Vec::new();
        for path in places.iter().filter(is_there) {
            match Section::of_file(path, name) {
                Err(e @ ConfigError::Section { .. }) => without.push(e),
                other => return other,
            }
        }
        match without.len() {
            0 => Err(ConfigError::NoFile {
                section: name.to_owned(),
                places: list(places.iter().map(|path| path.display()), " and "),
            }),
            1 => Err(without.remove(0)),
            _ => Err(ConfigError::Value(list(without, "; "))),
        }
    }

    /// Reads section `name` of the file `path`.
    pub(crate) fn of_file(path: &Path, name: &str) -> Result<Section, ConfigError> {
        let refuse = |why: String| ConfigError::File {
            path: path.to_owned(),
            why,
        };
        let (text, meta) = read(path).map_err(|e| refuse(e.to_string()))?;
        let section = Section::of_text(text, path, name)?;
        if let Some(why) = open_to_others(path, &meta).filter(|_| section.get("password").is_some()) {
            return Err(refuse(format!("there is a password in it, and {why}")));
        }
        for option in section.unread_options() {
            tell(format_args!(
                "WARNING: {option} in section [{name}] of {} is not taken from there: give it as an option",
                path.display()
            ));
        }
        Ok(section)
    }

    /// Reads section `name` of `text`, the content of `path`.
    pub(crate) fn of_text(text: String, path: &Path, name: &str) -> Result<Section, ConfigError> {
        let refuse = |why: String| ConfigError::File {
            path: path.to_owned(),
            why,
        };
        let mut sections = parser().read(text).map_err(&refuse)?;
        let common = sections.remove(COMMON).unwrap_or_default();
        let Some(own) = sections.remove(name) else {
            let mut there: Vec<_> = sections.into_keys().collect();
            there.sort();
            return Err(ConfigError::Section {
                path: path.to_owned(),
                section: name.to_owned(),
                there: if there.is_empty() {
                    "none".into()
                } else {
                    there.join(", ")
                },
            });
        };
        let mut values = HashMap::new();
        for section in [common, own] {
            let mut keys = HashSet::new();
            for (key, value) in section {
                // As in a list of `-o`, a name may be written as the option is.
                let key = key.to_lowercase().replace('-', "_");
                if !keys.insert(key.clone()) {
                    return Err(refuse(format!("{key} is in a section twice")));
                }
                if let Some(value) = value {
                    values.insert(key, Zeroizing::new(value));
                }
            }
        }
        if let Some(password) = values.get("password") {
            hide(password);
        }
        let origin = Some(Origin {
            file: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            section: name.to_owned(),
        });
        Ok(Section { values, origin })
    }

    /// Returns the file and the name of the section.
    pub(super) fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// Returns the names of our options in the section that are taken from the command line only.
    fn unread_options(&self) -> Vec<&str> {
        let options = long_options();
        let is_unread = |key: &&str| !KEYS.contains(key) && options.contains(*key);
        let mut unread: Vec<&str> = self.values.keys().map(String::as_str).filter(is_unread).collect();
        unread.sort_unstable();
        unread
    }

    /// Returns the value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.as_str())
    }

    /// Returns the value of a key that is yes or no.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.get(key)
            .map(|text| yes_or_no(&format!("{key} in ovirt-img.conf"), text))
            .transpose()
    }
}

/// The parser of the file, set up as the one of ovirt-img, Python's configparser: a `#` or `;` inside a value
/// is a part of it, and a password may have one.
fn parser() -> Ini {
    let mut defaults = IniDefault::default();
    defaults.default_section = COMMON.to_owned();
    defaults.case_sensitive = true;
    defaults.inline_comment_symbols = Some(vec![]);
    Ini::new_from_defaults(defaults)
}

/// Returns the names of the sections in the files of this user and of the system; none of one that can't be
/// used.
pub(crate) fn sections() -> Vec<String> {
    let texts = places()
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    let parsed = texts.filter_map(|text| parser().read(text).ok());
    let names = parsed.flat_map(|sections| sections.into_keys());
    names.filter(|name| name != COMMON).collect()
}

pub(super) fn yes_or_no(what: &str, text: &str) -> Result<bool, ConfigError> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "1" | "on" => Ok(true),
        "no" | "false" | "0" | "off" => Ok(false),
        _ => Err(ConfigError::Value(format!(
            "{what} is {text}: it takes yes or no"
        ))),
    }
}

fn list(words: impl IntoIterator<Item = impl ToString>, between: &str) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    words.join(between)
}

fn read(path: &Path) -> io::Result<(String, Metadata)> {
    let mut file = File::open(path)?;
    let (mut text, meta) = (String::new(), file.metadata()?);
    file.read_to_string(&mut text)?;
    Ok((text, meta))
}

/// Says why a file is no place for a password, and what to do; `None` for one that its owner alone can read,
/// and for a pipe.
pub(super) fn open_to_others(path: &Path, meta: &Metadata) -> Option<String> {
    (meta.is_file() && meta.mode() & 0o077 != 0).then(|| {
        format!(
            "others can read or change it (mode {:o}); run: chmod 600 {}",
            meta.mode() & 0o777,
            path.display()
        )
    })
}

#[cfg(test)]
mod tests;
