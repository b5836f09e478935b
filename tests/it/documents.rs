//! The README and the documents: commands are run as they are written, and links lead somewhere.

use std::{collections::BTreeMap, fs, path::Path};

use reqwest::StatusCode;
use tokio::process::Command;

use crate::support::{TestGateway, eventually, process::program};

/// A command and what a document prints beneath it.
struct Example {
    command: String,
    output: String,
}

/// The `$ curl` lines of all console blocks, each with the lines beneath it.
fn examples(readme: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for block in readme.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        let mut continues = false;
        for line in block.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                examples.push(Example { command: command.to_owned(), output: String::new() });
            } else if let Some(last) = examples.last_mut() {
                let into = if continues { &mut last.command } else { &mut last.output };
                into.push('\n');
                into.push_str(line);
            }
            let command = examples.last().map_or("", |last| &last.command);
            // A quotation may go over several lines.
            continues = line.ends_with('\\') || command.matches('\'').count() % 2 == 1;
        }
    }
    examples.retain(|example| example.command.contains("curl"));
    examples
}

/// Times are never the same twice.
fn without_times(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\"20") {
        let time = rest.get(at + 1..at + 28).unwrap_or_default();
        let is_time = time.ends_with('Z') && time.as_bytes().get(10) == Some(&b'T');
        out.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        if is_time {
            out.push_str("(time)");
            rest = &rest[27..];
        }
    }
    without_receipts(&(out + rest)).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Neither are receipts.
fn without_receipts(text: &str) -> String {
    let mut parts = text.split("\"receipt\":\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        let rest = part.split_once('"').map_or("", |(_, rest)| rest);
        out + "\"receipt\":(receipt)" + rest
    })
}

/// The README, and then the other documents.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).expect("documents");
    let mut names: Vec<String> = docs
        .map(|entry| format!("docs/{}", entry.expect("a file").file_name().to_string_lossy()))
        .filter(|name| Path::new(name).extension().is_some_and(|kind| kind == "md"))
        .collect();
    names.sort();
    let first =
        ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "migrations/README.md"];
    let read = |name: String| {
        let text = fs::read_to_string(root.join(&name)).expect("text");
        (name, text)
    };
    let first = first.map(str::to_owned);
    first.into_iter().chain(names).map(read).collect()
}

#[tokio::test]
async fn every_curl_line_gives_what_stands_beneath_it() {
    let gateway = TestGateway::start().await;
    let address = gateway.base.trim_start_matches("http://").to_owned();
    let mut count = 0;
    for (name, text) in documents() {
        for Example { command, output } in examples(&text) {
            count += 1;
            let actual = command.replace("localhost:8080", &address);
            let ran = Command::new("bash").arg("-c").arg(&actual).output().await.expect("bash");
            let said = String::from_utf8_lossy(&ran.stdout);
            let (said, output) = (without_times(&said), without_times(&output));
            // A line that ends in an ellipsis shows the beginning only.
            let matches = match output.strip_suffix('…') {
                Some(beginning) => said.starts_with(beginning.trim_end()),
                None => said == output,
            };
            let errors = String::from_utf8_lossy(&ran.stderr);
            assert!(matches, "{name}: $ {command}\nsaid:    {said}\nthere:   {output}\n{errors}");
        }
    }
    assert!(count >= 20, "there are {count} only");
}

/// The short workers of the README do what they say.
#[tokio::test]
async fn the_short_workers_work() {
    let readme = documents().swap_remove(0).1;
    let interpreters =
        [("```python\n", ["python3", "-uc"]), ("```js\n", ["node", "--input-type=module"])];
    for (fence, command) in interpreters {
        let code = readme.split(fence).nth(1).and_then(|rest| rest.split("```").next());
        let gateway = TestGateway::start().await;
        gateway.create("orders").await;
        gateway.send("orders", r#"{"message":"for the worker"}"#).await;
        let code = code.expect("a worker").replace("http://localhost:8080", &gateway.base);
        let mut process = Command::new(command[0]);
        process.args(&command[1..]);
        if fence.contains("js") {
            process.arg("-e");
        }
        let mut running = process.arg(code).kill_on_drop(true).spawn().expect("it starts");
        eventually("the message is done", async || {
            assert!(running.try_wait().expect("known").is_none(), "it goes on: {fence}");
            gateway.all("orders").await.is_empty().then_some(())
        })
        .await;
    }
}

/// Every route of the document stands in the description of the API.
#[test]
fn every_route_stands_in_the_description() {
    let (_, api) = documents().into_iter().find(|(name, _)| name == "docs/api.md").expect("there");
    for (path, item) in &pgmq_gateway::api::openapi().paths.paths {
        let item = serde_json::to_value(item).expect("JSON");
        for method in item.as_object().expect("methods").keys() {
            let route = format!("`{} {path}`", method.to_uppercase());
            assert!(api.contains(&route), "{route} is missing");
        }
    }
}

/// The blocks of a document that are in this language.
fn blocks<'a>(text: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let fence = format!("```{language}\n");
    let parts: Vec<&str> = text.split(&*fence).skip(1).collect();
    parts.into_iter().map(|part| part.split("```").next().unwrap_or_default())
}

#[test]
fn settings_can_be_loaded_as_they_stand() {
    let mut count = 0;
    for (name, text) in documents() {
        for block in blocks(&text, "toml") {
            count += 1;
            let file = tempfile::NamedTempFile::new().expect("a file");
            fs::write(file.path(), block).expect("written");
            let path = file.path().display().to_string();
            let output = program(&["config", "--config", &path], &[]).output().expect("it ran");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {block}\n{said}");
        }
    }
    assert!(count >= 5, "there are {count} only");
}

/// The codes of errors in the source, each with its status where that stands beside it.
fn codes_of_the_source() -> BTreeMap<String, Option<u16>> {
    let mut codes = BTreeMap::new();
    for file in ["src/api/problem.rs", "src/server/problem.rs"] {
        let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
        let source = source.expect("text");
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let line = code.split_whitespace().collect::<Vec<_>>().join(" ");
        // A code stands between its status and its title.
        for (at, _) in line.match_indices(", \"") {
            let Some((code, rest)) = line[at + 3..].split_once('"') else { continue };
            let is_code = code.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if is_code && rest.starts_with(", \"") {
                let status = line[..at].rsplit([':', '(', ' ']).next().unwrap_or_default();
                let known = codes.entry(code.to_owned()).or_insert(None);
                *known = known.or(status_named(status));
            }
        }
    }
    codes
}

/// The number of `NOT_FOUND` and the like.
fn status_named(name: &str) -> Option<u16> {
    (100..600).find(|number| {
        let status = StatusCode::from_u16(*number).ok();
        let reason = status.and_then(|status| status.canonical_reason()).unwrap_or_default();
        reason.to_uppercase().replace(' ', "_") == name
    })
}

#[test]
fn every_error_stands_in_the_table_with_its_status() {
    let source = codes_of_the_source();
    let (_, api) = documents().into_iter().find(|(name, _)| name == "docs/api.md").expect("there");
    let table = api.split("| status | `code` | when |").nth(1).expect("a table");
    let mut listed = BTreeMap::new();
    for row in table.lines().skip(2).map_while(|line| line.strip_prefix("| ")) {
        let mut cells = row.split(" | ");
        let statuses = cells.next().expect("statuses");
        let statuses: Vec<u16> = statuses.split(", ").filter_map(|s| s.parse().ok()).collect();
        let codes = cells.next().expect("codes").split(", ").map(|code| code.trim_matches('`'));
        for (at, code) in codes.enumerate() {
            listed.insert(code.to_owned(), statuses.get(at).or(statuses.last()).copied());
        }
    }
    assert!(source.len() > 20, "{source:?}");
    assert!(source.keys().eq(listed.keys()), "{source:?}\n{listed:?}");
    for (code, status) in source {
        assert!(status.is_none() || listed[&code] == status, "{code}: {status:?}");
    }
}

/// What a heading is called in a link.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for (name, text) in documents() {
        let directory = root.join(&name).parent().expect("a directory").to_owned();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { root.join(&name) } else { directory.join(file) };
            assert!(file.exists(), "{name}: {link}");
            if !heading.is_empty() {
                let there = fs::read_to_string(&file).expect("text");
                let found = there.lines().any(|l| l.starts_with('#') && anchor(l) == heading);
                assert!(found, "{name}: {link}");
            }
        }
    }
    assert!(count > 30, "{count}");
}
