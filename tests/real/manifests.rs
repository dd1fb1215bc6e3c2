//! The manifests in `packaging/kubernetes` are what Kubernetes takes, by its own schemas, and keep the rules
//! of a locked-down namespace; the image runs as they say.

use std::fs;
use std::process::Command;

use crate::support::run::{run, scratch, text, top};

/// Reads every manifest. Those of Kubernetes' own kinds are compared with its schemas; the others with what
/// their definitions (CRDs) have, by facts of forklift and of the data source validator. No field that is in
/// neither is taken.
const CHECK: &str = r#"
import copy, pathlib, sys
import jsonschema, kubernetes_validate, yaml

VERSIONS = ("1.25.0", kubernetes_validate.latest_version())

def closed(required, **properties):
    return {
        "type": "object", "additionalProperties": False, "required": required, "properties": properties
    }

TEXT = {"type": "string", "minLength": 1}
def kind(version, name, required, **properties):
    meta = closed(["name"], name=TEXT, namespace=TEXT)
    return closed(
        ["apiVersion", "kind", "metadata", *required],
        apiVersion={"const": version}, kind={"const": name}, metadata=meta, **properties,
    )

FORKLIFT = "forklift.konveyor.io/v1beta1"
OTHERS = [
    kind(FORKLIFT, "ForkliftController", ["spec"], spec=closed([], populator_ovirt_image_fqin=TEXT)),
    kind(
        FORKLIFT, "OvirtVolumePopulator", ["spec"],
        spec=closed(
            ["engineUrl", "engineSecretName", "diskId"], engineUrl=TEXT, engineSecretName=TEXT, diskId=TEXT
        ),
    ),
    kind(
        "populator.storage.k8s.io/v1beta1", "VolumePopulator", ["sourceKind"],
        sourceKind=closed(["group", "kind"], group=TEXT, kind=TEXT),
    ),
]
OTHER_KINDS = {one["properties"]["kind"]["const"]: one for one in OTHERS}

# The Deployment that the patch is for, as far as a patch by containers' names sees it.
DEPLOYMENT = {
    "apiVersion": "apps/v1", "kind": "Deployment",
    "metadata": {"name": "forklift-volume-populator-controller", "namespace": "konveyor-forklift"},
    "spec": {
        "selector": {"matchLabels": {"app": "forklift"}},
        "template": {
            "metadata": {"labels": {"app": "forklift"}},
            "spec": {"containers": [
                {"name": "forklift-populator-controller", "image": "controller",
                 "env": [{"name": "OVIRT_POPULATOR_IMAGE", "value": "the original"}]}
            ]},
        },
    },
}

def patched(patch):
    result = copy.deepcopy(DEPLOYMENT)
    [container] = result["spec"]["template"]["spec"]["containers"]
    [change] = patch["spec"]["template"]["spec"].pop("containers")
    assert change.pop("name") == container["name"]
    for variable in change.pop("env"):
        [known] = [one for one in container["env"] if one["name"] == variable["name"]]
        known.update(variable)
    assert change == {} and patch == {"spec": {"template": {"spec": {}}}}, (change, patch)
    return result

def check(document):
    if document["kind"] in OTHER_KINDS:
        jsonschema.validate(document, OTHER_KINDS[document["kind"]])
        return
    # A bound on the attempts of one index came with 1.29.
    by_index = "backoffLimitPerIndex" in document.get("spec", {})
    for version in ("1.29.0", VERSIONS[1]) if by_index else VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)

def refused(document):
    try:
        check(document)
    except Exception:
        return True
    return False

def misspelt(value):
    """Yields the document with the last letter of one name missing, for each name that a schema knows."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        inner = value[key]
        names = ("spec", "containers", "dataSourceRef", "engineUrl", "sourceKind")
        if isinstance(value, dict) and key in names:
            other = {(name[:-1] if name == key else name): one for name, one in value.items()}
            yield other
        if isinstance(inner, (dict, list)):
            for other in misspelt(inner):
                result = copy.copy(value)
                result[key] = other
                yield result

kinds, images = [], set()
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml")):
    for document in yaml.safe_load_all(path.read_text()):
        if path.name == "deployment-patch.yaml":
            document = patched(document)
            [container] = document["spec"]["template"]["spec"]["containers"]
            images.update(one["value"] for one in container["env"])
        try:
            check(document)
        except Exception as error:
            sys.exit(f"{path.name}: {document['kind']}: {str(error)[:2000]}")
        for other in misspelt(document):
            assert refused(other), (path.name, "a misspelt name is taken", other)
        kinds.append(document["kind"])
        if document["kind"] == "ForkliftController":
            images.add(document["spec"]["populator_ovirt_image_fqin"])
        if document["kind"] == "Job":
            pod = document["spec"]["template"]["spec"]
            assert pod["restartPolicy"] == "Never", path.name
            security = pod["securityContext"]
            assert security["runAsNonRoot"] and security["fsGroup"] == 107, path.name
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}, path.name
            [container] = pod["containers"]
            images.add(container["image"])
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsUser": 107,
                "capabilities": {"drop": ["ALL"]},
            }, path.name
            volumes = {volume["name"] for volume in pod["volumes"]}
            mounts = container.get("volumeMounts", []) + container.get("volumeDevices", [])
            assert {mount["name"] for mount in mounts} == volumes, path.name
            # A line of a list has to be looked up first.
            indexed = document["spec"].get("completionMode") == "Indexed"
            assert indexed or "command" not in container, "the entry point is the image's"
assert len(images) == 1, images
print(*sorted(set(kinds)))
"#;

#[test]
fn kubernetes_takes_every_manifest_and_no_job_asks_for_a_privilege() {
    let dir = scratch();
    let script = dir.path().join("check.py");
    fs::write(&script, CHECK).expect("write the script");
    let mut python = Command::new(top().join("target/venv/bin/python"));
    python.arg(&script).arg(top().join("packaging/kubernetes"));
    let ran = run(&mut python, 120).ok();
    let kinds = "ConfigMap Deployment ForkliftController Job OvirtVolumePopulator PersistentVolumeClaim \
                 Secret VolumePopulator";
    assert_eq!(ran.stdout.trim(), kinds, "{ran}");
}

/// Docker is not needed for this, and is not there where the tests run.
#[test]
fn the_image_of_pods_is_an_ordinary_users_and_takes_arguments_without_a_command() {
    let file = text(&top().join("packaging/Containerfile"));
    let lines: Vec<&str> = file.lines().filter(|line| !line.starts_with('#')).collect();
    let last_stage = lines
        .iter()
        .rposition(|line| line.starts_with("FROM "))
        .expect("a stage");
    assert_eq!(lines[last_stage], "FROM program AS pod");
    assert_eq!(lines.last(), Some(&"USER 107:107"));
    let entry = lines.iter().filter(|line| line.starts_with("ENTRYPOINT"));
    assert_eq!(
        entry.collect::<Vec<_>>(),
        [&r#"ENTRYPOINT ["/usr/bin/rhv-mount"]"#]
    );
    assert!(lines.contains(&"RUN ln -s /usr/bin/rhv-mount /usr/local/bin/ovirt-populator"));
}
