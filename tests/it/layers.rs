//! The modules are layers: each may use only what stands in its row.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A module and what it may use.
const LAYERS: [(&str, &[&str]); 15] = [
    ("domain", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain"]),
    ("store", &["domain"]),
    ("engine", &["config", "domain", "store", "telemetry"]),
    ("broker", &["config", "domain", "engine", "store", "telemetry"]),
    ("auth", &["config", "domain"]),
    ("http", &["auth", "broker", "domain", "telemetry"]),
    ("api", &["broker", "domain", "http", "telemetry"]),
    ("sqs", &["auth", "broker", "domain", "http"]),
    ("supabase", &["broker", "domain", "http"]),
    ("dashboard", &["auth", "broker", "domain", "http", "telemetry"]),
    ("embedded", &["config"]),
    ("server", &["config", "telemetry"]),
    (
        "app",
        &[
            "api",
            "auth",
            "broker",
            "config",
            "dashboard",
            "domain",
            "embedded",
            "engine",
            "http",
            "server",
            "sqs",
            "store",
            "supabase",
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

/// The table in docs/architecture.md, for people.
#[test]
fn the_document_has_the_same_table() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).expect("text");
    let (_, table) = page.split_once("| module | what lives there | may use |").expect("a table");
    let mut above: Vec<&str> = Vec::new();
    let mut listed = Vec::new();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [module, _, may_use] = cells[..] else { panic!("{row}") };
        let module = module.trim_matches('`');
        let mut used: Vec<&str> = match may_use {
            "–" => Vec::new(),
            "all" | "all of the above" => above.clone(),
            names => names.split(", ").map(|name| name.trim_matches('`')).collect(),
        };
        used.sort_unstable();
        listed.push((module, used));
        above.push(module);
    }
    let table = LAYERS.map(|(module, used)| (module, used.to_vec()));
    assert_eq!(listed, table);
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

/// Within each folder no file uses another that uses it.
#[test]
fn no_import_leads_in_a_circle() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules: BTreeMap<String, String> = BTreeMap::new();
    for (folder, _) in LAYERS {
        for file in files(&source.join(folder)) {
            let path = file.strip_prefix(&source).expect("within").with_extension("");
            let path = path.to_str().expect("a name").replace('/', "::");
            let module = path.strip_suffix("::mod").unwrap_or(&path).to_owned();
            modules.insert(module, fs::read_to_string(&file).expect("readable"));
        }
    }
    // What a module only hands on is used where it stands.
    let (mut handed_on, mut used) = (BTreeMap::new(), Vec::new());
    for (module, text) in &modules {
        for (is_public, path) in imports(module, text) {
            let name = path.rsplit("::").next().unwrap_or_default();
            if is_public {
                handed_on.insert(format!("{module}::{name}"), path);
            } else {
                used.push((module.as_str(), path));
            }
        }
    }
    let mut arrows: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, path) in &used {
        let found = module_of(path, &modules, &handed_on).filter(|found| found != module);
        arrows.entry(*module).or_default().extend(found);
    }
    // What nothing is left to be used by goes, until nothing goes any more.
    loop {
        let used: BTreeSet<&str> = arrows.values().flatten().copied().collect();
        let before = arrows.len();
        arrows.retain(|module, _| used.contains(module));
        if arrows.len() == before {
            break;
        }
    }
    // What is left uses a circle, or is in one; what uses nothing of it is in none.
    loop {
        let left: BTreeSet<&str> = arrows.keys().copied().collect();
        arrows.retain(|_, uses| uses.iter().any(|used| left.contains(used)));
        if arrows.len() == left.len() {
            break;
        }
    }
    assert!(arrows.is_empty(), "these use one another: {arrows:?}");
}

/// The paths that a module's `use` items name, from the root of the crate, and whether they are handed on.
fn imports(module: &str, text: &str) -> Vec<(bool, String)> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].rsplit('\n').next().unwrap_or_default();
        if before.is_empty() || before.starts_with("pub") {
            let item = code[at + 4..].split(';').next().unwrap_or_default();
            let item: String = item.split_whitespace().collect();
            let mut named = Vec::new();
            flatten("", &item, &mut named);
            paths.extend(named.into_iter().map(|path| (!before.is_empty(), path)));
        }
    }
    let absolute = |path: &String| {
        if let Some(rest) = path.strip_prefix("crate::") {
            return rest.to_owned();
        }
        let mut base: Vec<&str> = module.split("::").collect();
        for part in path.split("::") {
            match part {
                "self" => {}
                "super" => drop(base.pop()),
                part => base.push(part),
            }
        }
        base.join("::")
    };
    paths.iter().map(|(is_public, path)| (*is_public, absolute(path))).collect()
}

/// The paths of a tree such as `a::{b, c::{d, self}}`, without white space.
fn flatten(start: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((path, list)) = tree.split_once('{') else {
        paths.push(format!("{start}{tree}"));
        return;
    };
    let list = list.strip_suffix('}').unwrap_or(list);
    let (mut depth, mut begin) = (0, 0);
    for (at, character) in list.char_indices().chain([(list.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if at > begin {
                    flatten(&format!("{start}{path}"), &list[begin..at], paths);
                }
                begin = at + 1;
            }
            _ => {}
        }
    }
}

/// The module in which something is that has this path, if it is one of these.
fn module_of<'a>(
    path: &str,
    modules: &'a BTreeMap<String, String>,
    handed_on: &BTreeMap<String, String>,
) -> Option<&'a str> {
    let ends: Vec<usize> = path.match_indices("::").map(|(at, _)| at).chain([path.len()]).collect();
    for end in ends.into_iter().rev() {
        let (start, rest) = path.split_at(end);
        if let Some((module, _)) = modules.get_key_value(start) {
            return Some(module);
        }
        if let Some(from) = handed_on.get(start).filter(|from| *from != start) {
            return module_of(&format!("{from}{rest}"), modules, handed_on);
        }
    }
    None
}

#[test]
fn imports_are_found() {
    let text = "use super::{b::{C, self}, super::d};\npub(crate) use e::F;\n\
                #[cfg(test)]\nmod tests { use super::*; }";
    let found = imports("api::x::y", text);
    let expected = [
        (false, "api::x::b::C"),
        (false, "api::x::b"),
        (false, "api::d"),
        (true, "api::x::y::e::F"),
    ];
    assert_eq!(found, expected.map(|(is_public, path)| (is_public, path.to_owned())));

    let modules = ["a", "a::b", "c"].map(|name| (name.to_owned(), String::new())).into();
    let handed_on = [("c::B", "a::B"), ("a::B", "a::b::B")];
    let handed_on = handed_on.map(|(name, path)| (name.to_owned(), path.to_owned())).into();
    assert_eq!(module_of("c::B::new", &modules, &handed_on), Some("a::b"));
    assert_eq!(module_of("c::D", &modules, &handed_on), Some("c"));
    assert_eq!(module_of("d::E", &modules, &handed_on), None);
}
