//! Resources by number.

use std::collections::HashMap;

use crate::amount::{self, Resources};

/// Names of resources as small integers. The first three are fixed.
#[derive(Clone, Debug)]
pub(crate) struct Dims {
    names: Vec<String>,
    index: HashMap<String, usize>,
}

pub(crate) const CPU: usize = 0;
pub(crate) const MEMORY: usize = 1;
pub(crate) const PODS: usize = 2;

impl Dims {
    pub(crate) fn new() -> Self {
        let mut dims = Self {
            names: Vec::new(),
            index: HashMap::new(),
        };
        for name in [amount::CPU, amount::MEMORY, amount::PODS] {
            dims.intern(name);
        }
        dims
    }

    pub(crate) fn intern(&mut self, name: &str) -> usize {
        if let Some(index) = self.index.get(name) {
            return *index;
        }
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), self.names.len() - 1);
        self.names.len() - 1
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, dim: usize) -> &str {
        &self.names[dim]
    }

    /// The amounts of the resources that are known here; others interest nobody.
    pub(crate) fn row(&self, resources: &Resources) -> Box<[i64]> {
        self.names.iter().map(|name| resources.of(name)).collect()
    }

    /// What one pod with these requests takes. It is one pod, whatever it says of that.
    pub(crate) fn asks(&self, requests: &Resources) -> Box<[i64]> {
        let mut row = self.row(requests);
        row[PODS] = 1;
        row
    }
}
