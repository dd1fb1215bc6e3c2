//! Storage domains: their names, and the data centers that they are attached to.

use serde_json::Value;

use super::address::{query, quoted};
use super::json::{list, text};
use super::{Engine, Error};

impl Engine {
    /// Returns the name of the storage domain with this id, if the engine tells it.
    pub(crate) fn storage_domain_name(&self, id: &str) -> Option<String> {
        let found = self
            .get("storage domain", &format!("/storagedomains/{id}"))
            .ok()
            .flatten();
        found.as_ref().and_then(|domain| text(domain, "name"))
    }

    /// Checks that a storage domain with this name exists and is attached. The error lists the existing ones.
    pub(super) fn check_storage_domain(&self, name: &str) -> Result<(), Error> {
        let path = format!(
            "{}&case_sensitive=true",
            query("/storagedomains", &format!("name={}", quoted(name)))
        );
        let what = "search for the storage domain";
        let found = self.listed(what, "storage_domain", self.get(what, &path)?)?;
        let names = |value: &Value| -> Vec<String> {
            list(value, "storage_domain")
                .iter()
                .filter_map(|d| text(d, "name"))
                .collect()
        };
        if !names(&found).iter().any(|n| n == name) {
            let all = self
                .get("storage domains", "/storagedomains")?
                .unwrap_or_default();
            return Err(Error::Unfit(format!(
                "no storage domain {name} on {}: there are {}",
                self.url(),
                names(&all).join(", ")
            )));
        }
        match self.data_center(name)? {
            Some(_) => Ok(()),
            None => Err(Error::Unfit(format!(
                "storage domain {name} is not attached to a data center; attach it, or take another one"
            ))),
        }
    }

    /// Returns the name of the data center that a storage domain is attached to.
    pub(super) fn data_center(&self, storage_domain: &str) -> Result<Option<String>, Error> {
        let search = format!("storage.name={}", quoted(storage_domain));
        let what = "search for the data center";
        let centers = self.listed(
            what,
            "data_center",
            self.get(what, &query("/datacenters", &search))?,
        )?;
        Ok(list(&centers, "data_center")
            .first()
            .and_then(|center| text(center, "name")))
    }
}
