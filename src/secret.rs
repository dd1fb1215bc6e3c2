//! Secrets: values that print as `***`, and the list of strings that no output may contain.
//!
//! The ticket id in a transfer URL is the credential of the whole disk. It is kept in a [`Secret`], so that a
//! derived `Debug` can't show it. It is also registered with [`hide`], so that [`clean`] removes it from the
//! log records of libraries (which print request lines) and from server messages (which quote the ticket).
//! Registered strings live as long as the process.
//!
//! A [`Secret`] is overwritten when it is dropped. The copies that libraries make (request lines, headers, a
//! form) are not, nor are those in swap: `process::privacy` keeps other processes out of the memory.

use std::borrow::Cow;
use std::fmt;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The replacement for a secret.
pub(crate) const HIDDEN: &str = "***";

static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// A string that is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    pub(crate) fn new(value: impl Into<String>) -> Self {
        Secret(Zeroizing::new(value.into()))
    }

    /// The value itself, for the connection to a server only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Registers `secret` for [`clean`]. Empty strings are ignored.
pub(crate) fn hide(secret: &str) {
    let mut secrets = SECRETS.write();
    if !secret.is_empty() && !secrets.iter().any(|s| s == secret) {
        secrets.push(secret.to_owned());
        // Longest first, so that a secret that contains another one is replaced as a whole.
        secrets.sort_by_key(|s| std::cmp::Reverse(s.len()));
    }
}

/// Unregisters all secrets: each input of a fuzz target begins with its own.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn forget_all() {
    SECRETS.write().clear();
}

/// Length from which a secret is also replaced inside of words, and by its beginning alone. A shorter one is
/// replaced as a whole word only: `t1` is not hidden in `start1`.
const LONG_BYTES: usize = 8;

/// Returns `text` without any registered secret.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let secrets = SECRETS.read();
    match secrets.iter().any(|secret| text.contains(head(secret))) {
        true => Cow::Owned(without(text, &secrets)),
        false => Cow::Borrowed(text),
    }
}

/// Returns the part of a secret that is searched for. The beginning of a long secret is as sensitive as the
/// whole: imageio quotes the first 18 characters of a ticket as the name of the transfer.
fn head(secret: &str) -> &str {
    secret.get(..LONG_BYTES).unwrap_or(secret)
}

/// Replaces `secrets`, the longest first. Each is searched for in the whole text, since two of them may
/// overlap or have the same beginning, as tokens do.
fn without<S: AsRef<str>>(text: &str, secrets: &[S]) -> String {
    let mut hidden = vec![false; text.len()];
    for secret in secrets.iter().map(AsRef::as_ref) {
        let mut from = 0;
        while let Some(at) = text[from..].find(head(secret)).map(|at| from + at) {
            let pairs = text[at..].chars().zip(secret.chars());
            let same = pairs.take_while(|(a, b)| a == b);
            let end = at + same.map(|(c, _)| c.len_utf8()).sum::<usize>();
            let (before, after) = (&text[..at], &text[end..]);
            let in_a_word = (before.ends_with(char::is_alphanumeric) && !hidden[at - 1])
                || (after.starts_with(char::is_alphanumeric) && !hidden[end]);
            if secret.len() >= LONG_BYTES || !in_a_word {
                hidden[at..end].fill(true);
            }
            from = at + text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        match hidden[at] {
            false => out.push(c),
            true if at == 0 || !hidden[at - 1] => out.push_str(HIDDEN),
            true => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_shows_nothing() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(***)");
        assert_eq!(format!("{:>9}", Secret::new("hunter2")), "***");
    }

    #[test]
    fn a_secret_is_overwritten_and_travels_as_it_is() {
        fn overwritten_when_dropped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let Secret(inside) = Secret::new("hunter2");
        overwritten_when_dropped(&inside);
        let json = serde_json::to_string(&Secret(inside)).unwrap();
        assert_eq!(json, "\"hunter2\"");
        assert_eq!(serde_json::from_str::<Secret>(&json).unwrap().expose(), "hunter2");
    }

    #[test]
    fn clean_replaces_every_occurrence_and_longer_secrets_first() {
        hide("abc-def");
        hide("abc-def-ghi");
        assert_eq!(
            clean("GET /images/abc-def-ghi and abc-def"),
            "GET /images/*** and ***"
        );
        assert_eq!(clean("nothing here"), "nothing here");
    }

    #[test]
    fn the_beginning_of_a_long_secret_is_hidden_too() {
        let ticket = "bc922a10-62e5-4709-a1b2-000000000000";
        assert_eq!(
            without("Transfer=(ticket/bc922a10-62e5-4709) expired", &[ticket]),
            "Transfer=(ticket/***) expired"
        );
        assert_eq!(
            without("bc922a1 is seven characters", &[ticket]),
            "bc922a1 is seven characters"
        );
    }

    #[test]
    fn a_short_secret_is_hidden_as_a_word_only() {
        assert_eq!(
            without("start1: No such ticket 't1' in /images/t1", &["t1"]),
            "start1: No such ticket '***' in /images/***"
        );
    }

    #[test]
    fn secrets_that_begin_alike_or_overlap_leave_nothing_behind() {
        let secrets = ["eyJhbGciOiJSUzI1NiJ9.longer.first", "eyJhbGciOiJSUzI1NiJ9.second"];
        assert_eq!(
            without("token eyJhbGciOiJSUzI1NiJ9.second refused", &secrets),
            "token *** refused"
        );
        assert_eq!(without("0123456789abcdef", &["0123456789", "56789abcdef"]), "***");
        assert_eq!(without("xa-a-a and xa-a", &["a-a"]), "xa-*** and xa-a");
    }
}
