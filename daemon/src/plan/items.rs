//! Sizes of images and models: from a person's file, else assumed and marked so.
//!
//! The file is YAML (or JSON): a list under `items:`, each with `image` or `model`, `transfer` (bytes,
//! or an amount such as `9.6G`), for images `unpacked` and `largestLayer`, and what the name stands
//! for now: `digest` of an image, `commit` of a model. Only what is resolved can be a hit in a cache.

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

/// What a model is taken for when neither somebody nor its name says: 16 GB, the weights of 8 billion
/// parameters in 16 bits.
pub(crate) const MODEL: ItemSize = ItemSize {
    transfer: 16_000_000_000,
    unpacked: 16_000_000_000,
    largest_layer: 0,
    basis: Basis::Assumed,
};

/// What an item is taken for when nobody says.
pub(crate) fn assumed(item: &Item) -> ItemSize {
    match item {
        Item::Image { .. } => IMAGE,
        Item::Model { repo, .. } => model_of_name(&repo.to_string()),
    }
}

/// What a model of this name is taken for: names state parameters (`Llama-3.1-70B`, `Mixtral-8x7B`),
/// which have 16 bits each unless the name says that they have 8 or 4.
fn model_of_name(name: &str) -> ItemSize {
    let lower = name.to_ascii_lowercase();
    let words: Vec<&str> = lower.split(['-', '_', '/']).collect();
    let Some(billions) = words.iter().find_map(|word| billions(word)) else {
        return MODEL;
    };
    let says = |marks: &[&str]| marks.iter().any(|mark| lower.contains(mark));
    let bytes_each = if says(&["int4", "4bit", "awq", "gptq", "fp4", "w4a16"]) {
        0.5
    } else if says(&["fp8", "int8", "8bit", "w8a8"]) {
        1.0
    } else {
        2.0
    };
    let bytes = (billions * bytes_each * 1e9) as u64;
    ItemSize {
        transfer: bytes,
        unpacked: bytes,
        ..MODEL
    }
}

/// `70b`, `1.5b` or `8x7b` in billions; nothing beyond what exists.
fn billions(word: &str) -> Option<f64> {
    let number = word.strip_suffix('b')?;
    let mut product = number.split('x').map(|factor| factor.parse::<f64>().ok());
    let billions = product.try_fold(1.0, |product, factor| Some(product * factor?))?;
    (0.01..=10_000.0).contains(&billions).then_some(billions)
}

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
    digest: Option<String>,
    commit: Option<String>,
}

/// What a file says of items.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Given {
    /// Sizes.
    pub(crate) sizes: BTreeMap<Item, ItemSize>,
    /// What names stand for: the same item, pinned.
    pub(crate) pinned: BTreeMap<Item, Item>,
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
pub(crate) fn read(name: &str, text: &str) -> Result<Given, Vec<String>> {
    let form: Form = serde_saphyr::from_str(text).map_err(|error| {
        let said = error.without_snippet().to_string();
        let first = said.lines().next().unwrap_or_default().to_owned();
        vec![format!(
            "{name}: {first}; items stand in a list under `items:`, each with image or model, and \
             transfer"
        )]
    })?;
    let (mut given, mut problems) = (Given::default(), Vec::new());
    for entry in &form.items {
        let line = entry.referenced.line();
        let read = size(&entry.value).and_then(|sized| Ok((sized, pin(&entry.value)?)));
        match read {
            Ok(((item, size), pinned)) => {
                if let Some(pinned) = pinned {
                    given.sizes.insert(pinned.clone(), size);
                    given.pinned.insert(item.clone(), pinned);
                }
                given.sizes.insert(item, size);
            }
            Err(what) => problems.push(format!("{name}, line {line}: {what}")),
        }
    }
    if problems.is_empty() {
        Ok(given)
    } else {
        Err(problems)
    }
}

/// The item as it is pinned, if the file says so.
fn pin(form: &ItemForm) -> Result<Option<Item>, String> {
    let pinned = match (&form.image, &form.digest, &form.model, &form.commit) {
        (_, None, _, None) => return Ok(None),
        (Some(image), Some(digest), None, None) => match item::image(image) {
            Ok(Item::Image { repository, .. }) => item::image(&format!("{repository}@{digest}"))
                .map_err(|error| format!("digest: {error}"))?,
            Ok(_) | Err(_) => return Err("image: is none".to_owned()),
        },
        (None, None, Some(model), Some(commit)) => match item::model(model) {
            Ok(Item::Model { repo, files, .. }) => {
                let files = match files.as_str() {
                    "" => String::new(),
                    files => format!("?{files}"),
                };
                item::model(&format!("hf://{repo}@{commit}{files}"))
                    .map_err(|error| format!("commit: {error}"))?
            }
            Ok(_) | Err(_) => return Err("model: is none".to_owned()),
        },
        _ => {
            return Err("digest is of an image, commit of a model; write the right one".to_owned());
        }
    };
    match pinned.is_pinned() {
        true => Ok(Some(pinned)),
        false => Err("commit: is not one; write its 40 hexadecimal digits".to_owned()),
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

/// Pins what the file pins, and gives a size to every item that a pod of the snapshot starts with.
/// What the file names and no pod uses is said.
pub(crate) fn complete(snapshot: &mut Snapshot, given: Given) -> Vec<String> {
    let Given {
        sizes: mut given,
        pinned,
    } = given;
    for pod in &mut snapshot.pods {
        for item in &mut pod.shape.items {
            if let Some(pinned) = pinned.get(item) {
                *item = pinned.clone();
            }
        }
    }
    for name in pinned.keys() {
        // Two names of one thing are one thing.
        given.remove(name);
    }
    let pods = snapshot.pods.iter().map(|pod| &*pod.shape);
    let shapes = pods.chain(&snapshot.daemons);
    let items: BTreeSet<&Item> = shapes.flat_map(|shape| &shape.items).collect();
    let sizes = items.into_iter().map(|item| {
        let size = given.remove(item).unwrap_or_else(|| assumed(item));
        (item.clone(), size)
    });
    snapshot.items = sizes.collect();
    let unused = given.keys().map(super::words::item);
    unused
        .map(|item| format!("no pod starts with {item}, whose size was given"))
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn sizes_are_read_as_amounts() {
        let text = "items:\n- {image: 'vllm/vllm-openai:v0.8.5', transfer: 9.6G, largestLayer: 4G}\n\
                    - {model: 'hf://Qwen/Qwen3-8B', transfer: 16400000000}\n";
        let given = read("items.yaml", text).unwrap();
        let said: Vec<String> = given
            .sizes
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
    fn a_models_name_says_its_parameters_and_their_bits() {
        let sizes = [
            "Qwen/Qwen3-8B",
            "meta-llama/Meta-Llama-3.1-405B-Instruct",
            "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic",
            "mistralai/Mixtral-8x7B-v0.1",
            "Qwen/Qwen2.5-1.5B-Instruct-AWQ",
            "microsoft/Phi-3-mini-4k-instruct",
            "x/NaNb-infb-1e99b--b",
        ]
        .map(|name| model_of_name(name).transfer / 1_000_000);
        assert_eq!(
            sizes,
            [16_000, 810_000, 70_000, 112_000, 750, 16_000, 16_000]
        );
    }

    #[test]
    fn a_digest_or_a_commit_pins_the_name() {
        let hex = "0".repeat(40);
        let text = format!(
            "items:\n- {{image: 'a/b:v1', transfer: 1G, digest: 'sha256:{hex}{}'}}\n\
             - {{model: 'hf://a/b', transfer: 1G, commit: '{hex}'}}\n",
            "0".repeat(24)
        );
        let given = read("items.yaml", &text).unwrap();
        let said: Vec<String> = given
            .pinned
            .iter()
            .map(|(name, pin)| {
                let words = crate::plan::words::item;
                format!("{} is {}", words(name), words(pin)).replace("00000000", "")
            })
            .collect();
        expect![[r#"
            docker.io/a/b:v1 is docker.io/a/b@sha256:
            hf://a/b is hf://a/b@"#]]
        .assert_eq(&said.join("\n"));
        let wrong = "items:\n- {image: 'a/b:v1', transfer: 1G, commit: abc}\n\
                     - {image: 'a/b:v1', transfer: 1G, digest: abc}\n\
                     - {model: 'hf://a/b', transfer: 1G, commit: abc}\n";
        expect![[r#"
            items.yaml, line 2: digest is of an image, commit of a model; write the right one
            items.yaml, line 3: digest: "docker.io/a/b@abc" is not an image reference: after "@" comes a digest, sha256:<64 hex digits>; a tag comes after ":"; write it as registry/name:tag
            items.yaml, line 4: commit: is not one; write its 40 hexadecimal digits"#]].assert_eq(&read("items.yaml", wrong).unwrap_err().join("\n"));
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
