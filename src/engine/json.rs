//! The conventions of the engine's JSON: numbers and booleans are strings, lists are wrapped in an object,
//! and absent values have no key (oVirt REST API 4.x, from its JAXB adapters).

use std::time::Duration;

use serde_json::Value;
use x509_cert::der::DateTime;

pub(super) fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// Reads a number that is a string or a JSON number.
pub(super) fn number(value: &Value, key: &str) -> Option<u64> {
    match value.get(key)? {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
}

/// Reads a boolean that is a string or a JSON boolean.
pub(super) fn flag(value: &Value, key: &str) -> Option<bool> {
    match value.get(key)? {
        Value::String(text) => text.parse().ok(),
        other => other.as_bool(),
    }
}

/// Reads a date, which is a number of milliseconds since 1970, as `2026-11-28T18:35:14Z`.
pub(super) fn date(value: &Value, key: &str) -> Option<String> {
    let since_1970 = Duration::from_millis(number(value, key)?);
    // Certificates have the same calendar.
    let date = DateTime::from_unix_duration(since_1970).ok()?;
    Some(date.to_string())
}

/// Returns the id of the object under `key`, as in `{"vm": {"id": ...}}`.
pub(super) fn reference(value: &Value, key: &str) -> Option<String> {
    text(value.get(key)?, "id")
}

/// Returns the elements of `{key: [...]}`; an empty list is sent as `{}`.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Returns the message of a fault, `{"reason": ..., "detail": "[...]"}`, which an action holds under `fault`.
/// The detail is a list that was formatted as a string, hence its brackets.
pub(super) fn fault(value: &Value) -> Option<String> {
    let fault = value.get("fault").unwrap_or(value);
    let reason = text(fault, "reason");
    let detail = text(fault, "detail").map(|d| d.trim_matches(['[', ']']).trim().to_owned());
    match (reason, detail.filter(|d| !d.is_empty())) {
        (Some(reason), Some(detail)) => Some(format!("{reason}: {detail}")),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_come_as_strings_and_lists_wrapped() {
        let disks = json!({"disk": [{"id": "a", "provisioned_size": "1073741824", "actual_size": 5}]});
        let disk = &list(&disks, "disk")[0];
        assert_eq!(number(disk, "provisioned_size"), Some(1 << 30));
        assert_eq!(number(disk, "actual_size"), Some(5));
        assert_eq!(number(disk, "id"), None);
        assert!(list(&json!({}), "disk").is_empty());
    }

    #[test]
    fn booleans_come_as_strings_and_dates_as_milliseconds() {
        let snapshot = json!({"a": "true", "b": false, "c": "yes", "date": 1_609_459_200_123_u64,
            "never": u64::MAX, "disk": {"id": "d"}});
        assert_eq!(
            ["a", "b", "c", "d"].map(|key| flag(&snapshot, key)),
            [Some(true), Some(false), None, None]
        );
        assert_eq!(date(&snapshot, "date").as_deref(), Some("2021-01-01T00:00:00Z"));
        assert_eq!((date(&snapshot, "a"), date(&snapshot, "never")), (None, None));
        assert_eq!(reference(&snapshot, "disk").as_deref(), Some("d"));
        assert_eq!(reference(&snapshot, "date"), None);
    }

    #[test]
    fn a_fault_says_reason_and_detail_without_brackets() {
        let words = json!({"reason": "Operation Failed", "detail": "[Cannot add Virtual Disk.]"});
        assert_eq!(
            fault(&words).unwrap(),
            "Operation Failed: Cannot add Virtual Disk."
        );
        assert_eq!(fault(&json!({"fault": {"detail": "[x]"}})).unwrap(), "x");
        assert_eq!(fault(&json!({})), None);
    }
}
