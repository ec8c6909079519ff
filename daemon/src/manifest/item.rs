//! Images and models by name, as items that a node fetches.

use headstart_core::cache::{Item, Pin};
use headstart_core::model::{InvalidModelRef, ModelRef, Revision};
use headstart_registry::ImageRef;

/// An image as a container names it.
pub(crate) fn image(text: &str) -> Result<Item, String> {
    let image: ImageRef = text
        .trim()
        .parse()
        .map_err(|error| format!("{error}; write it as registry/name:tag"))?;
    let pin = match image.digest() {
        Some(digest) => Pin::To(digest),
        None => Pin::Name(image.tag().unwrap_or("latest").to_owned()),
    };
    Ok(Item::Image {
        repository: image.familiar(),
        pin,
    })
}

/// A model as `hf://org/name[@revision][?include=…]`.
pub(crate) fn model(text: &str) -> Result<Item, String> {
    let model = text
        .parse()
        .map_err(|error: InvalidModelRef| error.to_string())?;
    Ok(of(model))
}

/// The item of a model reference. A choice of files that is not the default one stands as it was
/// written until the model is resolved.
pub(crate) fn of(model: ModelRef) -> Item {
    let written = model.to_string();
    let files = written.split_once('?').map_or("", |(_, choice)| choice);
    let pin = match model.revision {
        Revision::Commit(commit) => Pin::To(commit),
        Revision::Name(name) => Pin::Name(name),
    };
    Item::Model {
        repo: model.repo,
        pin,
        files: files.to_owned(),
    }
}
