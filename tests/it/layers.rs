//! The modules are layers: each may use only what stands in its row.

use std::{collections::BTreeSet, fs, path::Path};

/// A module and what it may use.
const LAYERS: [(&str, &[&str]); 11] = [
    ("domain", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain"]),
    ("store", &["domain"]),
    ("engine", &["config", "domain", "store", "telemetry"]),
    ("broker", &["config", "domain", "engine", "store", "telemetry"]),
    ("auth", &["config", "domain"]),
    ("api", &["auth", "broker", "domain", "telemetry"]),
    ("embedded", &["config"]),
    ("server", &["config", "telemetry"]),
    (
        "app",
        &[
            "api",
            "auth",
            "broker",
            "config",
            "domain",
            "embedded",
            "engine",
            "server",
            "store",
            "telemetry",
        ],
    ),
];

#[test]
fn every_module_uses_only_its_layers() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeSet::new();
    for entry in fs::read_dir(&source).expect("src").flatten() {
        if entry.path().is_dir() {
            modules.insert(entry.file_name().into_string().expect("a name"));
        }
    }
    let listed: BTreeSet<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(modules, listed, "every module stands in the table");
    for (module, allowed) in LAYERS {
        for file in files(&source.join(module)) {
            let text = fs::read_to_string(&file).expect("readable");
            for used in used_modules(&text) {
                let fine = used == module || allowed.contains(&&*used);
                assert!(fine, "{} uses `{used}`, which {module} may not", file.display());
            }
            // The name of one of its targets in a filter for the log is no use of it.
            let sqlx = text.replace("\"sqlx::", "").contains("sqlx::") && module != "store";
            assert!(!sqlx, "{} uses sqlx, which is for store alone", file.display());
        }
    }
}

pub fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect()
}

/// The modules behind `crate::`, alone or in braces.
fn used_modules(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => used.extend(first_names(list)),
            None => used.extend(name(rest)),
        }
    }
    used
}

/// The names at the first level of a braced list.
fn first_names(list: &str) -> Vec<String> {
    let (mut names, mut depth, mut start) = (Vec::new(), 0, true);
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && c.is_alphabetic() => {
                names.extend(name(&list[at..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

fn name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let is_module = name.starts_with(|c: char| c.is_lowercase());
    is_module.then_some(name)
}

#[test]
fn uses_are_found() {
    let text = "use crate::{\n    api,\n    config::{self, Loaded},\n    store::{Conn, Db},\n};\n\
                use crate::domain::Message; fn f() -> crate::engine::Receiver {}";
    let found: Vec<String> = used_modules(text).into_iter().collect();
    assert_eq!(found, ["api", "config", "domain", "engine", "store"]);
}
