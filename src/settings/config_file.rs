//! Engine settings from the places where `ovirt-img` has them: options, then a section of `ovirt-img.conf`,
//! then the environment, then a prompt.
//!
//! The file is `$XDG_CONFIG_HOME/ovirt-img.conf` (`~/.config` by default), read only when a section is named
//! with `-c`. Its keys are those of ovirt-img (engine_url, username, password, cafile, secure, log_file,
//! log_level), and the names of our own options.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use configparser::ini::{Ini, IniDefault};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::engine::{self, Account, address};
use crate::failure::{Exit, Failure};
use crate::output::tell;
use crate::secret::{Secret, hide};
use crate::settings::cli::EngineArgs;
use crate::trust::Trust;

/// A configuration that can't be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    /// The file can't be read or parsed.
    #[error("cannot use the configuration file {path}: {why}")]
    File { path: PathBuf, why: String },
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
    /// Reads section `name` of the user's file.
    pub(crate) fn read(name: Option<&str>) -> Result<Section, ConfigError> {
        match name {
            Some(name) => Section::of_file(&file(), name),
            None => Ok(Section::default()),
        }
    }

    /// Reads section `name` of the file `path`.
    pub(crate) fn of_file(path: &Path, name: &str) -> Result<Section, ConfigError> {
        let refuse = |why: String| ConfigError::File {
            path: path.to_owned(),
            why,
        };
        let text = fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
        let section = Section::of_text(text, path, name)?;
        if section.get("password").is_some() && fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0)
        {
            tell(format_args!(
                "others can read {0}, which has a password in it; run: chmod 600 {0}",
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
        // Python's configparser takes a `#` or `;` inside a value as part of it, and a password may have one.
        let mut defaults = IniDefault::default();
        defaults.default_section = "DEFAULT".to_owned();
        defaults.case_sensitive = true;
        defaults.inline_comment_symbols = Some(vec![]);
        let mut ini = Ini::new_from_defaults(defaults);
        let mut sections = ini.read(text).map_err(&refuse)?;
        let common = sections.remove("DEFAULT").unwrap_or_default();
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

fn yes_or_no(what: &str, text: &str) -> Result<bool, ConfigError> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "1" | "on" => Ok(true),
        "no" | "false" | "0" | "off" => Ok(false),
        _ => Err(ConfigError::Value(format!(
            "{what} is {text}: it takes yes or no"
        ))),
    }
}

fn file() -> PathBuf {
    let base = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty());
    let base = base.map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".config"),
        PathBuf::from,
    );
    base.join("ovirt-img.conf")
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
    if meta.is_file() && meta.mode() & 0o077 != 0 {
        return Err(refuse(format!(
            "others can read or change it (mode {:o}); run: chmod 600 {}",
            meta.mode() & 0o777,
            path.display()
        )));
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn section(text: &str, name: &str) -> Result<Section, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ovirt-img.conf");
        fs::write(&path, text).unwrap();
        Section::of_file(&path, name)
    }

    #[test]
    fn a_section_is_read_as_ovirt_img_reads_it() {
        let text = "[Prod]\nengine_url = https://e.example:8443\nusername=admin@ovirt@internalsso\n\
                    password = p#a;s s%word\nsecure = no\n[other]\nusername: x@y\n[prod]\nUserName = z\n";
        let prod = section(text, "Prod").unwrap();
        assert_eq!(prod.get("engine_url"), Some("https://e.example:8443"));
        assert_eq!(prod.get("username"), Some("admin@ovirt@internalsso"));
        assert_eq!(prod.get("password"), Some("p#a;s s%word"));
        assert_eq!(prod.flag("secure").unwrap(), Some(false));
        assert_eq!(section(text, "other").unwrap().get("username"), Some("x@y"));
        assert_eq!(section(text, "prod").unwrap().get("username"), Some("z"));
        let error = section(text, "missing").unwrap_err().to_string();
        assert!(error.contains("[missing]") && error.contains("other"), "{error}");
    }

    /// The map of a section has no order: chance would decide which of the two is taken.
    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        let text = "[DEFAULT]\nusername = x\n[a]\nUsername = y\nusername = z\n[b]\nUSERNAME = w\n";
        let error = section(text, "a").unwrap_err().to_string();
        assert!(error.contains("username"), "{error}");
        assert_eq!(section(text, "b").unwrap().get("username"), Some("w"));
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        fs::write(&path, "open sesame\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = password_of_file(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(password_of_file(&path).unwrap().expose(), "open sesame");
    }

    #[test]
    fn options_beat_the_file() {
        let file = section("[a]\ncafile = /etc/ca.pem\n", "a").unwrap();
        assert_eq!(
            trust(None, false, &file).unwrap(),
            Trust::CaFile("/etc/ca.pem".into())
        );
        assert_eq!(trust(None, true, &file).unwrap(), Trust::Insecure);
        assert!(trust(Some("x".into()), true, &file).is_err());
    }
}
