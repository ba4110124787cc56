//! Compares what the code generates with what is committed. Tests only.

use std::{env, fs, path::Path};

/// `path` is relative to the package. With `UPDATE_COMMITTED=1` the file is written instead.
pub(crate) fn compare(path: &str, generated: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if env::var_os("UPDATE_COMMITTED").is_some() {
        fs::write(&file, generated).expect("the committed file can be written");
        return;
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        committed == generated,
        "{path} is not what the code generates: run `UPDATE_COMMITTED=1 cargo test --lib committed` and commit it"
    );
}
