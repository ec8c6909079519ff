//! The running hash of a blob: always its sha256, and its git blob id where the Hub names it so.

use headstart_core::digest::{Expected, GitSha1, Sha256};
use sha1::Sha1;
use sha2::Digest;

/// Hashes a blob's bytes in order.
#[derive(Clone)]
pub struct Digesting {
    sha256: sha2::Sha256,
    git: Option<Sha1>,
}

impl Digesting {
    /// For a blob of `size` bytes that is expected to be `expected`.
    pub fn new(expected: &Expected, size: u64) -> Self {
        let git = matches!(expected, Expected::GitSha1(_)).then(|| {
            // git hash-object: "blob", a space, the length in decimal, a NUL, then the content.
            Sha1::new_with_prefix(format!("blob {size}\0"))
        });
        Self {
            sha256: sha2::Sha256::new(),
            git,
        }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(git) = &mut self.git {
            git.update(bytes);
        }
    }

    /// The sha256 of everything, and what was found in the form of `expected`.
    pub fn finish(self) -> (Sha256, Expected) {
        let sha256 = Sha256(self.sha256.finalize().into());
        let found = match self.git {
            Some(git) => Expected::GitSha1(GitSha1(git.finalize().into())),
            None => Expected::Sha256(sha256),
        };
        (sha256, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_blob_id_is_what_git_hash_object_prints() {
        // `printf 'hello\n' | git hash-object --stdin`
        let expected: GitSha1 = "ce013625030ba8dba906f756967f9e9ca394464a".parse().unwrap();
        let expected = Expected::GitSha1(expected);
        let mut digesting = Digesting::new(&expected, 6);
        digesting.update(b"hel");
        digesting.update(b"lo\n");
        let (sha256, found) = digesting.finish();
        assert_eq!(found, expected);
        assert_eq!(
            sha256.to_string(),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
    }
}
