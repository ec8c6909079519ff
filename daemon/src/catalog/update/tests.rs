use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request as Asked;
use axum::response::IntoResponse as _;
use expect_test::expect;

use super::*;

const NOW: &str = "2026-11-25T04:00:00Z";

/// A bulk price list in AWS's form: prices of `types`.
fn aws_list(types: &[(&str, &str)]) -> String {
    let mut list = String::from(
        "\"FormatVersion\",\"v1.0\"\n\"Disclaimer\",\"This pricing list is for information, only\"\n\
         \"Publication Date\",\"2026-11-20T00:00:00Z\"\n\"Version\",\"20261120\"\n\
         \"OfferCode\",\"AmazonEC2\"\n\
         \"SKU\",\"OfferTermCode\",\"TermType\",\"PriceDescription\",\"Unit\",\"PricePerUnit\",\
         \"Currency\",\"Instance Type\",\"vCPU\",\"Memory\",\"Tenancy\",\"Operating System\",\
         \"CapacityStatus\",\"Pre Installed S/W\",\"MarketOption\",\"Region Code\"\n",
    );
    let mut row = |kind: &str, price: &str, tenancy: &str, term: &str| {
        list += &format!(
            "\"X\",\"JRTCKXETXF\",\"{term}\",\"$1 per hour, Linux\",\"Hrs\",\"{price}\",\"USD\",\
             \"{kind}\",\"4\",\"1,952 GiB\",\"{tenancy}\",\"Linux\",\"Used\",\"NA\",\"OnDemand\",\
             \"us-east-1\"\n"
        );
    };
    for (kind, price) in types {
        row(kind, price, "Shared", "OnDemand");
        row(kind, "0.0000000000", "Host", "OnDemand");
        row(kind, "0.0100000000", "Shared", "Reserved");
    }
    list
}

/// Answers each path with a body, and remembers what was asked.
async fn serve(bodies: Vec<(&'static str, String)>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let (base, asked) = (address.clone(), log.clone());
    let answer = move |request: Asked| {
        let (bodies, base, asked) = (bodies.clone(), base.clone(), asked.clone());
        async move {
            let path = request.uri().to_string();
            asked.lock().unwrap().push(path.clone());
            match bodies.iter().find(|(known, _)| *known == path) {
                Some((_, body)) => body.replace("BASE", &base).into_response(),
                None => axum::http::StatusCode::NOT_FOUND.into_response(),
            }
        }
    };
    let router = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, log)
}

fn update(cloud: Cloud, region: &str, directory: &Path) -> Update {
    Update {
        cloud,
        region: region.to_owned(),
        from: None,
        spot_from: None,
        directory: Directory::at(directory),
    }
}

/// The types of the built-in list of a region at their own prices, so that a list is large enough.
fn builtin_list() -> Vec<(String, String)> {
    let prices = builtin::prices(Cloud::Aws, "us-east-1");
    let rows = prices.types.iter();
    rows.filter_map(|(name, price)| Some((name.clone(), format!("{:.10}", price.on_demand?.usd()))))
        .collect()
}

fn borrowed(rows: &[(String, String)]) -> Vec<(&str, &str)> {
    rows.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect()
}

#[tokio::test]
async fn aws_prices_and_savings_are_fetched_and_then_used() {
    let directory = tempfile::tempdir().unwrap();
    let mut rows = builtin_list();
    rows.push(("x99.large".to_owned(), "0.5".to_owned()));
    let advice = r#"{"ranges": [], "instance_types": {}, "spot_advisor": {"us-east-1": {"Linux":
        {"g6.xlarge": {"s": 50, "r": 2}}, "Windows": {}}}}"#;
    let (base, asked) = serve(vec![
        ("/index.csv", aws_list(&borrowed(&rows))),
        ("/spot.json", advice.to_owned()),
    ])
    .await;
    let mut asked_for = update(Cloud::Aws, "us-east-1", directory.path());
    asked_for.from = Some(format!("{base}/index.csv"));
    asked_for.spot_from = Some(format!("{base}/spot.json"));
    run(&asked_for, NOW).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), ["/index.csv", "/spot.json"]);
    let kept = refreshed::read(directory.path(), Cloud::Aws, "us-east-1")
        .unwrap()
        .unwrap();
    let g6 = kept.prices.types["g6.xlarge"];
    assert_eq!(g6.on_demand.map(|p| p.0), Some(804_800));
    assert_eq!(g6.spot.map(|p| p.0), Some(402_400));
    assert_eq!(kept.prices.types["x99.large"].size, Some((4, 1952 << 10)));
    // No saving is known of this one any more, so it has no spot price.
    assert_eq!(kept.prices.types["g5.xlarge"].spot, None);
}

#[tokio::test]
async fn azure_pages_are_followed_and_windows_and_low_priority_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let item = |sku: &str, name: &str, product: &str, price: f64| {
        format!(
            r#"{{"currencyCode": "USD", "retailPrice": {price}, "armRegionName": "testregion",
            "armSkuName": "{sku}", "skuName": "{name}", "productName": "{product}",
            "unitOfMeasure": "1 Hour", "type": "Consumption"}}"#
        )
    };
    let page = |items: &[String], next: &str| {
        let next = match next {
            "" => "null".to_owned(),
            next => format!("\"BASE{next}\""),
        };
        format!(
            r#"{{"Items": [{}], "NextPageLink": {next}, "Count": 1}}"#,
            items.join(",")
        )
    };
    let nc = "Standard_NC24ads_A100_v4";
    let (base, asked) = serve(vec![
        (
            "/prices",
            page(
                &[
                    item(nc, "NC24ads A100 v4", "NCadsA100v4", 3.673),
                    item(nc, "NC24ads A100 v4", "NCadsA100v4 Windows", 9.0),
                    item(nc, "NC24ads A100 v4 Low Priority", "NCadsA100v4", 0.1),
                ],
                "/prices?$skip=100",
            ),
        ),
        (
            "/prices?$skip=100",
            page(&[item(nc, "NC24ads A100 v4 Spot", "NCadsA100v4", 0.9)], ""),
        ),
    ])
    .await;
    let mut asked_for = update(Cloud::Azure, "testregion", directory.path());
    asked_for.from = Some(format!("{base}/prices"));
    run(&asked_for, NOW).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 2);
    let kept = refreshed::read(directory.path(), Cloud::Azure, "testregion")
        .unwrap()
        .unwrap();
    let price = kept.prices.types[nc];
    assert_eq!(price.on_demand.map(|p| p.0), Some(3_673_000));
    assert_eq!(price.spot.map(|p| p.0), Some(900_000));
}

#[tokio::test]
async fn a_list_that_cannot_be_believed_is_refused_and_the_old_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let whole = builtin_list();
    let priced = |name: &str, price: &str| {
        let mut rows = whole.clone();
        rows.iter_mut()
            .filter(|row| row.0 == name)
            .for_each(|row| row.1 = price.to_owned());
        aws_list(&borrowed(&rows))
    };
    let mut said = Vec::new();
    let full = priced("", "");
    for list in [
        priced("g6.xlarge", "8.1"),
        priced("g6.xlarge", "-0.8"),
        priced("g6.xlarge", "NaN"),
        aws_list(&borrowed(&whole[..100])),
        aws_list(&[]),
        full[..full.len() - 40].to_owned(),
        "<html>moved</html>".to_owned(),
        String::new(),
    ] {
        let file = directory.path().join("list.csv");
        std::fs::write(&file, list).unwrap();
        let mut asked_for = update(Cloud::Aws, "us-east-1", directory.path());
        asked_for.from = Some(file.display().to_string());
        let error = run(&asked_for, NOW).await.unwrap_err().to_string();
        said.push(error.replace(&file.display().to_string(), "LIST"));
    }
    assert_eq!(
        refreshed::read(directory.path(), Cloud::Aws, "us-east-1").unwrap(),
        None
    );
    expect![[r#"
        the list from LIST is refused, what was known stays: prices that moved more than 10 times: 2, such as g6.xlarge on-demand from 0.80 USD/h to 8.10 USD/h, g6.xlarge spot from 0.41 USD/h to 4.13 USD/h
        the list from LIST is refused, what was known stays: prices that are none: 1, such as g6.xlarge at "-0.8" USD/h
        the list from LIST is refused, what was known stays: prices that are none: 1, such as g6.xlarge at "NaN" USD/h
        the list from LIST is refused, what was known stays: it prices 100 types where 1367 were known: cut short?
        the list from LIST is refused, what was known stays: it prices no type
        LIST: line 4107: the quote that opens here is never closed: the file is cut short
        LIST: has no header that begins with SKU: this is no price list
        LIST: has no header that begins with SKU: this is no price list"#]].assert_eq(&said.join("\n"));
}

#[tokio::test]
async fn what_cannot_be_done_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let (base, _) = serve(vec![(
        "/elsewhere",
        r#"{"Items": [], "NextPageLink": "https://example.com/"}"#.to_owned(),
    )])
    .await;
    let mut said = Vec::new();
    for (cloud, region, from) in [
        (Cloud::Gcp, "us-central1", None),
        (Cloud::Aws, "../up", None),
        (
            Cloud::Aws,
            "us-east-1",
            Some("/nonexistent/list.csv".to_owned()),
        ),
        (Cloud::Aws, "us-east-1", Some(format!("{base}/gone"))),
        (Cloud::Azure, "eastus", Some(format!("{base}/elsewhere"))),
        (
            Cloud::Azure,
            "eastus",
            Some("https://127.0.0.1:1/".to_owned()),
        ),
    ] {
        let mut asked_for = update(cloud, region, directory.path());
        asked_for.from = from;
        let error = run(&asked_for, NOW).await.unwrap_err();
        said.push(error.to_string().replace(&base, "BASE"));
    }
    expect![[r#"
        Google publishes no price list that needs no account: the built-in one stays; give prices of your own with --catalog FILE
        "../up" is no name of a region
        /nonexistent/list.csv cannot be read
        BASE/gone answered 404
        BASE/elsewhere: its next page is at another host
        the list at https://127.0.0.1:1/ cannot be fetched"#]].assert_eq(&said.join("\n"));
}
