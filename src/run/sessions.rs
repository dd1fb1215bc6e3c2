//! The sessions of `recover` with the engines of the notes: each account logs in once, with the section and
//! the password file that the mount had, unless something else is said.

use crate::engine::{Engine, Interrupt, address};
use crate::failure::{Exit, Failure};
use crate::output::tell;
use crate::settings::account::{engine_account, trust, variable};
use crate::settings::cli::RecoverArgs;
use crate::settings::config_file::{ConfigError, Section};
use crate::transfer::note::Note;

/// The sessions with the engines of several notes. Nobody is asked for a password twice, and what has refused
/// a login once is not asked again: another attempt for each note could lock the account.
pub(super) struct Sessions {
    /// How many engines the notes are of: a password that names none may be any one's.
    engines: usize,
    open: Vec<(Account, Engine)>,
    refused: Vec<Account>,
}

/// The URL of an engine, and the name of a user.
type Account = (String, String);

impl Sessions {
    /// Sessions with so many `engines`, none of them open.
    pub(super) fn with(engines: usize) -> Sessions {
        Sessions {
            engines,
            open: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// The session for the transfer of `note`.
    pub(super) fn of(&mut self, note: &Note, args: &RecoverArgs) -> Result<&Engine, Failure> {
        let username = args.engine.username.as_ref().unwrap_or(&note.username);
        let account = (note.engine_url.clone(), username.clone());
        if self.refused.contains(&account) {
            return Err(Failure::text(
                Exit::Login,
                format!(
                    "{}: not tried, since the login to {} as {} has failed",
                    note.mountpoint.display(),
                    account.0,
                    account.1
                ),
            ));
        }
        let at = match self.open.iter().position(|(open, _)| *open == account) {
            Some(at) => at,
            None => {
                let engine =
                    login(note, args, self.engines).inspect_err(|_| self.refused.push(account.clone()))?;
                self.open.push((account, engine));
                self.open.len() - 1
            }
        };
        Ok(&self.open[at].1)
    }

    /// Ends them all.
    pub(super) fn logout(&self) {
        self.open.iter().for_each(|(_, engine)| engine.logout());
    }
}

/// The mount's own engine, user and trust, and the places from which its login came, where nothing else is
/// said.
fn login(note: &Note, args: &RecoverArgs, engines: usize) -> Result<Engine, Failure> {
    let mut given = args.engine.clone();
    // A password is for the engine that it was given with.
    let of_environment = variable("OVIRT_PASSWORD").is_some();
    let of_variable = variable("OVIRT_URL").filter(|_| given.engine_url.is_none());
    let is_named = given.engine_url.is_some() || of_variable.is_some();
    let other_engine = of_variable.filter(|url| address(url).map_or(true, |url| url != note.engine_url));
    let (section, remembered) = match (&given.config, &note.login.section) {
        (None, Some(origin)) => {
            let file = given.config_file.as_ref().unwrap_or(&origin.file);
            match Section::of_file(file, &origin.section) {
                Ok(section) => (section, true),
                Err(_) if given.password_file.is_some() || of_environment => (Section::default(), false),
                Err(e) => return Err(e.into()),
            }
        }
        _ => (Section::read(&given)?, false),
    };
    let names_engine = is_named || given.config.is_some() && section.get("engine_url").is_some();
    let fits = names_engine && other_engine.is_none();
    let says_how = given.password_file.is_some() || of_environment && fits;
    let known_file = note.login.password_file.clone().filter(|path| path.exists());
    let known_file = known_file.filter(|_| !says_how && section.get("password").is_none());
    let has_own = remembered || known_file.is_some();
    let takes_it_from_there = of_environment
        && given.password_file.is_none()
        && known_file.is_none()
        && section.get("password").is_none();
    if let Some(url) = other_engine.filter(|_| takes_it_from_there) {
        check_engine(note, &url, Place::EnvironmentWithPassword)?;
    }
    if of_environment && !names_engine && known_file.is_some() {
        tell(format_args!(
            "OVIRT_PASSWORD names no engine, and the password file that the run had is taken; it counts with \
             --engine-url {}",
            note.engine_url
        ));
    }
    if takes_it_from_there && !names_engine && engines > 1 {
        return Err(Failure::text(
            Exit::Usage,
            format!(
                "the transfer of {} is to be ended in {}, and OVIRT_PASSWORD may be the password of another \
                 of the {engines} engines: name that with OVIRT_URL or --engine-url",
                note.mountpoint.display(),
                note.engine_url
            ),
        ));
    }
    let of_section = || section.get("engine_url").map(str::to_owned);
    let of_variable = || variable("OVIRT_URL").filter(|_| !has_own);
    let named = given
        .engine_url
        .clone()
        .map(|url| (url, Place::Option))
        .or_else(|| of_section().map(|url| (url, Place::Section)))
        .or_else(|| of_variable().map(|url| (url, Place::Environment)));
    if let Some((url, place)) = named {
        check_engine(note, &url, place)?;
    }
    if known_file.is_some() {
        given.password_file = known_file;
    }
    given.engine_url = Some(note.engine_url.clone());
    if given.username.is_none() {
        let of_section = section.get("username").filter(|_| given.config.is_some());
        let of_environment = variable("OVIRT_USERNAME").filter(|_| takes_it_from_there);
        let named = of_section.map(str::to_owned).or(of_environment);
        given.username = Some(named.unwrap_or_else(|| note.username.clone()));
    }
    let said = given.cafile.is_some() || given.insecure || given.config.is_some();
    let trust = match said {
        true => trust(given.cafile.clone(), given.insecure, &section)?,
        false => note.trust.clone(),
    };
    let account = engine_account(&given, &section, trust).map_err(|e| match e {
        missing @ ConfigError::Missing { .. } => Failure::text(
            Exit::Usage,
            format!(
                "transfer {} is to be ended, and {missing}",
                note.transfer.as_deref().unwrap_or("(unknown)")
            ),
        ),
        other => other.into(),
    })?;
    Ok(Engine::login(&account, &Interrupt::default())?)
}

/// The place that names an engine.
#[derive(Debug, Clone, Copy)]
enum Place {
    Option,
    Section,
    Environment,
    /// The same, and the password comes from there too.
    EnvironmentWithPassword,
}

impl Place {
    /// Says what to do where it names another engine than `ours`, that of the transfer. No password that is
    /// another engine's may go there.
    fn cure(self, ours: &str) -> String {
        match self {
            Place::Option => format!("leave out --engine-url, or name {ours} with it"),
            Place::Section => format!("give the section of {ours} with --config"),
            Place::Environment => format!("to log in to {ours} all the same, name it with --engine-url"),
            Place::EnvironmentWithPassword => format!(
                "that is OVIRT_URL, and OVIRT_PASSWORD is its password. Give the one for {ours}, with \
                 --engine-url {ours} --password-file PATH or in a section (--config), or unset both \
                 variables to be asked for it"
            ),
        }
    }
}

/// Refuses the URL of another engine: the transfer is not there, and a password is for the engine that it was
/// given with.
fn check_engine(note: &Note, url: &str, place: Place) -> Result<(), Failure> {
    match address(url)? == note.engine_url {
        true => Ok(()),
        false => Err(Failure::text(
            Exit::Usage,
            format!(
                "the transfer of {} belongs to the engine {}, not to {url}: {}",
                note.mountpoint.display(),
                note.engine_url,
                place.cure(&note.engine_url)
            ),
        )),
    }
}
