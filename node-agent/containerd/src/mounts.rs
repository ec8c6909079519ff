//! Where a prepared snapshot's files lie, read from the mounts that the snapshotter offers.

use std::path::PathBuf;

use crate::error::Error;
use crate::proto::types::Mount;

/// The directories of a prepared snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Takes the layer's files.
    pub(crate) upper: PathBuf,
    /// The layers below, nearest first.
    pub(crate) lower: Vec<PathBuf>,
    /// The overlay's marks are `user.` attributes: the runtime lives in a user namespace.
    pub(crate) userxattr: bool,
}

/// Reads `mounts`: a bind mount where there is no parent, else an overlay.
pub(crate) fn place(snapshotter: &str, mounts: &[Mount]) -> Result<Place, Error> {
    let unexpected = |found: String| Error::Mounts {
        snapshotter: snapshotter.to_owned(),
        found,
    };
    let [mount] = mounts else {
        return Err(unexpected(format!("{} mounts", mounts.len())));
    };
    let option = |name: &str| {
        let mut options = mount.options.iter();
        options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    let userxattr = mount.options.iter().any(|option| option == "userxattr");
    match (
        mount.r#type.as_str(),
        option("upperdir"),
        option("lowerdir"),
    ) {
        ("bind", _, _) => Ok(Place {
            upper: PathBuf::from(&mount.source),
            lower: Vec::new(),
            userxattr,
        }),
        ("overlay", Some(upper), Some(lower)) => Ok(Place {
            upper: PathBuf::from(upper),
            lower: lower.split(':').map(PathBuf::from).collect(),
            userxattr,
        }),
        (kind, _, _) => Err(unexpected(format!("a mount of type {kind:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: kind.into(),
            source: source.into(),
            target: String::new(),
            options: options.iter().map(|&option| option.into()).collect(),
        }
    }

    #[test]
    fn the_lowest_layer_lies_where_its_bind_mount_comes_from() {
        let mounts = [mount("bind", "/s/1/fs", &["rw", "rbind"])];
        let place = place("overlayfs", &mounts).unwrap();
        assert_eq!(place.upper, PathBuf::from("/s/1/fs"));
        assert_eq!(place.lower, Vec::<PathBuf>::new());
    }

    #[test]
    fn a_higher_layer_names_the_layers_below_nearest_first() {
        let options = [
            "index=off",
            "workdir=/s/3/work",
            "upperdir=/s/3/fs",
            "lowerdir=/s/2/fs:/s/1/fs",
        ];
        let place = place("overlayfs", &[mount("overlay", "overlay", &options)]).unwrap();
        assert_eq!(place.upper, PathBuf::from("/s/3/fs"));
        assert_eq!(place.lower, ["/s/2/fs", "/s/1/fs"].map(PathBuf::from));
        assert!(!place.userxattr);
    }

    #[test]
    fn an_overlay_of_a_user_namespace_is_told_apart() {
        let options = ["userxattr", "workdir=/w", "upperdir=/u", "lowerdir=/l"];
        assert!(
            place("overlayfs", &[mount("overlay", "overlay", &options)])
                .unwrap()
                .userxattr
        );
    }

    #[test]
    fn mounts_of_another_kind_are_refused_by_name() {
        for mounts in [
            vec![],
            vec![mount("erofs", "/x", &[])],
            vec![mount("overlay", "overlay", &["lowerdir=/a:/b"])],
            vec![mount("bind", "/a", &[]), mount("bind", "/b", &[])],
        ] {
            let error = place("erofs", &mounts).unwrap_err().to_string();
            assert!(error.starts_with("snapshotter erofs offered "), "{error}");
        }
    }
}
