//! Service Quotas: how much of EC2 an account may have.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::credentials::Credentials;
use super::wire::Wire;
use crate::call::{CallError, Caller};

/// Service Quotas in one region.
#[derive(Debug)]
pub struct ServiceQuotas {
    wire: Wire,
}

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Quota {
    /// `Running On-Demand G and VT instances`.
    pub quota_name: String,
    /// How much; vCPUs for instances.
    pub value: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    quota: Quota,
}

impl ServiceQuotas {
    /// Service Quotas of `region` at `endpoint` (`https://servicequotas.us-east-1.amazonaws.com`).
    pub fn new(caller: Caller, credentials: Arc<Credentials>, endpoint: Url, region: &str) -> Self {
        Self {
            wire: Wire::new(caller, credentials, endpoint, region, "servicequotas"),
        }
    }

    /// A limit of EC2 by its code, `L-DB2E81BA` (`GetServiceQuota`).
    ///
    /// # Errors
    /// As [`CallError`] says; `NoSuchResourceException` for a code that is none.
    pub async fn get_service_quota(&self, code: &str) -> Result<Quota, CallError> {
        let form = ("ServiceQuotasV20190624", "application/x-amz-json-1.1");
        let body = json!({"ServiceCode": "ec2", "QuotaCode": code});
        let got: Got = self.wire.json("GetServiceQuota", form, &body).await?;
        Ok(got.quota)
    }
}
