//! One item of an intent, read and checked: by digest or by commit, never by a name that moves.

use std::fmt;

use headstart_api::CacheItem;
use headstart_core::model::{InvalidModelRef, ModelRef};
use headstart_registry::{ImageRef, InvalidImageRef};
use serde::{Deserialize, Serialize};

/// What tells one item from another: an image by digest, a model by commit and choice of files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Key(String);

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An image.
    Image,
    /// A model.
    Model,
}

/// An item that somebody wants here.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) key: Key,
    pub(crate) what: What,
    /// Whether it may not be evicted, by anybody.
    pub(crate) is_kept: bool,
    /// It as the intent writes it: what a report calls it.
    pub(crate) shown: CacheItem,
}

/// See [`Kind`].
#[derive(Clone, Debug)]
pub(crate) enum What {
    Image {
        image: Box<ImageRef>,
        name: Option<Box<ImageRef>>,
    },
    Model(ModelRef),
}

/// An item that cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidItem {
    #[error("names no item, or two: give either image or model")]
    Neither,
    #[error("image")]
    Image { source: InvalidImageRef },
    #[error("image {found} has no digest: a tag moves, give registry/name@sha256:…")]
    Moves { found: String },
    #[error("imageName")]
    Name { source: InvalidImageRef },
    #[error("imageName {found} is no tag of {image}: give a name of the same repository")]
    OtherName { found: String, image: String },
    #[error("model")]
    Model { source: InvalidModelRef },
    #[error("model {found} has no commit: a branch moves, give org/name@<40 hex digits>")]
    Branch { found: String },
}

impl Kind {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Image, Self::Model];
}

impl Wish {
    /// Reads an item of an intent.
    pub(crate) fn read(item: &CacheItem) -> Result<Self, InvalidItem> {
        let what = match (&item.image, &item.model) {
            (Some(image), None) => image_of(image, item.image_name.as_deref())?,
            (None, Some(model)) => What::Model(model_of(model, &item.files)?),
            _ => return Err(InvalidItem::Neither),
        };
        Ok(Self {
            key: key_of(&what),
            is_kept: item.pinned || item.demanded,
            shown: CacheItem {
                image: item.image.clone(),
                model: item.model.clone(),
                files: item.files.clone(),
                ..CacheItem::default()
            },
            what,
        })
    }

    /// A model that a pod asks for by itself.
    pub(crate) fn of_model(model: ModelRef) -> Self {
        let (repo, rest) = (model.repo.to_string(), model.to_string());
        let (_, files) = rest.split_once('?').unwrap_or_default();
        let what = What::Model(model.clone());
        Self {
            key: key_of(&what),
            is_kept: false,
            shown: CacheItem {
                model: Some(format!("{repo}@{}", model.revision)),
                files: files.to_owned(),
                ..CacheItem::default()
            },
            what,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.what {
            What::Image { .. } => Kind::Image,
            What::Model(_) => Kind::Model,
        }
    }

    /// The name that an image is also to have.
    pub(crate) fn name(&self) -> Option<&ImageRef> {
        match &self.what {
            What::Image { name, .. } => name.as_deref(),
            What::Model(_) => None,
        }
    }
}

fn key_of(what: &What) -> Key {
    match what {
        What::Image { image, .. } => Key(image.to_string()),
        What::Model(model) => Key(model.to_string()),
    }
}

fn image_of(text: &str, name: Option<&str>) -> Result<What, InvalidItem> {
    let image: ImageRef = text
        .parse()
        .map_err(|source| InvalidItem::Image { source })?;
    if image.digest().is_none() {
        let found = image.to_string();
        return Err(InvalidItem::Moves { found });
    }
    let name: Option<ImageRef> = name
        .map(str::parse)
        .transpose()
        .map_err(|source| InvalidItem::Name { source })?;
    // A name given to another image would run something else than its owner published.
    if let Some(name) = &name
        && name.familiar() != image.familiar()
    {
        return Err(InvalidItem::OtherName {
            found: name.to_string(),
            image: image.familiar(),
        });
    }
    // By the same digest it is no other name.
    let name = name.filter(|name| name.digest().is_none());
    Ok(What::Image {
        image: Box::new(image),
        name: name.map(Box::new),
    })
}

fn model_of(text: &str, files: &str) -> Result<ModelRef, InvalidItem> {
    // A digest names a choice that was made elsewhere; the default is what it was made by.
    let text = match files.contains('=') {
        true => format!("{text}?{files}"),
        false => text.to_owned(),
    };
    let model: ModelRef = text
        .parse()
        .map_err(|source| InvalidItem::Model { source })?;
    match model.revision.commit() {
        Some(_) => Ok(model),
        None => Err(InvalidItem::Branch {
            found: model.to_string(),
        }),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chain;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn image(digest: char) -> String {
        format!("docker.io/org/app@sha256:{}", digest.to_string().repeat(64))
    }

    fn read(
        image: Option<String>,
        name: Option<&str>,
        model: Option<String>,
    ) -> Result<Wish, String> {
        let item = CacheItem {
            image,
            image_name: name.map(str::to_owned),
            model,
            ..CacheItem::default()
        };
        Wish::read(&item).map_err(|error| chain(&error))
    }

    #[test]
    fn items_are_told_apart_by_digest_and_by_commit_however_they_are_written() {
        let one = read(Some(image('a')), Some("org/app:v1"), None).unwrap();
        let same = read(Some(image('a').replace("docker.io/", "")), None, None).unwrap();
        assert_eq!(one.key, same.key);
        assert_eq!(one.name().unwrap().to_string(), "docker.io/org/app:v1");
        assert_ne!(one.key, read(Some(image('b')), None, None).unwrap().key);
        let model = read(None, None, Some(format!("hf://org/m@{COMMIT}"))).unwrap();
        assert_eq!(
            model.key,
            read(None, None, Some(format!("org/m@{COMMIT}")))
                .unwrap()
                .key
        );
    }

    #[test]
    fn what_moves_and_what_belongs_to_another_image_is_refused() {
        for (item, why) in [
            (read(Some("org/app:v1".into()), None, None), "has no digest"),
            (read(None, None, Some("org/m@main".into())), "has no commit"),
            (read(None, None, None), "either image or model"),
            (
                read(Some(image('a')), Some("org/other:v1"), None),
                "no tag of docker.io/org/app",
            ),
            (
                read(Some(image('a')), Some("evil.example/org/app:v1"), None),
                "no tag of docker.io/org/app",
            ),
        ] {
            let said = item.unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn a_choice_of_files_is_part_of_the_model_and_a_digest_of_one_is_not_read() {
        let item = |files: &str| CacheItem {
            model: Some(format!("org/m@{COMMIT}")),
            files: files.to_owned(),
            ..CacheItem::default()
        };
        let plain = Wish::read(&item("")).unwrap();
        let chosen = Wish::read(&item("include=*.json")).unwrap();
        assert_ne!(plain.key, chosen.key);
        assert_eq!(chosen.shown.files, "include=*.json");
        assert_eq!(Wish::read(&item(&"a".repeat(64))).unwrap().key, plain.key);
    }
}
