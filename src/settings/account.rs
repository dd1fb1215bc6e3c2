//! The engine, the user and the trust of a run, put together from options, configuration file, environment
//! and, on a terminal, a prompt.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::cli::EngineArgs;
use super::config_file::{ConfigError, Origin, Section, open_to_others, yes_or_no};
use crate::engine::{Account, address};
use crate::secret::{Secret, hide};
use crate::trust::Trust;

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
            section: section.origin().cloned(),
            // A pipe can't be read again.
            password_file: password_file.filter(|path| path.is_file()),
        }
    }
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

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
        let text = "[a]\ncafile = /etc/ca.pem\n".to_owned();
        let file = Section::of_text(text, Path::new("ovirt-img.conf"), "a").unwrap();
        assert_eq!(
            trust(None, false, &file).unwrap(),
            Trust::CaFile("/etc/ca.pem".into())
        );
        assert_eq!(trust(None, true, &file).unwrap(), Trust::Insecure);
        assert!(trust(Some("x".into()), true, &file).is_err());
    }
}
