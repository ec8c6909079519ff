//! What stands in for vLLM: an image of about its parts, and a program of its name.

use headstart_testbed::cluster::shell_layer;
use headstart_testbed::image::{Compression, Format, Image, Layer, Recipe, this_architecture};

/// Reads the model from the cache that its environment names, as huggingface_hub lays it out; fetches
/// what is not there from the Hub, and says so; reads all of it, as loading does; then
/// answers probes.
///
/// `vllm download` fills that cache for another pod of the node, which waits while it does.
const VLLM: &str = r#"#!/bin/busybox sh
set -eu
busybox() { /bin/busybox "$@"; }
model=$2
cache=${HF_HUB_CACHE:-/tmp/hub}
directory=$cache/models--$(echo "$model" | busybox sed 's,/,--,')
names() {
  busybox timeout 5 /bin/busybox wget -q -O- "$HF_ENDPOINT/api/models/$model" |
    busybox sed 's/"rfilename"/\n&/g' |
    busybox sed -n 's/^"rfilename": *"\([^"]*\)".*/\1/p' | grep -v -e '/' -e '\.bin' || true
}
get() { wget -q -O "$1/$2" "$HF_ENDPOINT/$model/resolve/main/$2"; }
if [ "$1" = download ]; then
  busybox mkdir -p "$directory/refs" "$directory/snapshots/whole"
  echo >"$directory/.lock"
  for file in $(names); do get "$directory/snapshots/whole" "$file"; done
  echo whole >"$directory/refs/main"
  busybox rm "$directory/.lock"
  exit
fi
while [ -e "$directory/.lock" ]; do sleep 0.1; done
commit=$(cat "$directory/refs/main" 2>/dev/null || echo none)
snapshot=$directory/snapshots/$commit
own=/tmp/own
busybox mkdir -p $own
files=$(names)
[ -n "$files" ] || files=$(ls "$snapshot")
for file in $files; do
  at=$snapshot
  if [ ! -e "$at/$file" ]; then
    at=$own
    get $at "$file"
    echo "downloaded $file"
  fi
  cat "$at/$file" >/dev/null
  echo "loaded $file"
done
busybox mkdir -p /tmp/www
echo ok >/tmp/www/health
echo serving
exec httpd -f -p 8000 -h /tmp/www
"#;

/// An image whose second layer is about so many bytes, which do not compress much.
pub(crate) fn engine(seed: u64, bytes: u64) -> Image {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(VLLM.len() as u64);
    tar.append_data(&mut header, "usr/bin/vllm", VLLM.as_bytes())
        .unwrap();
    let libraries = Layer::Tree {
        seed,
        bytes,
        files: 200,
    };
    let own = Layer::Tar(tar.into_inner().unwrap().into());
    let recipe = Recipe {
        layers: vec![shell_layer().unwrap(), libraries, own],
        compression: Compression::Gzip(1),
        format: Format::Oci,
        architecture: this_architecture().to_owned(),
    };
    Image::make(&recipe).unwrap()
}
