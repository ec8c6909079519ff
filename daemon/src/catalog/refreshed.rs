//! Prices that were fetched, kept as one file per cloud and region in a directory of the user's.
//!
//! A file is replaced by rename, so a reader sees the old one or the new one. Its form is ours alone:
//! two comment lines, then CSV.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Cloud;
use super::csv::{self, Record};
use super::price::{Bucket, Price, Prices, usd};

const HEADER: &str = "type,on_demand,spot,interruption_bucket,vcpu,memory_mib";

/// What is kept of one region.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Kept {
    /// When it was fetched, as a timestamp of RFC 3339.
    pub(crate) fetched: String,
    /// From where.
    pub(crate) from: String,
    /// The prices.
    pub(crate) prices: Prices,
}

/// A file that is not what was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadKept {
    /// It cannot be read or written.
    #[error("{path}: cannot be {action}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// It is broken.
    #[error("{path}: {what}; remove it, or run `headstart catalog update` again")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The file of a region.
pub(crate) fn path(directory: &Path, cloud: Cloud, region: &str) -> PathBuf {
    directory.join(format!("{cloud}_{region}.csv"))
}

/// What is kept of `region`, if anything.
pub(crate) fn read(directory: &Path, cloud: Cloud, region: &str) -> Result<Option<Kept>, BadKept> {
    // A name with a separator in it is no region, and must not become a path.
    if !region
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-')
    {
        return Ok(None);
    }
    let path = path(directory, cloud, region);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(BadKept::Io {
                path,
                action: "read",
                source,
            });
        }
    };
    parse(&text)
        .map(Some)
        .map_err(|what| BadKept::Broken { path, what })
}

/// Clouds and regions of which something is kept, by name.
pub(crate) fn regions(directory: &Path) -> Vec<(Cloud, String)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut regions: Vec<(Cloud, String)> = names
        .filter_map(|name| {
            let (cloud, region) = name.strip_suffix(".csv")?.split_once('_')?;
            Some((cloud.parse().ok()?, region.to_owned()))
        })
        .collect();
    regions.sort_unstable();
    regions
}

/// Keeps it, in place of what was kept.
pub(crate) fn write(
    directory: &Path,
    cloud: Cloud,
    region: &str,
    kept: &Kept,
) -> Result<PathBuf, BadKept> {
    let path = path(directory, cloud, region);
    let failed = |source| BadKept::Io {
        path: path.clone(),
        action: "written",
        source,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed)?;
    file.write_all(text(kept).as_bytes()).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}

fn text(kept: &Kept) -> String {
    let one_line = |text: &str| text.replace(['\n', '\r'], " ");
    let mut text = format!(
        "# fetched {}\n# from {}\n{HEADER}\n",
        one_line(&kept.fetched),
        one_line(&kept.from)
    );
    let price = |price: Option<headstart_core::money::HourlyPrice>| {
        price.map_or(String::new(), |p| format!("{:.6}", p.usd()))
    };
    for (name, row) in &kept.prices.types {
        let bucket = row.bucket.map_or(String::new(), |b| b.class().to_string());
        let (vcpu, memory) = row
            .size
            .map_or_else(Default::default, |(v, m)| (v.to_string(), m.to_string()));
        let fields = [
            name,
            &price(row.on_demand),
            &price(row.spot),
            &bucket,
            &vcpu,
            &memory,
        ];
        text.push_str(&fields.map(String::as_str).join(","));
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Result<Kept, String> {
    let mut lines = text.lines();
    let mut comment = |word: &str| {
        let line = lines.next().and_then(|line| line.strip_prefix("# "));
        let said = line.and_then(|line| line.strip_prefix(word)).map(str::trim);
        said.map(str::to_owned)
            .ok_or_else(|| format!("has no line `# {word}` at its beginning"))
    };
    let (fetched, from) = (comment("fetched")?, comment("from")?);
    if !text.ends_with('\n') {
        return Err("is cut short".to_owned());
    }
    let records = csv::records(b',', text.as_bytes()).map_err(|e| e.to_string())?;
    let mut rows = records.iter().skip_while(|r| r.fields[0].starts_with("# "));
    if rows.next().map(|r| r.fields.join(",")).as_deref() != Some(HEADER) {
        return Err(format!("has not the header {HEADER}"));
    }
    let day = fetched.get(..10).unwrap_or(&fetched);
    let mut prices = Prices {
        basis: format!("fetched {day} from {from}"),
        ..Prices::default()
    };
    for row in rows {
        let (name, price) = row_of(row).ok_or_else(|| format!("line {} is no row", row.line))?;
        prices.types.insert(name, price);
    }
    Ok(Kept {
        fetched,
        from,
        prices,
    })
}

fn row_of(row: &Record) -> Option<(String, Price)> {
    let [name, on_demand, spot, bucket, vcpu, memory] = row.fields.as_slice() else {
        return None;
    };
    let price = |text: &str| match text {
        "" => Some(None),
        text => usd(text).map(Some),
    };
    let size = match (vcpu.as_str(), memory.as_str()) {
        ("", "") => None,
        (vcpu, memory) => Some((vcpu.parse().ok()?, memory.parse().ok()?)),
    };
    let bucket = match bucket.as_str() {
        "" => None,
        class => Some(Bucket::of(class.parse().ok()?)?),
    };
    let row = Price {
        on_demand: price(on_demand)?,
        spot: price(spot)?,
        bucket,
        size,
    };
    Some((name.clone(), row))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use headstart_core::money::HourlyPrice;

    use super::*;

    fn kept() -> Kept {
        let full = Price {
            on_demand: Some(HourlyPrice(804_800)),
            spot: Some(HourlyPrice(410_448)),
            bucket: Bucket::of(3),
            size: Some((4, 16384)),
        };
        Kept {
            fetched: "2026-11-25T04:00:00Z".to_owned(),
            from: "https://prices.test/".to_owned(),
            prices: Prices {
                basis: "fetched 2026-11-25 from https://prices.test/".to_owned(),
                types: BTreeMap::from([
                    ("g6.xlarge".to_owned(), full),
                    ("x".to_owned(), Price::default()),
                ]),
            },
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            read(directory.path(), Cloud::Aws, "us-east-1").unwrap(),
            None
        );
        write(directory.path(), Cloud::Aws, "us-east-1", &kept()).unwrap();
        let found = read(directory.path(), Cloud::Aws, "us-east-1").unwrap();
        assert_eq!(found, Some(kept()));
    }

    #[test]
    fn every_cut_of_a_file_is_noticed() {
        let whole = text(&kept());
        for at in 0..whole.len() {
            assert!(
                parse(&whole[..at]).is_err() || whole[..at].ends_with('\n'),
                "{at}"
            );
        }
        assert!(parse("").is_err());
        assert!(parse(&whole.replace("0.804800", "-1")).is_err());
    }

    #[test]
    fn a_region_is_never_a_path() {
        let directory = tempfile::tempdir().unwrap();
        assert!(
            read(directory.path(), Cloud::Aws, "../x")
                .unwrap()
                .is_none()
        );
    }
}
