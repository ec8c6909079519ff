use std::fs;

use super::*;

/// A safetensors file with one tensor of four bytes.
fn shard(tensor: &str) -> Vec<u8> {
    let header = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// A cache with a model of two weight files, as huggingface_hub lays it out.
fn cache() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let repo = directory.path().join("models--org--name");
    let snapshot = repo.join("snapshots/abc");
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(repo.join("refs/main"), "abc").unwrap();
    let index = r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
    fs::write(snapshot.join("1.safetensors"), shard("a")).unwrap();
    fs::write(snapshot.join("2.safetensors"), shard("b")).unwrap();
    (directory, snapshot)
}

fn refused(directory: &tempfile::TempDir) -> String {
    format!(
        "{:#}",
        read_model(directory.path(), "org/name").unwrap_err()
    )
}

#[test]
fn a_complete_model_is_opened_to_its_last_tensor() {
    let (directory, _) = cache();
    let opened = read_model(directory.path(), "org/name").unwrap();
    assert_eq!((opened.shards, opened.tensors), (2, 2));
    assert_eq!(opened.weight_bytes, 2 * shard("a").len() as u64);
}

#[test]
fn a_model_in_one_file_needs_no_index() {
    let (directory, snapshot) = cache();
    fs::remove_file(snapshot.join("model.safetensors.index.json")).unwrap();
    fs::rename(
        snapshot.join("1.safetensors"),
        snapshot.join("model.safetensors"),
    )
    .unwrap();
    assert_eq!(read_model(directory.path(), "org/name").unwrap().shards, 1);
}

#[test]
fn a_model_that_is_not_what_it_should_be_is_refused_with_the_file_named() {
    let (directory, snapshot) = cache();
    fs::write(snapshot.join("2.safetensors"), &shard("b")[..20]).unwrap();
    assert!(refused(&directory).contains("2.safetensors"));
    fs::write(snapshot.join("2.safetensors"), shard("c")).unwrap();
    assert!(refused(&directory).contains("lacks b"));
    fs::remove_file(snapshot.join("2.safetensors")).unwrap();
    assert!(refused(&directory).contains("cannot read"));
    fs::remove_dir_all(directory.path().join("models--org--name/refs")).unwrap();
    assert!(refused(&directory).contains("refs/main"));
}

#[test]
fn an_image_without_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("usr/lib")).unwrap();
    assert!(read_image(directory.path()).is_err());
    fs::write(directory.path().join("usr/lib/x.py"), "x").unwrap();
    assert_eq!(read_image(directory.path()).unwrap(), 1);
}
