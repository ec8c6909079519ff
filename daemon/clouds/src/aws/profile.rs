//! The shared credentials file, `~/.aws/credentials`, as the "Configuration and credential file
//! settings" of the AWS CLI's user guide describe it: sections with keys.
//!
//! Nothing of the file's content gets into an error, but for names of profiles: the rest are secrets.

use super::sign::Keys;

/// What is wrong with such a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A line that is nothing.
    #[error("line {line} is neither [PROFILE] nor NAME = VALUE: write one of them")]
    Line {
        /// Which, from 1.
        line: usize,
    },
    /// No such profile.
    #[error("it has no profile {profile:?}, but {}: name one of them", list(.found))]
    NoProfile {
        /// Which was looked for.
        profile: String,
        /// Those that are there.
        found: Vec<String>,
    },
    /// A key is missing.
    #[error("profile {profile:?} has no {name}: set it")]
    Missing {
        /// Which profile.
        profile: String,
        /// What is missing.
        name: &'static str,
    },
    /// A profile without keys of its own.
    #[error(
        "profile {profile:?} has {name} instead of keys, which is not followed: \
         write aws_access_key_id and aws_secret_access_key"
    )]
    Indirect {
        /// Which profile.
        profile: String,
        /// What it has.
        name: &'static str,
    },
}

fn list(found: &[String]) -> String {
    match found {
        [] => "none at all".to_owned(),
        found => found.join(", "),
    }
}

/// The keys of `profile` in `text`.
///
/// # Errors
/// As [`ProfileError`] says.
pub fn keys(text: &str, profile: &str) -> Result<Keys, ProfileError> {
    let mut found: Vec<String> = Vec::new();
    let mut settings: Vec<(String, String)> = Vec::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let is_nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let Some((name, _)) = name.split_once(']') else {
                return Err(ProfileError::Line { line: number });
            };
            // The same name in `~/.aws/config`.
            let name = name.trim();
            let name = name.strip_prefix("profile ").unwrap_or(name).trim();
            found.push(name.to_owned());
            continue;
        }
        let pair = line.split_once('=').filter(|_| !found.is_empty());
        match pair {
            // Below a setting, for settings of one service: none of ours.
            _ if is_nested => {}
            None => return Err(ProfileError::Line { line: number }),
            Some((name, value)) if found.last().is_some_and(|last| last == profile) => {
                settings.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            Some(_) => {}
        }
    }
    if !found.iter().any(|name| name == profile) {
        return Err(ProfileError::NoProfile {
            profile: profile.to_owned(),
            found,
        });
    }
    let of = |name: &str| {
        let mut settings = settings.iter().rev();
        let set = settings.find(|(key, value)| key == name && !value.is_empty());
        set.map(|(_, value)| value.clone())
    };
    let needed = |name: &'static str| {
        of(name).ok_or_else(|| ProfileError::Missing {
            profile: profile.to_owned(),
            name,
        })
    };
    for name in [
        "role_arn",
        "sso_session",
        "sso_start_url",
        "credential_process",
    ] {
        if of("aws_access_key_id").is_none() && of(name).is_some() {
            return Err(ProfileError::Indirect {
                profile: profile.to_owned(),
                name,
            });
        }
    }
    Ok(Keys {
        id: needed("aws_access_key_id")?,
        secret: needed("aws_secret_access_key")?,
        session: of("aws_session_token"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# mine\n[default]\naws_access_key_id = AKIA1\n\
                        aws_secret_access_key=s/e+c=ret\n\n\
                        [work]\nAWS_ACCESS_KEY_ID = AKIA2\naws_secret_access_key = two\n\
                        s3 =\n  max_concurrent_requests = 20\naws_session_token = token\n\
                        [half]\naws_access_key_id = AKIA3\n\
                        [other]\nrole_arn = arn:aws:iam::1:role/x\n";

    #[test]
    fn a_profile_has_its_own_keys() {
        let default = keys(FILE, "default").unwrap();
        assert_eq!((&*default.id, &*default.secret), ("AKIA1", "s/e+c=ret"));
        assert_eq!(default.session, None);
        let work = keys(FILE, "work").unwrap();
        assert_eq!(work.id, "AKIA2");
        assert_eq!(work.session.as_deref(), Some("token"));
    }

    #[test]
    fn what_is_wrong_is_told_by_line_or_name_and_never_with_a_secret() {
        let told = |text: &str, profile: &str| keys(text, profile).unwrap_err().to_string();
        let malformed = "[default]\naws_access_key_id AKIA1\n";
        assert_eq!(
            told(malformed, "default"),
            "line 2 is neither [PROFILE] nor NAME = VALUE: write one of them"
        );
        assert_eq!(told("a = b\n", "default"), told("[default\n", "default"));
        assert_eq!(
            told(FILE, "prod"),
            "it has no profile \"prod\", but default, work, half, other: name one of them"
        );
        assert!(told("", "prod").contains("none at all"));
        assert!(told(FILE, "half").contains("no aws_secret_access_key"));
        assert!(told(FILE, "other").contains("role_arn"));
    }
}
