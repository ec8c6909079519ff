//! Which catalog a command works with: what was said on its command line, layer over layer.

use std::path::PathBuf;

use clap::Args;

use super::refreshed::BadKept;
use super::row::Row;
use super::{Cloud, Market, Region, UnknownRegion, builtin, file, refreshed, rows};

/// Where machine types and prices come from.
#[derive(Debug, Clone, Args)]
pub(crate) struct CatalogArgs {
    /// Rows of your own that replace built-in types or add to them, CSV or YAML; see `headstart
    /// catalog --help`
    #[arg(long, value_name = "FILE")]
    pub(crate) catalog: Vec<PathBuf>,
    /// Only the types of --catalog
    #[arg(long, requires = "catalog")]
    pub(crate) no_builtin_catalog: bool,
    /// Cloud whose types may be bought
    #[arg(long, value_enum)]
    pub(crate) cloud: Option<Cloud>,
    /// Region of the cloud
    #[arg(long)]
    pub(crate) region: Option<String>,
    /// Zones, by letter, number or name; three by default
    #[arg(long, value_delimiter = ',', value_name = "ZONE")]
    pub(crate) zones: Vec<String>,
    #[command(flatten)]
    pub(crate) directory: Directory,
}

/// Where fetched prices are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct Directory {
    /// Where `headstart catalog update` keeps prices
    #[arg(long, value_name = "DIR", env = "HEADSTART_CATALOG_DIR")]
    catalog_dir: Option<PathBuf>,
    #[arg(long, hide = true, env = "XDG_CACHE_HOME", hide_env = true)]
    cache_home: Option<PathBuf>,
    #[arg(long, hide = true, env = "HOME", hide_env = true)]
    home: Option<PathBuf>,
}

impl Directory {
    /// The directory, if there is a home for it.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let set = |path: &Option<PathBuf>| path.clone().filter(|p| !p.as_os_str().is_empty());
        set(&self.catalog_dir)
            .or_else(|| Some(set(&self.cache_home)?.join("headstart/catalog")))
            .or_else(|| Some(set(&self.home)?.join(".cache/headstart/catalog")))
    }

    /// Exactly this one; for tests.
    #[cfg(test)]
    pub(crate) fn at(path: &std::path::Path) -> Self {
        Self {
            catalog_dir: Some(path.to_owned()),
            cache_home: None,
            home: None,
        }
    }
}

/// What other inputs say of where to buy, for what the command line leaves open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Hint {
    /// The only region that the pools allow.
    pub(crate) region: Option<String>,
    /// The only zones that the pools allow.
    pub(crate) zones: Vec<String>,
}

/// The market that was asked for.
///
/// # Errors
/// One line per problem.
pub(crate) fn market(args: &CatalogArgs, hint: &Hint) -> Result<Market, Vec<String>> {
    let mut problems = Vec::new();
    let place = match place(args, hint) {
        Ok(place) => place,
        Err(problem) => {
            problems.push(problem);
            None
        }
    };
    let (mut all, mut market) = (Vec::new(), Market::default());
    if place.is_none() && args.catalog.is_empty() && problems.is_empty() {
        problems.push(
            "where to buy is not said: give --cloud aws|gcp|azure and --region, a pool with one \
             topology.kubernetes.io/region, or types of your own with --catalog FILE"
                .to_owned(),
        );
    }
    if let Some(region) = place.as_ref().filter(|_| !args.no_builtin_catalog) {
        match builtin_rows(args, region) {
            Ok(Ok((rows, with))) => {
                all = rows;
                market = with;
            }
            // Rows of a person's own may be all there is of a region.
            Ok(Err(_)) if !args.catalog.is_empty() => {}
            Ok(Err(unknown)) => problems.push(unknown.to_string()),
            Err(broken) => problems.push(broken.to_string()),
        }
    }
    for path in &args.catalog {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => match file::read(&name, &bytes, place.as_ref()) {
                Ok(rows) => {
                    market.basis.push(format!("{name}: {} types", rows.len()));
                    all.extend(rows);
                }
                Err(found) => problems.extend(found.iter().map(ToString::to_string)),
            },
            Err(error) => problems.push(format!("{name}: cannot be read: {error}")),
        }
    }
    if problems.is_empty() {
        Ok(market.with(all))
    } else {
        Err(problems)
    }
}

/// The built-in rows of a region at the best prices known.
fn builtin_rows(
    args: &CatalogArgs,
    region: &Region,
) -> Result<Result<(Vec<Row>, Market), UnknownRegion>, BadKept> {
    let kept = match args.directory.path() {
        Some(directory) => refreshed::read(&directory, region.cloud, &region.name)?,
        None => None,
    };
    Ok(rows(region, kept.map(|kept| kept.prices)))
}

/// The region that was asked for, if one was.
fn place(args: &CatalogArgs, hint: &Hint) -> Result<Option<Region>, String> {
    let name = args.region.clone().or_else(|| hint.region.clone());
    let zones = match args.zones.is_empty() {
        true if args.region.is_none() || args.region == hint.region => hint.zones.clone(),
        _ => args.zones.clone(),
    };
    match (args.cloud, name) {
        (Some(cloud), Some(name)) => Ok(Some(Region { cloud, name, zones })),
        (Some(cloud), None) => Err(format!(
            "--cloud {cloud} needs --region, such as --region {}",
            match cloud {
                Cloud::Aws => "us-east-1",
                Cloud::Gcp => "us-central1",
                Cloud::Azure => "eastus",
            }
        )),
        (None, Some(name)) => match cloud_of(&name) {
            Some(cloud) => Ok(Some(Region { cloud, name, zones })),
            None if args.catalog.is_empty() => Err(format!(
                "region {name:?} is of no cloud that the catalog knows: give --cloud aws|gcp|azure"
            )),
            None => Ok(None),
        },
        (None, None) => Ok(None),
    }
}

/// The cloud that has a region of this name: no two share one.
pub(crate) fn cloud_of(region: &str) -> Option<Cloud> {
    let known = |cloud: &Cloud| builtin::region_names(*cloud).contains(region);
    Cloud::ALL.into_iter().find(known)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;

    pub(super) fn args(cloud: Option<Cloud>, region: Option<&str>) -> CatalogArgs {
        CatalogArgs {
            catalog: Vec::new(),
            no_builtin_catalog: false,
            cloud,
            region: region.map(str::to_owned),
            zones: Vec::new(),
            directory: Directory::at(Path::new("/nonexistent")),
        }
    }

    fn problems(args: &CatalogArgs) -> String {
        market(args, &Hint::default()).unwrap_err().join("\n")
    }

    #[test]
    fn a_region_alone_names_its_cloud() {
        assert_eq!(cloud_of("us-east-1"), Some(Cloud::Aws));
        assert_eq!(cloud_of("eu-west-3"), Some(Cloud::Aws));
        assert_eq!(cloud_of("us-central1"), Some(Cloud::Gcp));
        assert_eq!(cloud_of("westeurope"), Some(Cloud::Azure));
        assert_eq!(cloud_of("moon"), None);
    }

    #[test]
    fn what_is_missing_is_named_by_its_flag() {
        expect!["where to buy is not said: give --cloud aws|gcp|azure and --region, a pool with one topology.kubernetes.io/region, or types of your own with --catalog FILE"]
            .assert_eq(&problems(&args(None, None)));
        expect!["--cloud gcp needs --region, such as --region us-central1"]
            .assert_eq(&problems(&args(Some(Cloud::Gcp), None)));
        expect![[
            r#"region "moon" is of no cloud that the catalog knows: give --cloud aws|gcp|azure"#
        ]]
        .assert_eq(&problems(&args(None, Some("moon"))));
    }

    #[test]
    fn a_pools_only_region_is_enough() {
        let hint = Hint {
            region: Some("us-east-1".to_owned()),
            zones: vec!["us-east-1b".to_owned()],
        };
        let market = market(&args(None, None), &hint).unwrap();
        assert!(market.offerings.iter().all(|o| o.zone == "us-east-1b"));
    }

    #[test]
    fn a_row_of_ones_own_replaces_the_built_in_one_and_another_adds_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let own = directory.path().join("own.csv");
        let rows = "type,vcpu,memory_mib,on_demand\ng6.xlarge,4,16384,0.1\nbox,8,32768,0.2\n";
        std::fs::write(&own, rows).unwrap();
        let mut with = args(Some(Cloud::Aws), Some("us-east-1"));
        let before = market(&with, &Hint::default()).unwrap();
        with.catalog = vec![own];
        let after = market(&with, &Hint::default()).unwrap();
        assert_eq!(after.types.len(), before.types.len() + 1);
        let g6 = after
            .types
            .iter()
            .position(|t| t.name == "g6.xlarge")
            .unwrap();
        let sold = after.offerings.iter().filter(|o| o.instance_type == g6);
        assert!(sold.clone().all(|o| o.price.0 == 100_000));
        assert_eq!(sold.count(), 3);
        with.no_builtin_catalog = true;
        assert_eq!(market(&with, &Hint::default()).unwrap().types.len(), 2);
    }

    #[test]
    fn fetched_prices_that_are_broken_are_an_error_and_not_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("aws_us-east-1.csv"), "# fetched").unwrap();
        let own = directory.path().join("own.csv");
        std::fs::write(&own, "type,vcpu,memory_mib,on_demand\nbox,8,32768,0.2\n").unwrap();
        let mut with = args(Some(Cloud::Aws), Some("us-east-1"));
        with.directory = Directory::at(directory.path());
        with.catalog = vec![own];
        let said = problems(&with).replace(&directory.path().display().to_string(), "DIR");
        expect!["DIR/aws_us-east-1.csv: has no line `# from` at its beginning; remove it, or run `headstart catalog update` again"].assert_eq(&said);
    }
}
