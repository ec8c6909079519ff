//! `headstart catalog update`: prices of one region from the cloud's public list, which needs no account.
//!
//! Every connection is dialled by `headstart_transfer::net` under its host policy. A list is read as it
//! arrives, checked against what was known before, and only then takes its place: one that is empty,
//! far smaller, or holds an absurd price is refused, and the old one stays.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use headstart_transfer::net::{HostPolicy, HostPort, Http, NetError, Request};
use tokio::io::AsyncReadExt as _;
use url::Url;

use super::choose::Directory;
use super::price::{Bucket, Price, Prices, spot_price};
use super::refreshed::{self, Kept};
use super::{Cloud, builtin};

use crate::out;

mod aws;
mod azure;
mod sane;

/// Longest wait for the next piece of a list.
const STALL: Duration = Duration::from_secs(60);

/// Most bytes of one list: the largest public one has about a third of it.
const MAX_LIST: u64 = 4 << 30;

/// Most bytes of a document that is read as a whole.
const MAX_DOCUMENT: u64 = 64 << 20;

/// Refresh the prices of one region from the cloud's public price list
#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The cloud; Google publishes no list that needs no account
    #[arg(long, value_enum)]
    cloud: Cloud,
    /// The region
    #[arg(long)]
    region: String,
    /// Read the price list from here instead of from the cloud
    #[arg(long, value_name = "URL|FILE")]
    from: Option<String>,
    /// AWS: read the Spot Advisor's document from here; with --from and without this, the built-in
    /// savings stay
    #[arg(long, value_name = "URL|FILE")]
    spot_from: Option<String>,
    #[command(flatten)]
    directory: Directory,
}

/// Why prices were not refreshed.
#[derive(Debug, thiserror::Error)]
enum UpdateError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Asked(String),
    /// The list could not be fetched.
    #[error("the list at {from} cannot be fetched")]
    Fetch { from: String, source: Box<NetError> },
    /// The server said no.
    #[error("{from} answered {status}")]
    Status { from: String, status: u16 },
    /// Nothing came for a minute, or too much.
    #[error("{from}: {what}")]
    Broken { from: String, what: String },
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    File {
        path: String,
        source: std::io::Error,
    },
    /// The list is not believed.
    #[error("the list from {from} is refused, what was known stays: {}", why.join("; "))]
    Refused { from: String, why: Vec<String> },
    /// It could not be kept.
    #[error(transparent)]
    Kept(#[from] refreshed::BadKept),
}

/// Does it. Exit codes: 0 done; 1 not done, the old prices stay; 2 asked for wrongly.
pub(crate) fn command(update: &Update) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(update, &jiff::Timestamp::now().to_string())),
        Err(source) => Err(UpdateError::Asked(format!("cannot start: {source}"))),
    };
    match done {
        Ok(said) => {
            out::print(&said);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut said = format!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                said += &format!(": {inner}");
                cause = inner.source();
            }
            eprintln!("{said}");
            match error {
                UpdateError::Asked(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(update: &Update, now: &str) -> Result<String, UpdateError> {
    let (cloud, region) = (update.cloud, update.region.as_str());
    if !region
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || c == '-')
        || region.is_empty()
    {
        return Err(UpdateError::Asked(format!(
            "{region:?} is no name of a region"
        )));
    }
    let directory = update.directory.path().ok_or_else(|| {
        UpdateError::Asked("no home directory to keep prices in: give --catalog-dir".to_owned())
    })?;
    let (from, listed) = match cloud {
        Cloud::Aws => aws(update).await?,
        Cloud::Azure => azure(update).await?,
        Cloud::Gcp => {
            return Err(UpdateError::Asked(
                "Google publishes no price list that needs no account: the built-in one stays; \
                 give prices of your own with --catalog FILE"
                    .to_owned(),
            ));
        }
    };
    let before = match refreshed::read(&directory, cloud, region) {
        Ok(Some(kept)) => kept.prices,
        // What is broken is replaced.
        Ok(None) | Err(_) => builtin::prices(cloud, region),
    };
    let changes = sane::check(&listed, &before).map_err(|why| UpdateError::Refused {
        from: from.clone(),
        why,
    })?;
    let kept = Kept {
        fetched: now.to_owned(),
        from,
        prices: Prices {
            basis: String::new(),
            types: listed.types,
        },
    };
    let path = refreshed::write(&directory, cloud, region, &kept)?;
    Ok(format!(
        "{cloud} {region}: {} types from {}\n  {changes}\n  kept in {}\n",
        kept.prices.types.len(),
        kept.from,
        path.display()
    ))
}

/// What a list says.
#[derive(Debug, Default)]
struct Listed {
    types: BTreeMap<String, Price>,
    /// Rows that should have had a price and were free.
    free: usize,
    /// Rows with a price that is none, each in words; any of them refuses the list.
    absurd: Vec<String>,
}

async fn aws(update: &Update) -> Result<(String, Listed), UpdateError> {
    let region = &update.region;
    let from = update.from.clone().unwrap_or_else(|| {
        format!(
            "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/{region}/index.csv"
        )
    });
    let spot_from = match (&update.spot_from, &update.from) {
        (Some(from), _) => Some(from.clone()),
        (None, Some(_)) => None,
        (None, None) => {
            Some("https://spot-bid-advisor.s3.amazonaws.com/spot-advisor-data.json".to_owned())
        }
    };
    let mut list = aws::PriceList::new(region);
    let mut source = Source::open(&from).await?;
    while let Some(bytes) = source.next().await? {
        let fed = list.feed(&bytes);
        fed.map_err(|what| source.broken(what))?;
    }
    let mut listed = list.finish().map_err(|what| source.broken(what))?;
    let savings = match &spot_from {
        Some(from) => {
            let mut source = Source::open(from).await?;
            let document = source.whole().await?;
            aws::savings(&document, region).map_err(|what| source.broken(what))?
        }
        None => builtin::savings(region),
    };
    for (name, (saving, class)) in savings {
        if let Some(price) = listed.types.get_mut(&name) {
            price.spot = price.on_demand.and_then(|p| spot_price(p, saving));
            price.bucket = Bucket::of(class);
        }
    }
    Ok((from, listed))
}

async fn azure(update: &Update) -> Result<(String, Listed), UpdateError> {
    if update.spot_from.is_some() {
        let said = "--spot-from is for AWS: Azure's list has spot prices itself".to_owned();
        return Err(UpdateError::Asked(said));
    }
    let first = update
        .from
        .clone()
        .unwrap_or_else(|| azure::first_page(&update.region));
    let mut listed = Listed::default();
    let mut next = Some(first.clone());
    let mut pages = 0;
    while let Some(from) = next.take() {
        let mut source = Source::open(&from).await?;
        let page = source.whole().await?;
        let link =
            azure::page(&page, &update.region, &mut listed).map_err(|what| source.broken(what))?;
        pages += 1;
        if pages == azure::MAX_PAGES && link.is_some() {
            return Err(source.broken(format!("has more than {} pages", azure::MAX_PAGES)));
        }
        if let Some(link) = &link
            && !same_origin(&first, link)
        {
            return Err(source.broken("its next page is at another host".to_owned()));
        }
        next = link;
    }
    Ok((first, listed))
}

fn same_origin(first: &str, next: &str) -> bool {
    match (Url::parse(first), Url::parse(next)) {
        (Ok(first), Ok(next)) => first.origin() == next.origin(),
        _ => false,
    }
}

/// Bytes from a server or a file.
struct Source {
    from: String,
    read: u64,
    bytes: Bytes,
}

enum Bytes {
    Response(Box<headstart_transfer::net::Response>),
    File(tokio::fs::File),
}

impl Source {
    async fn open(from: &str) -> Result<Self, UpdateError> {
        let bytes = match Url::parse(from) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => {
                Bytes::Response(Box::new(get(url).await?))
            }
            _ => {
                let path = PathBuf::from(from);
                let file = tokio::fs::File::open(&path).await;
                Bytes::File(file.map_err(|source| UpdateError::File {
                    path: from.to_owned(),
                    source,
                })?)
            }
        };
        Ok(Self {
            from: from.to_owned(),
            read: 0,
            bytes,
        })
    }

    /// The next piece; none at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, UpdateError> {
        let piece = match &mut self.bytes {
            Bytes::Response(response) => {
                let next = tokio::time::timeout(STALL, response.chunk()).await;
                let next = next.map_err(|_| UpdateError::Broken {
                    from: self.from.clone(),
                    what: format!("nothing came for {} s", STALL.as_secs()),
                })?;
                let next = next.map_err(|source| UpdateError::Fetch {
                    from: self.from.clone(),
                    source: Box::new(source),
                })?;
                next.map(|bytes| bytes.to_vec())
            }
            Bytes::File(file) => {
                let mut piece = vec![0; 256 << 10];
                let read = file
                    .read(&mut piece)
                    .await
                    .map_err(|source| UpdateError::File {
                        path: self.from.clone(),
                        source,
                    })?;
                piece.truncate(read);
                (read > 0).then_some(piece)
            }
        };
        self.read += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if self.read > MAX_LIST {
            return Err(self.broken(format!("is larger than {} GiB", MAX_LIST >> 30)));
        }
        Ok(piece)
    }

    /// All of it.
    async fn whole(&mut self) -> Result<Vec<u8>, UpdateError> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
            if whole.len() as u64 > MAX_DOCUMENT {
                return Err(self.broken(format!("is larger than {} MiB", MAX_DOCUMENT >> 20)));
            }
        }
        Ok(whole)
    }

    fn broken(&self, what: String) -> UpdateError {
        UpdateError::Broken {
            from: self.from.clone(),
            what,
        }
    }
}

/// A response to a GET. A host named with `http://` may be private and speak plain HTTP, as elsewhere.
async fn get(url: Url) -> Result<headstart_transfer::net::Response, UpdateError> {
    let from = NetError::shown(&url);
    let failed = |source| UpdateError::Fetch {
        from: from.clone(),
        source: Box::new(source),
    };
    let mut policy = HostPolicy::default();
    if let ("http", Some(host)) = (url.scheme(), url.host_str()) {
        policy.trust_plain_http(HostPort {
            host: host.trim_matches(['[', ']']).to_ascii_lowercase(),
            port: url.port_or_known_default(),
        });
    }
    let http = Http::new(policy).map_err(failed)?;
    let response = http.send(Request::get(url)).await.map_err(failed)?;
    match response.status.as_u16() {
        200 => Ok(response),
        status => Err(UpdateError::Status { from, status }),
    }
}

#[cfg(test)]
mod tests;
