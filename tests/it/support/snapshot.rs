//! What is answered word for word, kept in files: every change of a word shows.

use std::{fs, path::PathBuf};

/// Compares with the file of this name in `tests/it/snapshots`. `TEST_UPDATE=1` writes it anew.
#[track_caller]
pub fn assert_snapshot(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots").join(name);
    if std::env::var_os("TEST_UPDATE").is_some() {
        fs::write(&path, text).expect("written");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(text.lines()).find(|(kept, now)| kept != now);
    if let Some((kept, now)) = differs {
        panic!(
            "{name} has\n{kept}\nand the answer is\n{now}\nTEST_UPDATE=1 keeps what is answered"
        );
    }
    let (kept, now) = (kept.lines().count(), text.lines().count());
    assert_eq!(kept, now, "lines of {name}: TEST_UPDATE=1 keeps what is answered");
}
