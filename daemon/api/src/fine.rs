//! Times with their microseconds: what the API's own form of a time would cut off.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Serialize as _, Serializer};

/// Writes a time with its fraction, as RFC 3339 allows; it is read back like any other.
pub(crate) fn write<S: Serializer>(time: &Option<Time>, writer: S) -> Result<S::Ok, S::Error> {
    match time {
        // Rounded down, as clocks are read.
        Some(time) => {
            let micros = time.0.as_microsecond();
            let whole = k8s_openapi::jiff::Timestamp::from_microsecond(micros);
            writer.collect_str(&whole.unwrap_or(time.0))
        }
        None => None::<Time>.serialize(writer),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{NodeCacheStatus, Stages};

    #[test]
    fn a_time_keeps_its_microseconds_and_one_without_is_read_as_well() {
        let fine = json!({"requested": "2026-11-25T08:00:00.123456Z"});
        let stages: Stages = serde_json::from_value(fine.clone()).unwrap();
        assert_eq!(serde_json::to_value(&stages).unwrap(), fine);
        let whole = json!({"generation": 1, "observed": "2026-11-25T08:00:00Z"});
        let status: NodeCacheStatus = serde_json::from_value(whole.clone()).unwrap();
        assert_eq!(serde_json::to_value(&status).unwrap(), whole);
    }
}
