//! Tells the engine's answers from those of what stands in front of it: its own web server while the
//! application is not there, a load balancer, a proxy. Only the engine can say that an object is gone or that
//! a request is refused; anything else means that the engine was not asked.
//!
//! The engine marks an error by a fault in JSON, which has a reason (BaseBackendResource), and a missing
//! object by 404 without a body. `wire` believes the latter once the root of the API has answered. Its 401
//! has a page like any web server's; `wire` logs in again, whoever sent it.

use serde_json::Value;

use super::error::Meaning;
use super::json::{fault, text};
use super::{Engine, Error};
use crate::logging::plain;
use crate::page;
use crate::secret::clean;

impl Engine {
    /// The error of an answer with an error status.
    pub(super) fn refusal(&self, what: &str, status: u16, body: &[u8]) -> Error {
        let value = serde_json::from_slice(body).ok().filter(is_fault);
        let Some(words) = value.as_ref().and_then(fault) else {
            return self.front_end(what, status, body);
        };
        Error::Fault {
            what: what.to_owned(),
            status,
            meaning: Meaning::of(status, &words),
            message: plain(&clean(words.trim_end_matches('.'))),
            correlation: self.correlation.clone(),
        }
    }

    /// The error of an answer that is not the engine's.
    pub(super) fn front_end(&self, what: &str, status: u16, body: &[u8]) -> Error {
        Error::FrontEnd {
            what: what.to_owned(),
            url: self.url().to_owned(),
            status,
            page: page::title(body).map_or(String::new(), |title| format!(" (\"{title}\")")),
        }
    }

    /// Returns the object that an answer describes, as far as `of` can read it. It must be the one with the
    /// id that was asked for: any other JSON is not the engine's.
    pub(super) fn object<T>(
        &self,
        what: &str,
        asked: &str,
        answer: Option<Value>,
        of: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = answer else { return Ok(None) };
        let same = text(&value, "id").is_some_and(|id| id.eq_ignore_ascii_case(asked));
        match of(&value).filter(|_| same) {
            Some(object) => Ok(Some(object)),
            None => Err(self.nonsense(what, format!("JSON that does not describe {asked}"))),
        }
    }

    /// Checks that an answer is a list of `key`: the engine wraps a list in an object, and sends an empty one
    /// as `{}`.
    pub(super) fn listed(&self, what: &str, key: &str, answer: Option<Value>) -> Result<Value, Error> {
        let value = answer.unwrap_or(Value::Null);
        match is_list(&value, key) {
            true => Ok(value),
            false => Err(self.nonsense(what, format!("JSON without a list of {key}"))),
        }
    }
}

/// The members that a collection may have beside its list (BaseResources).
const BESIDE_A_LIST: [&str; 5] = ["actions", "active", "link", "size", "total"];

fn is_list(value: &Value, key: &str) -> bool {
    value.as_object().is_some_and(|members| {
        let known = |name: &String| BESIDE_A_LIST.contains(&name.as_str());
        members
            .get(key)
            .map_or(members.keys().all(known), Value::is_array)
    })
}

/// Returns true if `value` is a fault of the engine. An action holds its fault as a member.
fn is_fault(value: &Value) -> bool {
    let fault = value.get("fault").unwrap_or(value);
    text(fault, "reason").is_some()
}

impl Meaning {
    /// Decides the meaning of a fault from its status and its words.
    fn of(status: u16, words: &str) -> Meaning {
        match status {
            503 => Meaning::NotPerformed,
            // "The following disks are locked", and for a moment after that "Disk X is being transferred":
            // the engine has no code for these faults.
            409 if ["locked", "is being transferred"]
                .iter()
                .any(|said| words.to_lowercase().contains(said)) =>
            {
                Meaning::Locked
            }
            _ => Meaning::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_means_what_its_status_and_its_words_say() {
        let locked = "Operation Failed: Cannot transfer image: The following disks are Locked: web01";
        for (status, words, meaning) in [
            (409, locked, Meaning::Locked),
            (
                409,
                "Cannot transfer image: Disk web01 is being transferred",
                Meaning::Locked,
            ),
            (400, locked, Meaning::Final),
            (409, "the VM is running", Meaning::Final),
            (503, "starting", Meaning::NotPerformed),
            (500, "internal error", Meaning::Final),
        ] {
            assert_eq!(Meaning::of(status, words), meaning, "{status} {words:?}");
        }
    }

    #[test]
    fn json_of_others_is_no_fault_of_the_engine() {
        assert!(is_fault(&json!({"detail": "[x]", "reason": "Operation Failed"})));
        assert!(is_fault(
            &json!({"status": "failed", "fault": {"reason": "Operation Failed"}})
        ));
        for other in [
            json!({"message": "no Route matched"}),
            json!({"detail": "Not Found"}),
            json!("x"),
            json!({}),
        ] {
            assert!(!is_fault(&other), "{other}");
        }
    }

    #[test]
    fn json_of_others_is_no_empty_list() {
        for list in [
            json!({}),
            json!({"disk": []}),
            json!({"disk": [{}], "size": "1"}),
            json!({"actions": {}}),
        ] {
            assert!(is_list(&list, "disk"), "{list}");
        }
        for other in [
            json!({"status": "starting"}),
            json!([]),
            json!(null),
            json!({"disk": "x"}),
        ] {
            assert!(!is_list(&other, "disk"), "{other}");
        }
    }
}
