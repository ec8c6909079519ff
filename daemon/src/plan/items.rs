//! Sizes of images and models: from a person's file, else assumed and marked so.
//!
//! The file is YAML (or JSON): a list under `items:`, each with `image` or `model`, `transfer` (bytes,
//! or an amount such as `9.6G`), and for images `unpacked` and `largestLayer`.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::amount;
use headstart_core::cache::{Basis, Item, ItemSize};
use headstart_core::snapshot::Snapshot;
use serde::Deserialize;

use crate::manifest::item;

/// What an image is taken for when nobody says: 10 GB compressed, the size of the image in AWS's
/// published pull benchmark, and 20 GB unpacked. Its largest layer is taken for the largest one whose
/// inflation was published, 2.7 GiB (TensorFlow with GPU support, containerd#13559).
pub(crate) const IMAGE: ItemSize = ItemSize {
    transfer: 10_000_000_000,
    unpacked: 20_000_000_000,
    largest_layer: 27 * (1 << 30) / 10,
    basis: Basis::Assumed,
};

/// What a model is taken for when nobody says: 16 GB, the weights of 8 billion parameters in 16 bits.
pub(crate) const MODEL: ItemSize = ItemSize {
    transfer: 16_000_000_000,
    unpacked: 16_000_000_000,
    largest_layer: 0,
    basis: Basis::Assumed,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    items: Vec<serde_saphyr::Spanned<ItemForm>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ItemForm {
    image: Option<String>,
    model: Option<String>,
    transfer: Scalar,
    unpacked: Option<Scalar>,
    largest_layer: Option<Scalar>,
}

/// An amount, with or without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Bytes(u64),
    Number(f64),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// The sizes that a file states.
///
/// # Errors
/// One line per problem.
pub(crate) fn read(name: &str, text: &str) -> Result<BTreeMap<Item, ItemSize>, Vec<String>> {
    let form: Form = serde_saphyr::from_str(text).map_err(|error| {
        let said = error.without_snippet().to_string();
        let first = said.lines().next().unwrap_or_default().to_owned();
        vec![format!(
            "{name}: {first}; items stand in a list under `items:`, each with image or model, and \
             transfer"
        )]
    })?;
    let (mut sizes, mut problems) = (BTreeMap::new(), Vec::new());
    for entry in &form.items {
        let line = entry.referenced.line();
        match size(&entry.value) {
            Ok((item, size)) => {
                sizes.insert(item, size);
            }
            Err(what) => problems.push(format!("{name}, line {line}: {what}")),
        }
    }
    if problems.is_empty() {
        Ok(sizes)
    } else {
        Err(problems)
    }
}

fn size(form: &ItemForm) -> Result<(Item, ItemSize), String> {
    let amount = |field: &str, scalar: &Scalar| {
        let text = scalar.text();
        let bytes = amount::parse("size", &text).map_err(|error| format!("{field}: {error}"))?;
        u64::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| format!("{field}: {text:?} is nothing; write bytes such as 9.6G"))
    };
    let transfer = amount("transfer", &form.transfer)?;
    let optional =
        |field, scalar: &Option<Scalar>| scalar.as_ref().map(|s| amount(field, s)).transpose();
    let unpacked = optional("unpacked", &form.unpacked)?;
    let largest_layer = optional("largestLayer", &form.largest_layer)?;
    let known = |unpacked, largest_layer| ItemSize {
        transfer,
        unpacked,
        largest_layer,
        basis: Basis::Known,
    };
    match (&form.image, &form.model) {
        (Some(image), None) => {
            let item = item::image(image).map_err(|error| format!("image: {error}"))?;
            // Twice its size, as that of the image taken where nothing is said.
            let unpacked = unpacked.unwrap_or(transfer.saturating_mul(2));
            Ok((item, known(unpacked, largest_layer.unwrap_or(0))))
        }
        (None, Some(model)) => {
            if largest_layer.is_some() {
                return Err("largestLayer: a model has no layers; remove it".to_owned());
            }
            let item = item::model(model).map_err(|error| format!("model: {error}"))?;
            Ok((item, known(unpacked.unwrap_or(transfer), 0)))
        }
        _ => Err("names both or neither of image and model; write one of them".to_owned()),
    }
}

/// A size for every item that a pod of the snapshot starts with. What the file names and no pod uses
/// is dropped, with a note.
pub(crate) fn complete(
    snapshot: &Snapshot,
    mut given: BTreeMap<Item, ItemSize>,
) -> (BTreeMap<Item, ItemSize>, Vec<String>) {
    let pods = snapshot.pods.iter().map(|pod| &pod.shape);
    let shapes = pods.chain(&snapshot.daemons);
    let items: BTreeSet<&Item> = shapes.flat_map(|shape| &shape.items).collect();
    let sizes = items.into_iter().map(|item| {
        let assumed = match item {
            Item::Image { .. } => IMAGE,
            Item::Model { .. } => MODEL,
        };
        (item.clone(), given.remove(item).unwrap_or(assumed))
    });
    let sizes = sizes.collect();
    let unused = given.keys().map(super::words::item);
    let notes = unused.map(|item| format!("no pod starts with {item}, whose size was given"));
    (sizes, notes.collect())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn sizes_are_read_as_amounts() {
        let text = "items:\n- {image: 'vllm/vllm-openai:v0.8.5', transfer: 9.6G, largestLayer: 4G}\n\
                    - {model: 'hf://Qwen/Qwen3-8B', transfer: 16400000000}\n";
        let sizes = read("items.yaml", text).unwrap();
        let said: Vec<String> = sizes
            .iter()
            .map(|(item, size)| {
                let ItemSize {
                    transfer, unpacked, ..
                } = size;
                format!("{} {transfer} {unpacked}", crate::plan::words::item(item))
            })
            .collect();
        expect![[r#"
            docker.io/vllm/vllm-openai:v0.8.5 9600000000 19200000000
            hf://Qwen/Qwen3-8B 16400000000 16400000000"#]]
        .assert_eq(&said.join("\n"));
    }

    #[test]
    fn every_fault_names_its_line() {
        let said = |text| read("items.yaml", text).unwrap_err().join("\n");
        let faults = "items:\n- {image: a, transfer: none}\n- {model: a, transfer: 1G}\n\
                      - {transfer: 1G}\n- {image: a, transfer: 0}\n\
                      - {model: 'hf://a/b', transfer: 1G, largestLayer: 1G}\n";
        expect![[r#"
            items.yaml, line 2: transfer: size "none" is not a number; write it as 512Mi, 10Gi or 1
            items.yaml, line 4: names both or neither of image and model; write one of them
            items.yaml, line 5: transfer: "0" is nothing; write bytes such as 9.6G
            items.yaml, line 6: largestLayer: a model has no layers; remove it"#]]
        .assert_eq(&said(faults));
        expect!["items.yaml: unknown field `images`, expected one of items at line 1, column 1; items stand in a list under `items:`, each with image or model, and transfer"].assert_eq(&said("images: []\n"));
        expect!["items.yaml: missing field `transfer` at line 1, column 10; items stand in a list under `items:`, each with image or model, and transfer"].assert_eq(&said("items: [{image: a}]\n"));
    }
}
