//! The daemon's page in a real browser: what it shows while pods are deployed, by eye and by ear.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use self::browser::Browser;
use self::objects::{cache, claim, node, pod, served};

#[path = "page/browser.rs"]
mod browser;
#[path = "page/objects.rs"]
mod objects;

fn program() -> PathBuf {
    let program = std::env::var_os("HEADSTART_DAEMON");
    program.expect("run by `cargo xtask e2e`").into()
}

/// `headstart page`, which ends with the test.
struct Page {
    process: Child,
    url: String,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Page {
    fn of(file: &Path) -> Self {
        let mut process = Command::new(program())
            .args(["page", "--listen", "127.0.0.1:0", "--from"])
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let output = process.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut url).unwrap();
        let url = url.trim().to_owned();
        assert!(url.starts_with("http://"), "{url}");
        Self { process, url }
    }
}

/// By rename: the page must not read half of it.
fn write(file: &Path, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let new = file.with_extension("new");
    std::fs::write(&new, list.to_string()).unwrap();
    std::fs::rename(&new, file).unwrap();
}

#[test]
fn the_page_shows_deploys_and_caches_as_they_change_and_loads_nothing_foreign() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("objects.json");
    // A name that would be markup if anybody took it for such.
    let hostile = "<img src=x onerror=alert(1)>";
    let mut waiting = pod("waiting", None, -60.0, &json!({"phase": "Pending"}));
    waiting["spec"]["containers"][0]["image"] = json!(hostile);
    let done = [
        node("n1", -376.0),
        claim("c1", "n1", "done", -400.0),
        cache("n1", (-382.0, -359.0), (-381.0, -269.0)),
        pod("done", Some("n1"), -400.0, &served(-309.0, -267.0, -213.0)),
    ];
    let mut objects = done.to_vec();
    objects.push(waiting.clone());
    write(&file, &objects);
    let page = Page::of(&file);
    let mut browser = Browser::open(&page.url);

    let status = "document.getElementById('status').textContent";
    browser.until(status, &json!("1 under way, 1 done"));
    let states = "[...document.querySelectorAll('.state')].map((e) => e.textContent.split(',')[0])";
    browser.until(
        states,
        &json!(["waits for requested", "served after 187 s"]),
    );
    // The stages of a bar sum to what is drawn of it, and bytes lie below.
    let widths = "[...document.querySelectorAll('article:last-of-type svg.gantt rect')]\
        .filter((r) => +r.getAttribute('y') === 0)\
        .reduce((sum, r) => sum + +r.getAttribute('width'), 0)";
    let drawn = browser.value(widths).as_f64().unwrap();
    assert!((drawn - 1000.0 * 187.0 / 200.0).abs() < 6.0, "{drawn}");
    let cells = "[...document.querySelectorAll('table.map td')].map((e) => e.className)";
    browser.until(cells, &json!(["verified", "verified", "wanted"]));

    // People who do not see it are told the same.
    let tree = browser.call("Accessibility.getFullAXTree", json!({}));
    let named = |role: &str, beginning: &str| {
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let mut of_role = nodes.filter(|node| node["role"]["value"] == role);
        of_role.any(|node| {
            let name = node["name"]["value"].as_str().unwrap_or_default();
            name.starts_with(beginning)
        })
    };
    assert!(
        named("image", "Waited for: requested"),
        "the chart has a name"
    );
    assert!(named("heading", "Deploys") && named("table", "What each node has"));
    assert!(named("status", "") && named("rowheader", "docker.io/vllm"));

    // Light and dark, and readable in both.
    let contrast = "(() => { const lum = (c) => { const [r, g, b] = c.match(/\\d+/g).map((v) => { \
        v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); \
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; }; \
        const paper = lum(getComputedStyle(document.body).backgroundColor); \
        return Math.min(...['body', '.dim', '.facts', '.state.served', '.state.waiting'].map((s) => { \
        const ink = lum(getComputedStyle(document.querySelector(s)).color); \
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); })); })()";
    let mut papers = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        browser.call("Emulation.setEmulatedMedia", json!({"features": features}));
        papers.push(browser.value("getComputedStyle(document.body).backgroundColor"));
        let least = browser.value(contrast).as_f64().unwrap();
        assert!(least >= 4.5, "{scheme}: {least}");
        browser.picture(&format!("{scheme}.png"));
    }
    assert_ne!(papers[0], papers[1]);

    // It serves while somebody looks, with the details open.
    browser.value("document.querySelector('article[data-uid] details').open = true");
    let mut objects = done.to_vec();
    objects.push(node("n2", -36.0));
    objects.push(claim("c2", "n2", "waiting", -60.0));
    let status_now = served(-12.0, -10.0, -5.0);
    waiting["status"] = status_now;
    waiting["spec"]["nodeName"] = json!("n2");
    objects.push(waiting);
    write(&file, &objects);
    browser.until(status, &json!("0 under way, 2 done"));
    browser.until(
        "document.querySelector('article details').open",
        &json!(true),
    );
    // Text stays text.
    let text = format!("document.body.textContent.includes({})", json!(hostile));
    browser.until(&text, &json!(true));
    browser.until("document.querySelectorAll('img').length", &json!(0));
    assert_eq!(browser.complaints, Vec::<String>::new());

    // Whoever looks is told when what is shown is old.
    drop(page);
    let lost = "document.getElementById('status').className";
    browser.until(lost, &json!("lost"));
}
