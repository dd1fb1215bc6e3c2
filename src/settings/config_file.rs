//! Engine settings from the places where `ovirt-img` has them: options, then a section of `ovirt-img.conf`,
//! then the environment, then a prompt.
//!
//! The file (`config_path` says which) is read only when a section is named with `-c`. Its keys are those of
//! ovirt-img (engine_url, username, password, cafile, secure, log_file, log_level), and the names of our own
//! options.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use configparser::ini::{Ini, IniDefault};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::engine::{self, Account, address};
use crate::failure::{Exit, Failure};
use crate::secret::{Secret, hide};
use crate::settings::cli::EngineArgs;
use crate::settings::config_path::places;
use crate::trust::Trust;

/// The section whose values count in all others.
const COMMON: &str = "DEFAULT";

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

/// The places from which a login came, so that `recover` can log in again without asking; they hold no
/// secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoginPlaces {
    #[serde(default)]
    pub(crate) section: Option<Origin>,
    #[serde(default, with = "crate::path_bytes::option")]
    pub(crate) password_file: Option<PathBuf>,
}

impl LoginPlaces {
    /// The places from which [`engine_account`] takes it.
    pub(crate) fn of(args: &EngineArgs, section: &Section) -> LoginPlaces {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let password_file = args.password_file.as_ref().map(absolute);
        LoginPlaces {
            section: section.origin.clone(),
            // A pipe can't be read again.
            password_file: password_file.filter(|path| path.is_file()),
        }
    }
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
        match open_to_others(path, &meta).filter(|_| section.get("password").is_some()) {
            Some(why) => Err(refuse(format!("there is a password in it, and {why}"))),
            None => Ok(section),
        }
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
                let key = key.to_lowercase();
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

fn yes_or_no(what: &str, text: &str) -> Result<bool, ConfigError> {
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
fn open_to_others(path: &Path, meta: &Metadata) -> Option<String> {
    (meta.is_file() && meta.mode() & 0o077 != 0).then(|| {
        format!(
            "others can read or change it (mode {:o}); run: chmod 600 {}",
            meta.mode() & 0o777,
            path.display()
        )
    })
}

/// Returns an environment variable that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Gathers everything that a login needs; asks for a missing password on a terminal.
pub(crate) fn engine_account(
    args: &EngineArgs,
    section: &Section,
    trust: Trust,
) -> Result<Account, ConfigError> {
    let pick = |given: &Option<String>, what, option, key, name| {
        let value = given.clone().or_else(|| section.get(key).map(str::to_owned));
        value.or_else(|| variable(name)).ok_or(ConfigError::Missing {
            what,
            option,
            key,
            variable: name,
        })
    };
    let url = pick(
        &args.engine_url,
        "the engine's URL",
        "--engine-url",
        "engine_url",
        "OVIRT_URL",
    )?;
    let url = address(&url)?;
    let username = pick(
        &args.username,
        "the user name",
        "--username",
        "username",
        "OVIRT_USERNAME",
    )?;
    let password = password(args.password_file.as_deref(), section, &url, &username)?;
    hide(password.expose());
    Ok(Account {
        url,
        username,
        password,
        trust,
    })
}

fn password(
    file: Option<&Path>,
    section: &Section,
    url: &str,
    username: &str,
) -> Result<Secret, ConfigError> {
    if let Some(path) = file {
        return password_of_file(path);
    }
    if let Some(password) = section
        .get("password")
        .map(str::to_owned)
        .or_else(|| variable("OVIRT_PASSWORD"))
    {
        return Ok(Secret::new(password));
    }
    let missing = ConfigError::Missing {
        what: "the password",
        option: "--password-file",
        key: "password",
        variable: "OVIRT_PASSWORD",
    };
    if !std::io::stdin().is_terminal() {
        return Err(missing);
    }
    let typed = rpassword::prompt_password(format!("Password of {username} at {url}: "));
    let typed = typed.ok().filter(|password| !password.is_empty());
    typed.map(Secret::new).ok_or(missing)
}

fn password_of_file(path: &Path) -> Result<Secret, ConfigError> {
    let refuse = |why: String| ConfigError::PasswordFile {
        path: path.to_owned(),
        why,
    };
    let meta = fs::metadata(path).map_err(|e| refuse(e.to_string()))?;
    if let Some(why) = open_to_others(path, &meta) {
        return Err(refuse(why));
    }
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|e| refuse(e.to_string()))?;
    let password = text.trim_end_matches(['\n', '\r']);
    match password.is_empty() {
        true => Err(refuse("it is empty".into())),
        false => Ok(Secret::new(password)),
    }
}

/// Decides whom to trust, by options, file and environment. `cafile` and `insecure` come from the command
/// line, which overrides the others.
pub(crate) fn trust(
    cafile: Option<PathBuf>,
    insecure: bool,
    section: &Section,
) -> Result<Trust, ConfigError> {
    let secure = section.flag("secure")?;
    let (cafile, insecure) = if cafile.is_some() || insecure {
        (cafile, insecure)
    } else if section.get("cafile").is_some() || secure.is_some() {
        (
            section
                .get("cafile")
                .map(PathBuf::from)
                .filter(|_| secure != Some(false)),
            secure == Some(false),
        )
    } else {
        let off = variable("OVIRT_INSECURE")
            .map(|text| yes_or_no("OVIRT_INSECURE", &text))
            .transpose()?;
        // A path need not be UTF-8, as `variable` wants it.
        let cafile = std::env::var_os("OVIRT_CAFILE").filter(|path| !path.is_empty());
        (cafile.map(PathBuf::from), off.unwrap_or(false))
    };
    match (cafile, insecure) {
        (Some(path), true) => Err(ConfigError::Value(format!(
            "--insecure beside the CA file {} (--cafile or OVIRT_CAFILE): choose one, verification is either \
             on or off",
            path.display()
        ))),
        (Some(path), false) => {
            let path = std::path::absolute(&path)
                .map_err(|e| ConfigError::Value(format!("{}: {e}", path.display())))?;
            Ok(Trust::CaFile(path))
        }
        (None, true) => Ok(Trust::Insecure),
        (None, false) => Ok(Trust::System),
    }
}

#[cfg(test)]
mod tests;
