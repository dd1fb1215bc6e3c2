//! A restore has to know these before it makes anything: which VMs are there, and the cluster and the storage
//! domains that it is to use. Afterwards it asks which disks the new VM has.

use serde_json::Value;

use super::domains::{DOMAINS, ListedDomain};
use super::vms::{ListedVm, VMS};
use super::{Collection, Named, is_searchable};
use crate::engine::address::quoted;
use crate::engine::json::{reference, text};
use crate::engine::{Engine, Error};
use crate::logging::plain;

const CLUSTERS: Collection<Cluster> = Collection {
    many: "clusters",
    one: "cluster",
    path: "/clusters",
    key: "cluster",
    parameter: "",
    has_pages: false,
    of: Cluster::of,
};

/// A cluster, in which a VM runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The id of its data center.
    pub(crate) data_center: Option<String>,
}

impl Named for Cluster {
    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Cluster {
    fn of(value: &Value) -> Option<Cluster> {
        Some(Cluster {
            id: text(value, "id")?,
            name: text(value, "name").unwrap_or_default(),
            data_center: reference(value, "data_center"),
        })
    }
}

impl Engine {
    pub(crate) fn vm_with_id(&self, id: &str) -> Result<Option<ListedVm>, Error> {
        self.by_id(&VMS, id)
    }

    /// Returns the VMs with this name, whatever their ids are.
    pub(crate) fn vms_named(&self, name: &str) -> Result<Vec<ListedVm>, Error> {
        let search = is_searchable(name).then(|| format!("name={}", quoted(name)));
        let mut found = self.collect(&VMS, search.as_deref())?;
        found.retain(|vm| vm.name == name);
        Ok(found)
    }

    /// Returns the cluster with this name or id. The error lists those that there are.
    pub(crate) fn cluster(&self, wanted: &str) -> Result<Cluster, Error> {
        self.the_one(&CLUSTERS, wanted)
    }

    /// Returns the cluster with this name or id, if there is one.
    pub(crate) fn known_cluster(&self, wanted: &str) -> Result<Option<Cluster>, Error> {
        let found = self.named(&CLUSTERS, wanted)?;
        Ok(found.objects.into_iter().next().filter(|_| found.exactly))
    }

    /// Returns words about the clusters that there are.
    pub(crate) fn clusters_shown(&self) -> String {
        self.what_there_is(&CLUSTERS)
    }

    /// Returns the storage domain with this name or id, on which disks can be made. The error lists those
    /// that there are.
    pub(crate) fn domain_for_disks(&self, wanted: &str) -> Result<ListedDomain, Error> {
        let domain = self.the_one(&DOMAINS, wanted)?;
        self.check_storage_domain(&domain.name)?;
        Ok(domain)
    }

    /// Returns the storage domain with this id, if there is one.
    pub(crate) fn domain_with_id(&self, id: &str) -> Result<Option<ListedDomain>, Error> {
        self.by_id(&DOMAINS, id)
    }

    /// Returns words about the storage domains that there are.
    pub(crate) fn domains_shown(&self) -> String {
        self.what_there_is(&DOMAINS)
    }

    /// Returns the ids of the disks that a VM has.
    pub(crate) fn disks_of_vm(&self, vm: &str) -> Result<Vec<String>, Error> {
        let path = format!("/vms/{vm}/diskattachments");
        self.part("disks of the VM", &path, "disk_attachment", |attachment| {
            reference(attachment, "disk").or_else(|| text(attachment, "id"))
        })
    }

    fn the_one<T: Named>(&self, collection: &Collection<T>, wanted: &str) -> Result<T, Error> {
        let found = self.named(collection, wanted)?;
        let mut same = match found.exactly {
            true => found.objects,
            false => Vec::new(),
        };
        match (same.pop(), same.len()) {
            (Some(one), 0) => Ok(one),
            (Some(one), _) => {
                same.push(one);
                let ids: Vec<&str> = same.iter().map(Named::id).collect();
                Err(Error::Unfit(plain(&format!(
                    "{} {} are named {wanted}: {}; take one of these ids",
                    same.len(),
                    collection.many,
                    ids.join(", ")
                ))))
            }
            (None, _) => Err(Error::Unfit(plain(&format!(
                "no {} {wanted} on {}: {}",
                collection.one,
                self.url(),
                self.what_there_is(collection)
            )))),
        }
    }
}
