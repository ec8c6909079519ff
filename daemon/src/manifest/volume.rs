//! Volumes that limit where their pod can run: through the volume that is bound, or through the class
//! that will make one.
//!
//! A claim that no server has seen yet (a manifest without a status) is taken as if its class had
//! done its work; one that a server reports as pending under an immediate class is unusable.

use headstart_core::label::{self, Expression, Operator, Term};
use headstart_core::pod::{ObjectKey, Volume};
use k8s_openapi::api::core::v1 as core;

use super::alias;
use super::cluster::Cluster;
use super::finding::{Subject, quoted};
use super::select;

/// Whose volumes are read.
pub(crate) struct Holder<'a> {
    pub(crate) namespace: &'a str,
    /// The pod's name, if it has one: generic ephemeral volumes are named after it.
    pub(crate) pod: &'a str,
    /// Claims that a StatefulSet makes for the pod: by name of the volume.
    pub(crate) templates: &'a [core::PersistentVolumeClaim],
}

/// Volumes of a pod that limit where it can run.
pub(crate) fn of_pod(
    spec: &core::PodSpec,
    holder: &Holder<'_>,
    cluster: &Cluster<'_>,
    subject: &Subject<'_>,
) -> Vec<Volume> {
    let mut volumes = Vec::new();
    let templated = |name: &str| {
        let named =
            |claim: &&core::PersistentVolumeClaim| claim.metadata.name.as_deref() == Some(name);
        holder.templates.iter().find(named)
    };
    let mut add = |name: &str, spec: Option<&core::PersistentVolumeClaimSpec>, at: &Subject<'_>| {
        let key = ObjectKey::new(holder.namespace, name);
        match cluster.claims.get(&(holder.namespace, name)) {
            Some(claim) => volumes.extend(claimed(key, claim, cluster, at)),
            None => match spec {
                Some(spec) => volumes.extend(to_be_made(key, spec, Birth::NotYet, cluster, at)),
                None => at.note(format!(
                    "the claim {} is not among the files; it is taken as usable on every node",
                    quoted(name)
                )),
            },
        }
    };
    for template in holder.templates {
        let volume = template.metadata.name.as_deref().unwrap_or_default();
        let at = subject.at("volumeClaimTemplates").at(volume);
        add(
            &format!("{volume}-{}", holder.pod),
            template.spec.as_ref(),
            &at,
        );
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = subject.at("volumes").nth(index);
        if templated(&volume.name).is_some() {
            // The claim that the StatefulSet makes takes the place of a volume of the same name.
            continue;
        }
        if let Some(source) = &volume.persistent_volume_claim {
            add(&source.claim_name, None, &at);
        }
        if let Some(template) = volume
            .ephemeral
            .as_ref()
            .and_then(|e| e.volume_claim_template.as_ref())
        {
            let name = format!("{}-{}", holder.pod, volume.name);
            add(&name, Some(&template.spec), &at);
        }
    }
    volumes.sort();
    volumes.dedup();
    volumes
}

/// Whether a server has seen the claim.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Birth {
    /// It has, and has not bound it.
    Pending,
    /// It has not.
    NotYet,
}

fn unusable(claim: ObjectKey, why: &str) -> Volume {
    Volume {
        claim,
        driver: String::new(),
        node_affinity: Vec::new(),
        unusable: Some(why.to_owned()),
    }
}

/// The volume of a claim that is among the files.
fn claimed(
    key: ObjectKey,
    claim: &core::PersistentVolumeClaim,
    cluster: &Cluster<'_>,
    subject: &Subject<'_>,
) -> Option<Volume> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Some(unusable(key, "its claim is being deleted"));
    }
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if phase == Some("Lost") {
        return Some(unusable(key, "its claim has lost its volume"));
    }
    let nothing = core::PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&nothing);
    let bound = spec.volume_name.as_deref().filter(|name| !name.is_empty());
    let Some(name) = bound else {
        let birth = match phase {
            Some("Pending") => Birth::Pending,
            _ => Birth::NotYet,
        };
        return to_be_made(key, spec, birth, cluster, subject);
    };
    let Some(volume) = cluster.volumes.get(name) else {
        let name = quoted(name);
        subject.note(format!(
            "the volume {name} is not among the files; it is taken as usable on every node"
        ));
        return None;
    };
    Some(bound_to(key, volume, subject))
}

/// A claim that is bound.
fn bound_to(claim: ObjectKey, volume: &core::PersistentVolume, subject: &Subject<'_>) -> Volume {
    let nothing = core::PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&nothing);
    let required = spec
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required.as_ref());
    let mut terms: Vec<Term> = required
        .into_iter()
        .flat_map(|selector| &selector.node_selector_terms)
        .map(|term| select::node_term(term, subject))
        .collect();
    let is_local = spec.local.is_some() || spec.host_path.is_some();
    if is_local {
        // Its host will be gone when the pod moves to a new node: only the rest can be asked of one.
        for term in &mut terms {
            term.0
                .retain(|expression| expression.key != label::HOSTNAME);
        }
        if terms.iter().any(|term| term.0.is_empty()) {
            terms.clear();
        }
    }
    // Before volumes had node affinity, their zone was a label, several zones joined by "__".
    for (key, value) in volume.metadata.labels.iter().flatten() {
        let key = alias::key(key);
        if (key == label::ZONE || key == label::REGION) && terms.is_empty() {
            let values = value.split("__").map(str::to_owned).collect();
            terms.push(Term(vec![Expression {
                key: key.to_owned(),
                operator: Operator::In,
                values,
            }]));
        }
    }
    let in_tree = [
        (spec.aws_elastic_block_store.is_some(), "ebs.csi.aws.com"),
        (spec.gce_persistent_disk.is_some(), "pd.csi.storage.gke.io"),
        (spec.azure_disk.is_some(), "disk.csi.azure.com"),
    ];
    let driver = match &spec.csi {
        Some(csi) => csi.driver.as_str(),
        None => in_tree
            .iter()
            .find(|(is, _)| *is)
            .map_or("", |(_, driver)| driver),
    };
    Volume {
        claim,
        driver: driver.to_owned(),
        node_affinity: terms,
        unusable: None,
    }
}

/// A claim whose volume does not exist yet.
fn to_be_made(
    claim: ObjectKey,
    spec: &core::PersistentVolumeClaimSpec,
    birth: Birth,
    cluster: &Cluster<'_>,
    subject: &Subject<'_>,
) -> Option<Volume> {
    let name = spec.storage_class_name.as_deref().or(cluster.default_class);
    if name == Some("") {
        return match birth {
            Birth::Pending => Some(unusable(claim, "its claim has no class and no volume")),
            Birth::NotYet => {
                subject.note("the claim has no class; it is taken as usable on every node");
                None
            }
        };
    }
    let class = name.and_then(|name| cluster.classes.get(name));
    let Some(class) = class else {
        subject.note(format!(
            "the storage class {} is not among the files; the volume is taken as usable on every node",
            quoted(name.unwrap_or("that is the default"))
        ));
        return None;
    };
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if !waits && birth == Birth::Pending {
        return Some(unusable(
            claim,
            "its claim is not bound, and its class binds at once",
        ));
    }
    let node_affinity = class
        .allowed_topologies
        .iter()
        .flatten()
        .map(|topology| {
            let expressions = topology.match_label_expressions.iter().flatten();
            Term(
                expressions
                    .map(|asked| {
                        alias::expression(Expression {
                            key: asked.key.clone(),
                            operator: Operator::In,
                            values: asked.values.clone(),
                        })
                    })
                    .collect(),
            )
        })
        .collect();
    let driver = match class.provisioner.as_str() {
        "kubernetes.io/no-provisioner" => "",
        "kubernetes.io/aws-ebs" => "ebs.csi.aws.com",
        "kubernetes.io/gce-pd" => "pd.csi.storage.gke.io",
        "kubernetes.io/azure-disk" => "disk.csi.azure.com",
        driver => driver,
    };
    Some(Volume {
        claim,
        driver: driver.to_owned(),
        node_affinity,
        unusable: None,
    })
}
