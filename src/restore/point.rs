//! The point in time that the user means: the newest, or one by its time, by the beginning of that, by a
//! checkpoint, or by the name of its manifest. Where it may be several, or none, all are named.

use std::collections::BTreeMap;

use crate::backup::Point;

/// Upper bound on the points in a message; the newest ones are named.
const MAX_NAMED: usize = 20;

/// Chooses among the points of a directory, of which there is at least one, the oldest first. `vm` is the
/// name or the id of the VM that was backed up. An error says which there are. A point of a time after `now`
/// is chosen by its name only: the clock was wrong, so that an older one may be the newest.
pub(super) fn choose<'a>(
    points: &'a [Point],
    vm: Option<&str>,
    wanted: Option<&str>,
    now: &str,
) -> Result<&'a Point, String> {
    let points = of_vm(points, vm, wanted.is_some())?;
    let Some(wanted) = wanted else {
        let newest = points.last().ok_or_else(|| "it has no points".to_owned())?;
        return match newest.time.as_str() > now {
            false => Ok(newest),
            true => Err(format!(
                "which backup is the newest can't be told, as one is of {}, which is yet to come: the clock \
                 was wrong then, or is now; set it, or name a point with --point: {}",
                newest.time,
                shown(&points)
            )),
        };
    };
    let exact = |point: &&&Point| {
        point.time == wanted
            || point.manifests.iter().any(|name| name == wanted)
            || point.checkpoints.iter().any(|id| id.eq_ignore_ascii_case(wanted))
    };
    let beginning = wanted.trim_end_matches('Z').replace(' ', "T");
    let begins = |point: &&&Point| !beginning.is_empty() && point.time.starts_with(&beginning);
    let mut found: Vec<&Point> = points.iter().filter(exact).copied().collect();
    if found.is_empty() {
        found = points.iter().filter(begins).copied().collect();
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("no point {wanted}; there are {}", shown(&points))),
        several => Err(format!(
            "{} points may be meant with {wanted}: {}",
            several.len(),
            shown(several)
        )),
    }
}

/// Returns the points of one VM. Those of all are taken where nothing names a VM, and `any` is set.
fn of_vm<'a>(points: &'a [Point], vm: Option<&str>, any: bool) -> Result<Vec<&'a Point>, String> {
    let mut vms: BTreeMap<&str, &str> = BTreeMap::new();
    for point in points {
        vms.insert(&point.vm_id, &point.vm_name);
    }
    let list = |vms: &BTreeMap<&str, &str>| {
        let vms: Vec<String> = vms.iter().map(|(id, name)| format!("{name} ({id})")).collect();
        vms.join(", ")
    };
    let mut meant = vms.clone();
    match vm {
        Some(vm) => {
            let has_name = |id: &str| {
                let mut points = points.iter();
                points.any(|point| point.vm_id == id && point.vm_name == vm)
            };
            meant.retain(|id, _| id.eq_ignore_ascii_case(vm) || has_name(id));
            match meant.len() {
                0 => return Err(format!("it has no backup of a VM {vm}, but of {}", list(&vms))),
                1 => {}
                _ => {
                    return Err(format!(
                        "several VMs had the name {vm}; take --vm with one of these ids: {}",
                        list(&meant)
                    ));
                }
            }
        }
        None if meant.len() > 1 && !any => {
            return Err(format!(
                "it has backups of several VMs; name one with --vm: {}",
                list(&vms)
            ));
        }
        None => {}
    }
    Ok(points
        .iter()
        .filter(|point| meant.contains_key(point.vm_id.as_str()))
        .collect())
}

fn shown(points: &[&Point]) -> String {
    let more = points.len().saturating_sub(MAX_NAMED);
    let one = |point: &&Point| {
        format!(
            "{} (VM {}, checkpoint {}, {})",
            point.time,
            point.vm_name,
            point.checkpoints.first().map_or("none", String::as_str),
            point.manifests.join(" and ")
        )
    };
    let mut all: Vec<String> = points[more..].iter().map(one).collect();
    if more > 0 {
        all.insert(0, format!("{more} older ones"));
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::two_points;

    const NOW: &str = "2026-12-01T00:00:00.000Z";

    #[test]
    fn a_point_is_found_by_its_time_its_beginning_its_checkpoint_and_its_manifest() {
        let points = two_points();
        let of = |wanted: &str| choose(&points, None, Some(wanted), NOW).map(|point| point.time.clone());
        for (wanted, n) in [
            ("2026-11-29T08:35:01.250Z", 0),
            ("2026-11-29T08:35:01Z", 0),
            ("2026-11-29", 0),
            ("2026-11-30 08:35", 1),
            ("c2", 1),
            ("C1", 0),
            ("2.manifest.json", 1),
        ] {
            assert_eq!(of(wanted).as_ref(), Ok(&points[n].time), "{wanted}");
        }
        assert_eq!(choose(&points, None, None, NOW).unwrap().time, points[1].time);
    }

    #[test]
    fn nothing_and_several_are_errors_that_name_the_points() {
        let points = two_points();
        for wanted in ["2026-11", "2025", "", "c", "nothing"] {
            let why = choose(&points, None, Some(wanted), NOW).unwrap_err();
            assert!(
                why.contains(&points[0].time) && why.contains("2.manifest.json"),
                "{why}"
            );
        }
        let why = choose(&points, None, Some("2026-11"), NOW).unwrap_err();
        assert!(why.contains("2 points may be meant"), "{why}");
    }

    /// A run whose clock was ahead looks newer than those after it.
    #[test]
    fn a_point_that_is_yet_to_come_is_the_newest_only_where_it_is_named() {
        let points = two_points();
        let now = "2026-11-30T08:35:01.999Z";
        let why = choose(&points, None, None, now).unwrap_err();
        for words in [
            points[0].time.as_str(),
            points[1].time.as_str(),
            "yet to come",
            "--point",
        ] {
            assert!(why.contains(words), "{words}: {why}");
        }
        let named = choose(&points, None, Some("c2"), now).unwrap();
        assert_eq!(named.time, points[1].time);
        assert_eq!(
            choose(&points[..1], None, None, now).unwrap().time,
            points[0].time
        );
    }

    #[test]
    fn points_of_several_vms_are_not_mixed() {
        let mut points = two_points();
        points[1].vm_id = "w".into();
        points[1].vm_name = "db".into();
        let newest = |vm: Option<&str>| choose(&points, vm, None, NOW).map(|point| point.vm_id.clone());
        assert!(newest(None).unwrap_err().contains("--vm"));
        assert_eq!(newest(Some("web")).as_deref(), Ok("v"));
        assert_eq!(newest(Some("W")).as_deref(), Ok("w"));
        assert!(newest(Some("mail")).unwrap_err().contains("web (v)"));
        let of_point = choose(&points, None, Some("c2"), NOW).unwrap();
        assert_eq!(of_point.vm_name, "db");
        assert!(choose(&points, Some("web"), Some("c2"), NOW).is_err());
        // The VM was made anew under the name that it had.
        points[1].vm_name = "web".into();
        let why = choose(&points, Some("web"), None, NOW).unwrap_err();
        assert!(why.contains("one of these ids"), "{why}");
    }
}
