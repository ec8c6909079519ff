//! What a pool says of its fake machines, in `spec.provider`.

use headstart_api::Span;
use headstart_core::offer::OfferingKey;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Refusal;

/// `spec.provider` of a pool. Times count from a Node's creation.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Settings {
    /// When it is Ready; as the catalog has it when not given.
    pub(super) ready_after: Option<Span>,
    /// When its GPUs can be allocated, not before it is Ready; as the catalog has it when not given.
    pub(super) gpus_after: Option<Span>,
    /// When a spot node is interrupted; never when not given.
    pub(super) interrupt_after: Option<Span>,
    /// From the interruption until the Node is taken away; two minutes when not given.
    pub(super) notice: Option<Span>,
    /// What runs out. Every rule that names an offering holds for it.
    pub(super) capacity: Vec<Rule>,
}

/// How many nodes there may be of some offerings, over all pools. What is not named is any.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Rule {
    /// Name of the type.
    pub(super) instance_type: Option<String>,
    /// Zone.
    pub(super) zone: Option<String>,
    /// `spot`, `on-demand` or `reserved`.
    pub(super) capacity_type: Option<String>,
    /// That many; none when not given.
    pub(super) nodes: u32,
}

impl Settings {
    /// Reads them; the refusal names the field.
    pub(super) fn read(written: &Map<String, Value>) -> Result<Self, Refusal> {
        let value = Value::Object(written.clone());
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let field = match path.as_str() {
                "." => "spec.provider".to_owned(),
                path => format!("spec.provider.{path}"),
            };
            Refusal::Misconfigured {
                field,
                said: error.inner().to_string(),
            }
        })
    }

    /// The rules that name an offering.
    pub(super) fn rules(&self, offering: &OfferingKey) -> impl Iterator<Item = &Rule> {
        self.capacity.iter().filter(|rule| rule.names(offering))
    }
}

impl Rule {
    fn names(&self, offering: &OfferingKey) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        is(&self.instance_type, &offering.instance_type)
            && is(&self.zone, &offering.zone)
            && is(&self.capacity_type, offering.capacity_type.as_str())
    }
}
