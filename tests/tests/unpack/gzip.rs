//! What is gzip and what is not: containerd's decompressor is the judge.

use std::io::Write as _;

use flate2::{Compression, GzBuilder};
use headstart_unpack::Style;

use super::{Containerd, Layer, file, layer, request, unpack};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn described(tar: &[u8]) -> Vec<u8> {
    let builder = GzBuilder::new().extra("x").filename("n").comment("c");
    let mut encoder = builder.write(Vec::new(), Compression::best());
    encoder.write_all(tar).unwrap();
    encoder.finish().unwrap()
}

fn two(tar: &[u8]) -> Vec<u8> {
    let (front, back) = tar.split_at(700);
    [gzip(front), gzip(back)].concat()
}

fn cut(mut stream: Vec<u8>, by: usize) -> Vec<u8> {
    stream.truncate(stream.len() - by);
    stream
}

fn flipped(mut stream: Vec<u8>, from_end: usize) -> Vec<u8> {
    let at = stream.len() - from_end;
    stream[at] ^= 1;
    stream
}

fn and(mut stream: Vec<u8>, more: &[u8]) -> Vec<u8> {
    stream.extend_from_slice(more);
    stream
}

type Made = fn(&[u8]) -> Vec<u8>;

#[test]
fn what_containerd_takes_for_gzip_is_taken_and_nothing_else_is() {
    let good: [(&str, Made); 6] = [
        ("one member", gzip),
        ("two members", two),
        ("an empty one before", |tar| and(gzip(&[]), &gzip(tar))),
        ("an empty one between", |tar| {
            let (front, back) = tar.split_at(700);
            [gzip(front), gzip(&[]), gzip(back)].concat()
        }),
        ("an empty one after", |tar| and(gzip(tar), &gzip(&[]))),
        ("all fields of a header", described),
    ];
    let bad: [(&str, Made); 9] = [
        ("cut in the trailer", |tar| cut(gzip(tar), 1)),
        ("without trailer", |tar| cut(gzip(tar), 8)),
        ("cut in the data", |tar| cut(gzip(tar), 12)),
        ("cut in the second header", |tar| {
            and(gzip(tar), &gzip(&[])[..5])
        }),
        ("cut in the second trailer", |tar| cut(two(tar), 1)),
        ("wrong checksum", |tar| flipped(gzip(tar), 5)),
        ("wrong size", |tar| flipped(gzip(tar), 1)),
        ("bytes after the end", |tar| and(gzip(tar), b"more")),
        ("zeros after the end", |tar| and(gzip(tar), &[0; 512])),
    ];
    let good = good.map(|(name, made)| (name, made, true));
    let bad = bad.map(|(name, made)| (name, made, false));
    let mut containerd = Containerd::start();
    let mut wrong = Vec::new();
    for (name, made, accepted) in good.into_iter().chain(bad) {
        // A layer that containerd has already is not unpacked again.
        let tar = layer(&[file(name, "content")]);
        let layer = Layer {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
            blob: made(&tar),
            tar,
        };
        let staging = tempfile::tempdir().unwrap();
        let ours = unpack(&request(staging.path(), Style::Base), &layer.blob);
        let theirs = containerd.unpack(&[layer]);
        if (ours.is_ok(), theirs.is_ok()) != (accepted, accepted) {
            wrong.push(format!("{name}: {ours:?}, containerd {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
