//! What a machine was told in its user data, read as nodeadm and a shell read it.

use std::collections::BTreeMap;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::GzDecoder;
use serde_json::Value;

/// Labels, taints and intent.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<String>,
    pub(super) intent: Option<String>,
}

/// Reads user data as it was sent.
pub(super) fn read(encoded: &str) -> Result<Told, String> {
    let data = STANDARD.decode(encoded);
    let data = data.map_err(|_| "Invalid BASE64 encoding of user data.".to_owned())?;
    if data.len() > 16_384 {
        return Err("User data is limited to 16384 bytes".to_owned());
    }
    let text = String::from_utf8_lossy(&data);
    let mut told = Told::default();
    for part in text.split("\nContent-Type: ") {
        if let Some(config) = part.strip_prefix("application/node.eks.aws\n") {
            let config = config.lines().find(|line| line.starts_with('{'));
            if let Some(config) = config.and_then(|line| serde_json::from_str(line).ok()) {
                node_config(&mut told, &config);
            }
        }
        if part.starts_with("text/x-shellscript") {
            told.intent = intent(part);
        }
    }
    Ok(told)
}

fn node_config(told: &mut Told, config: &Value) {
    let kubelet = &config["spec"]["kubelet"];
    let flags = kubelet["flags"].as_array().into_iter().flatten();
    let labels = flags.filter_map(|flag| flag.as_str()?.strip_prefix("--node-labels="));
    for pair in labels.flat_map(|labels| labels.split(',')) {
        if let Some((key, value)) = pair.split_once('=') {
            told.labels.insert(key.to_owned(), value.to_owned());
        }
    }
    let taints = kubelet["config"]["registerWithTaints"].as_array();
    told.taints
        .extend(taints.into_iter().flatten().map(|taint| {
            let [key, value, effect] =
                ["key", "value", "effect"].map(|field| taint[field].as_str().unwrap_or(""));
            format!("{key}={value}:{effect}")
        }));
}

/// Between `base64 -d <<'EOF'` and `EOF`, decoded and decompressed.
fn intent(script: &str) -> Option<String> {
    let (_, after) = script.split_once("base64 -d <<'EOF' | gzip -d > ")?;
    let (_, packed) = after.split_once('\n')?;
    let (packed, _) = packed.split_once("\nEOF\n")?;
    let packed: String = packed.split_whitespace().collect();
    let packed = STANDARD.decode(packed).ok()?;
    let mut intent = String::new();
    GzDecoder::new(&packed[..])
        .read_to_string(&mut intent)
        .ok()?;
    Some(intent)
}
