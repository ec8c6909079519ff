use roxmltree::{Document, ParsingOptions};

use super::*;
use crate::demo::report::sample;

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options).expect("well-formed")
}

#[test]
fn the_page_is_well_formed_and_loads_nothing() {
    let page = html(&sample::report());
    let document = parse(&page);
    for node in document.descendants().filter(roxmltree::Node::is_element) {
        let name = node.tag_name().name();
        assert!(
            !["script", "link", "img", "iframe"].contains(&name),
            "{name}"
        );
        for attribute in node.attributes() {
            assert!(!["src", "href"].contains(&attribute.name()), "{name}");
        }
    }
    assert!(!page.contains("url("));
}

#[test]
fn the_page_has_both_charts_with_a_bar_for_every_span() {
    let report = sample::report();
    let page = html(&report);
    let document = parse(&page);
    let bars = document.descendants().filter(|node| {
        let class = node.attribute("class").unwrap_or_default();
        let class = class.split(' ').next().unwrap_or_default();
        node.has_tag_name(("http://www.w3.org/2000/svg", "rect"))
            && ["boot", "image", "weights", "engine"].contains(&class)
    });
    assert_eq!(bars.count(), 14);
    for text in ["Today", "Headstart", "299.0 s", "147.0 s", "152.0 s saved"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn what_the_user_wrote_cannot_break_the_page() {
    let mut report = sample::report();
    report.containerd = Some("/run/<script>&\"".into());
    let page = html(&report);
    parse(&page);
    assert!(!page.contains("<script"));
}

#[test]
fn the_picture_stands_alone() {
    let picture = chart::svg(&sample::report());
    let document = parse(&picture);
    let root = document.root_element();
    assert!(root.has_tag_name(("http://www.w3.org/2000/svg", "svg")));
    let [_, _, width, height]: [f64; 4] = root
        .attribute("viewBox")
        .map(|text| {
            text.split(' ')
                .map(|n| n.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .unwrap()
        .try_into()
        .unwrap();
    for rect in document
        .descendants()
        .filter(|n| n.tag_name().name() == "rect")
    {
        let number = |name| rect.attribute(name).unwrap().parse::<f64>().unwrap();
        assert!(number("x") + number("width") <= width);
        assert!(number("y") + number("height") <= height);
    }
}
