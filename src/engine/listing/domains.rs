//! The storage domains.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::{Collection, Named};
use crate::engine::json::{list, number, text};
use crate::engine::{Engine, Error};

pub(super) const DOMAINS: Collection<ListedDomain> = Collection {
    many: "storage domains",
    one: "storage domain",
    path: "/storagedomains",
    key: "storage_domain",
    parameter: "",
    has_pages: false,
    of: ListedDomain::of,
};

/// A storage domain in a list. Sizes are in bytes; the engine knows them to a GiB.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ListedDomain {
    /// The name that `--storage-domain` takes.
    pub(crate) name: String,
    pub(crate) id: String,
    /// `active`, `maintenance`, `unattached` and others.
    pub(crate) status: Option<String>,
    /// `data`, `iso`, `export` and others.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// `nfs`, `iscsi`, `fcp` and others.
    pub(crate) storage_type: Option<String>,
    pub(crate) available: Option<u64>,
    pub(crate) used: Option<u64>,
    /// The names of the data centers that it is attached to; more than one for some ISO domains only.
    pub(crate) data_centers: Vec<String>,
    #[serde(skip)]
    pub(crate) data_center_ids: Vec<String>,
}

impl Named for ListedDomain {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl ListedDomain {
    fn of(value: &Value) -> Option<ListedDomain> {
        let part = |key: &str| value.get(key).unwrap_or(&Value::Null);
        Some(ListedDomain {
            name: text(value, "name").unwrap_or_default(),
            id: text(value, "id")?,
            status: text(value, "status"),
            kind: text(value, "type"),
            storage_type: text(part("storage"), "type"),
            available: number(value, "available"),
            used: number(value, "used"),
            data_centers: Vec::new(),
            data_center_ids: list(part("data_centers"), "data_center")
                .iter()
                .filter_map(|center| text(center, "id"))
                .collect(),
        })
    }
}

impl Engine {
    /// Lists the storage domains, or those for a name.
    pub(crate) fn list_domains(&self, wanted: Option<&str>) -> Result<Vec<ListedDomain>, Error> {
        let mut domains = self.objects(&DOMAINS, wanted)?.objects;
        let centers = self.part("data centers", "/datacenters", "data_center", |center| {
            Some((text(center, "id")?, text(center, "name").unwrap_or_default()))
        })?;
        for (id, name) in centers {
            let mut here: Vec<_> = domains
                .iter_mut()
                .filter(|domain| domain.data_center_ids.contains(&id))
                .collect();
            if here.is_empty() {
                continue;
            }
            // Only below its data center a domain tells its status.
            let statuses = self.domain_statuses(&id)?;
            for domain in &mut here {
                domain.data_centers.push(name.clone());
                let status = statuses.get(&domain.id);
                domain.status = domain.status.take().or_else(|| status.cloned());
            }
        }
        for domain in &mut domains {
            domain.data_centers.sort();
        }
        Ok(domains)
    }

    /// Returns the status of each domain of a data center by its id.
    fn domain_statuses(&self, center: &str) -> Result<HashMap<String, String>, Error> {
        let path = format!("/datacenters/{center}/storagedomains");
        let what = "storage domains of the data center";
        let statuses = self.part(what, &path, "storage_domain", |domain| {
            Some((text(domain, "id")?, text(domain, "status")?))
        })?;
        Ok(statuses.into_iter().collect())
    }

    /// Returns the names of all storage domains by their ids.
    pub(super) fn domain_names(&self) -> Result<HashMap<String, String>, Error> {
        let domains = self.all(&DOMAINS)?;
        Ok(domains
            .into_iter()
            .map(|domain| (domain.id, domain.name))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_domain_is_listed_with_numbers() {
        let domain = ListedDomain::of(&json!({
            "id": "s", "name": "data", "type": "data", "storage": {"type": "nfs"},
            "available": "536870912000", "used": "0", "data_centers": {"data_center": [{"id": "c"}]}
        }));
        let domain = domain.unwrap();
        assert_eq!((domain.available, domain.used), (Some(500 << 30), Some(0)));
        assert_eq!(
            (domain.kind.as_deref(), domain.storage_type.as_deref()),
            (Some("data"), Some("nfs"))
        );
        assert_eq!(domain.data_center_ids, ["c"]);
    }
}
