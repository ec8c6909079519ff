//! What was done to a pod at admission, and why not more.

use std::fmt;

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is given models.
    Injected(Source),
    /// It has them already; only what was missing beside them is added.
    Already,
    /// It loads nothing, but lives longer for it: Ray's autoscaler waits longer for its workers.
    RayWaits,
    /// It is as it was.
    Left(Left),
}

/// Where the models of a pod were named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the pod's annotation.
    Annotation,
    /// In the annotation of what owns it.
    Owner,
    /// In what its containers run.
    Recognised,
    /// In the configuration of its RayService.
    ServeConfig,
}

/// Why a pod is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// It or its namespace says so.
    Ignored,
    /// It is a file of its kubelet.
    Mirror,
    /// It is for Windows.
    Windows,
    /// No model was found.
    NoModel,
    /// Its annotation cannot be read.
    Unreadable,
    /// Nothing says that it runs where an agent is.
    NoAgent,
    /// It says itself where its models are cached or downloaded to.
    CacheIsSet,
    /// It keeps its models on a volume that lasts.
    OwnCache,
    /// It does not ask the Hub.
    NotFromHub,
    /// Part of its environment is written elsewhere.
    EnvironmentUnknown,
    /// It uses a name or a path of ours.
    NameIsTaken,
}

impl Reason {
    /// Its word in metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Injected(source) => source.word(),
            Self::Already => "already",
            Self::RayWaits => "ray_waits",
            Self::Left(left) => left.word(),
        }
    }
}

impl Source {
    /// Its word in metrics and in the annotation that records it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::Owner => "owner",
            Self::Recognised => "recognised",
            Self::ServeConfig => "serve_config",
        }
    }
}

impl Left {
    fn word(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Mirror => "mirror",
            Self::Windows => "windows",
            Self::NoModel => "no_model",
            Self::Unreadable => "unreadable",
            Self::NoAgent => "no_agent",
            Self::CacheIsSet => "cache_is_set",
            Self::OwnCache => "own_cache",
            Self::NotFromHub => "not_from_hub",
            Self::EnvironmentUnknown => "environment_unknown",
            Self::NameIsTaken => "name_is_taken",
        }
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ignored => "headstart.dev/ignore says to leave it alone",
            Self::Mirror => "a kubelet runs it from a file",
            Self::Windows => "it is for Windows",
            Self::NoModel => "no model is named and none was recognised",
            Self::Unreadable => "headstart.dev/models cannot be read",
            Self::NoAgent => "nothing says that it runs on a node with an agent",
            Self::CacheIsSet => "it says itself where models are cached",
            Self::OwnCache => "it keeps models on a volume that lasts",
            Self::NotFromHub => "it does not ask the Hub",
            Self::EnvironmentUnknown => "part of its environment is written elsewhere",
            Self::NameIsTaken => "it uses the volume headstart-models or the path /headstart",
        })
    }
}
