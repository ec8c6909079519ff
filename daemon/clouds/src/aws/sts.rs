//! STS: who we are. (Credentials are asked for in `credentials`.)

use std::sync::Arc;

use roxmltree::Document;
use url::Url;

use super::credentials::Credentials;
use super::wire::{Wire, unreadable};
use super::xml::{child, text};
use crate::call::{CallError, Caller};

/// STS in one region.
#[derive(Debug)]
pub struct Sts {
    wire: Wire,
}

/// Who the keys are of, and when the service thinks it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `arn:aws:sts::123456789012:assumed-role/headstart/…`.
    pub arn: String,
    /// Account.
    pub account: String,
    /// The answer's `Date`.
    pub date: String,
}

impl Sts {
    /// STS of `region` at `endpoint` (`https://sts.us-east-1.amazonaws.com`).
    pub fn new(caller: Caller, credentials: Arc<Credentials>, endpoint: Url, region: &str) -> Self {
        Self {
            wire: Wire::new(caller, credentials, endpoint, region, "sts"),
        }
    }

    /// Who the keys are of (`GetCallerIdentity`). Needs no permission.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn get_caller_identity(&self) -> Result<Identity, CallError> {
        const API: &str = "GetCallerIdentity";
        let answer = self.wire.query(API, "2011-06-15", &[]).await?;
        let body = String::from_utf8_lossy(&answer.body);
        let document = Document::parse(&body);
        let document = document.map_err(|_| unreadable(API, "no XML", &answer))?;
        let result = child(document.root_element(), "GetCallerIdentityResult");
        let result = result.ok_or_else(|| unreadable(API, "no result in it", &answer))?;
        Ok(Identity {
            arn: text(result, "Arn").to_owned(),
            account: text(result, "Account").to_owned(),
            date: answer.header("date").to_owned(),
        })
    }
}
