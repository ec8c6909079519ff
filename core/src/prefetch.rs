//! What each node should fetch, in which order, from where; and what it should not, and why.

mod needs;

pub(crate) use needs::is_believable;
pub use needs::{Needs, missing, trusted};

#[cfg(test)]
pub(crate) mod tests {
    use crate::amount::Resources;
    use crate::cache::{Basis, Item, ItemSize, Pin};
    use crate::digest::Sha256;
    use crate::label::{self, Labels};
    use crate::money::Millis;
    use crate::node::{Node, NodeDisruption, NodeState};
    use crate::offer::Rates;

    pub(crate) fn image(n: u8) -> Item {
        Item::Image {
            repository: "registry.example/engine".to_owned(),
            pin: Pin::To(Sha256([n; 32])),
        }
    }

    pub(crate) fn model(n: u8) -> Item {
        Item::Model {
            repo: "org/model".parse().unwrap(),
            pin: Pin::To(format!("{n:040x}").parse().unwrap()),
            files: String::new(),
        }
    }

    pub(crate) fn unresolved() -> Item {
        Item::Model {
            repo: "org/model".parse().unwrap(),
            pin: Pin::Name("main".to_owned()),
            files: String::new(),
        }
    }

    pub(crate) fn size(transfer: u64, unpacked: u64, largest_layer: u64) -> ItemSize {
        ItemSize {
            transfer,
            unpacked,
            largest_layer,
            basis: Basis::Known,
        }
    }

    /// A running node of unknown origin with nothing on it.
    pub(crate) fn node(name: &str, zone: &str) -> Node {
        Node {
            name: name.to_owned(),
            labels: Labels::from([
                (label::ZONE.to_owned(), zone.to_owned()),
                (label::HOSTNAME.to_owned(), name.to_owned()),
            ]),
            taints: Vec::new(),
            startup_taints: Vec::new(),
            allocatable: Resources::new(),
            volume_limits: std::collections::BTreeMap::new(),
            state: NodeState::Running,
            pool: None,
            offering: None,
            price: None,
            rates: Rates::default(),
            created: Millis(0),
            disruption: NodeDisruption::default(),
        }
    }
}
