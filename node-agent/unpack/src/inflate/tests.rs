use std::io::Write as _;
use std::sync::mpsc;

use flate2::{Compression, Crc, GzBuilder};

use super::*;

/// What comes out of a stream; of a broken one nothing.
fn inflated(stream: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let (hash, hashed) = mpsc::sync_channel(64);
    let (apply, applied) = mpsc::sync_channel(64);
    let (_, used) = mpsc::channel();
    let outlets = Outlets { hash, apply, used };
    let amounts = run(stream, &Limits::default(), &outlets)?;
    drop(outlets);
    let out: Vec<u8> = applied.iter().flat_map(|chunk| chunk.to_vec()).collect();
    assert_eq!(out.len() as u64, amounts.tar);
    assert_eq!(
        out,
        hashed.iter().flat_map(|c| c.to_vec()).collect::<Vec<_>>()
    );
    Ok(out)
}

fn refused(stream: &[u8]) -> bool {
    matches!(inflated(stream), Err(UnpackError::Compression { format, .. }) if format == "gzip")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Text that deflate stores in all of its ways: repeated, Huffman-coded, and as it is.
fn text() -> Vec<u8> {
    let mut text = b"layer ".repeat(200);
    let mut seed = 1_u32;
    text.extend(
        std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 24) as u8
        })
        .take(700_000),
    );
    text.extend_from_slice(&[7; 100_000]);
    text
}

#[test]
fn members_follow_each_other_and_may_be_empty() {
    let text = text();
    let (front, back) = text.split_at(300_001);
    let empty = gzip(&[]);
    for members in [
        vec![gzip(&text)],
        vec![gzip(front), gzip(back)],
        vec![empty.clone(), gzip(&text)],
        vec![gzip(front), empty.clone(), empty.clone(), gzip(back)],
        vec![gzip(&text), empty.clone()],
    ] {
        assert!(inflated(&members.concat()).unwrap() == text);
    }
    assert_eq!(inflated(&empty).unwrap(), b"");
}

#[test]
fn a_header_may_have_every_field_and_a_checksum_of_its_own() {
    let builder = GzBuilder::new().extra("extra").filename("n").comment("c");
    let mut encoder = builder.write(Vec::new(), Compression::default());
    encoder.write_all(b"text").unwrap();
    let whole = encoder.finish().unwrap();
    assert_eq!(inflated(&whole).unwrap(), b"text");
    let (header, body) = whole.split_at(10 + 2 + 5 + 2 + 2);
    let mut header = header.to_vec();
    header[3] |= 2;
    let mut crc = Crc::new();
    crc.update(&header);
    let checked = |sum: u32| [&header[..], &(sum as u16).to_le_bytes(), body].concat();
    assert_eq!(inflated(&checked(crc.sum())).unwrap(), b"text");
    assert!(refused(&checked(crc.sum() ^ 1)));
}

#[test]
fn a_stream_that_ends_early_is_refused_wherever_it_ends() {
    let (first, second) = (gzip(b"one two one two"), gzip(b"three"));
    let stream = [&first[..], &second].concat();
    for length in 3..stream.len() {
        let whole = length == first.len();
        assert_eq!(refused(&stream[..length]), !whole, "{length} bytes");
    }
}

#[test]
fn what_follows_the_last_member_and_is_none_is_refused() {
    let stream = gzip(b"text");
    for trailing in [
        &b"x"[..],
        b"\0",
        &[0; 512],
        b"\x1f",
        b"\x1f\x8b",
        b"\x1f\x8b\x07",
    ] {
        assert!(refused(&[&stream[..], trailing].concat()), "{trailing:?}");
    }
}

#[test]
fn a_member_that_is_not_what_its_trailer_says_is_refused() {
    for members in [[&b"text"[..], b"more"], [b"", b"more"], [b"text", b""]] {
        let members = members.map(gzip);
        for damaged in 0..2 {
            for byte in 1..=8 {
                let mut members = members.clone();
                let at = members[damaged].len() - byte;
                members[damaged][at] ^= 0x40;
                assert!(refused(&members.concat()), "{byte} of member {damaged}");
            }
        }
    }
}

#[test]
fn no_damage_of_one_bit_gives_other_bytes() {
    let text = b"a rose is a rose is a rose".repeat(9);
    let stream = gzip(&text);
    // From the fourth byte on: without the magic number it is no gzip.
    for bit in 3 * 8..stream.len() * 8 {
        let mut damaged = stream.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match inflated(&damaged) {
            Ok(out) => assert_eq!(out, text, "bit {bit}"),
            Err(error) => assert!(
                matches!(error, UnpackError::Compression { .. }),
                "bit {bit}: {error}"
            ),
        }
    }
}
