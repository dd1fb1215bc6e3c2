//! The conventions of the engine's JSON: numbers and booleans are strings, lists are wrapped in an object,
//! and absent values have no key (oVirt REST API 4.x, from its JAXB adapters).

use serde_json::Value;

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
