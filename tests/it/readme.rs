//! The README's commands, run as they are written.

use std::{fs, path::Path};

use tokio::process::Command;

use crate::support::TestGateway;

/// A command and what the README prints beneath it.
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

#[tokio::test]
async fn every_curl_line_gives_what_stands_beneath_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).expect("README.md");
    let examples = examples(&readme);
    assert!(examples.len() >= 20, "there are {} only", examples.len());
    let gateway = TestGateway::start().await;
    let address = gateway.base.trim_start_matches("http://").to_owned();
    for Example { command, output } in examples {
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
        assert!(matches, "$ {command}\nsaid:    {said}\nREADME:  {output}\n{errors}");
    }
}

/// Every route of the document stands in the README.
#[test]
fn every_route_stands_in_the_readme() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(path).expect("README.md");
    for (path, item) in &pgmq_gateway::api::openapi().paths.paths {
        let item = serde_json::to_value(item).expect("JSON");
        for method in item.as_object().expect("methods").keys() {
            let route = format!("`{} {path}`", method.to_uppercase());
            assert!(readme.contains(&route), "{route} is missing");
        }
    }
}
