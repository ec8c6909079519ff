//! The CustomResourceDefinitions of the objects.
//!
//! Derived from the types, less what only Rust means: number formats that the API server does not
//! know, and defaults of what programs write, where an empty value is none.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt as _;

use crate::{NodeCache, NodeClaim, NodePool, Prefetch};

/// All of them, in the order of their names.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut claims = NodeClaim::crd();
    for schema in schemas(&mut claims) {
        let spec = schema.properties.as_mut();
        let Some(spec) = spec.and_then(|all| all.get_mut("spec")) else {
            continue;
        };
        require(spec, &["nodePool", "offering"]);
        let offering = spec.properties.as_mut();
        if let Some(offering) = offering.and_then(|all| all.get_mut("offering")) {
            require(offering, &["instanceType", "zone", "capacityType"]);
        }
    }
    let mut all = vec![NodeCache::crd(), claims, NodePool::crd(), Prefetch::crd()];
    for crd in &mut all {
        let written_by_people = matches!(crd.spec.names.kind.as_str(), "NodePool" | "Prefetch");
        for schema in schemas(crd) {
            let defaults = match written_by_people {
                true => Defaults::OfSpec,
                false => Defaults::None,
            };
            let said = schema.properties.as_ref().and_then(|all| all.get("spec"));
            schema.description = said.and_then(|spec| spec.description.clone());
            for (name, part) in schema.properties.iter_mut().flatten() {
                clean(
                    part,
                    if name == "spec" {
                        defaults
                    } else {
                        Defaults::None
                    },
                );
            }
        }
    }
    all
}

/// Whose defaults stay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Defaults {
    /// Those that say something, in what people write.
    OfSpec,
    /// Nobody's.
    None,
}

fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    let versions = crd.spec.versions.iter_mut();
    versions.filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
}

fn require(schema: &mut JSONSchemaProps, fields: &[&str]) {
    let required = schema.required.get_or_insert_default();
    required.extend(fields.iter().map(|field| (*field).to_owned()));
}

fn clean(schema: &mut JSONSchemaProps, defaults: Defaults) {
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.default.take_if(|default| {
        let empty = default.0.is_null() || default.0.as_str() == Some("") || default.0.is_object();
        empty || defaults == Defaults::None
    });
    for part in schema
        .properties
        .iter_mut()
        .flat_map(|all| all.values_mut())
    {
        clean(part, defaults);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => clean(item, defaults),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => {
            items.iter_mut().for_each(|item| clean(item, defaults));
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        clean(value, defaults);
    }
}
