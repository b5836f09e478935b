//! What runs the workers in `examples/`, and what they do in the tests.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use tokio::{process::Command, sync::OnceCell};

/// Java's libraries as Debian has them.
const GSON: &str = "/usr/share/java/gson.jar";

/// One of the workers.
pub struct Program {
    /// What runs it as it stands.
    pub as_it_stands: Vec<PathBuf>,
    /// What runs it with the handler in `tests/workers`.
    pub with_handler: Vec<PathBuf>,
    /// The exit code after SIGTERM.
    pub stopped: i32,
}

fn in_repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// One that an interpreter runs.
fn interpreted(program: &str, ending: &str) -> Program {
    let run = |file: String| vec![program.into(), in_repository(file)];
    Program {
        as_it_stands: run(format!("examples/worker.{ending}")),
        with_handler: run(format!("tests/workers/handler.{ending}")),
        stopped: 0,
    }
}

pub async fn python() -> Program {
    interpreted("python3", "py")
}

pub async fn node() -> Program {
    interpreted("node", "mjs")
}

pub async fn php() -> Program {
    interpreted("php", "php")
}

/// A directory for what is built, empty at first.
fn new_directory(name: &str) -> PathBuf {
    let directory = in_repository("target/workers").join(name);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// Runs a compiler to its end.
async fn compile(command: &mut Command, arguments: &[&OsStr]) {
    let ran = command.args(arguments).output().await.expect("run tools/setup --test");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    assert!(said.is_empty(), "it warns: {said}");
}

pub async fn go() -> Program {
    static BUILT: OnceCell<[PathBuf; 2]> = OnceCell::const_new();
    let build = async || {
        let directory = new_directory("go");
        // What is built together has to be in one directory.
        let sources = ["examples/worker.go", "tests/workers/handler.go"].map(|file| {
            let copy = directory.join(Path::new(file).file_name().expect("a name"));
            fs::copy(in_repository(file), &copy).expect("copied");
            copy
        });
        let programs = [directory.join("as_it_stands"), directory.join("with_handler")];
        for (program, sources) in programs.iter().zip([&sources[..1], &sources[..]]) {
            let mut arguments = vec!["build".as_ref(), "-o".as_ref(), program.as_os_str()];
            arguments.extend(sources.iter().map(|source| source.as_os_str()));
            let cache = in_repository("target/workers/go-cache");
            compile(Command::new("go").env("GOCACHE", cache), &arguments).await;
        }
        programs
    };
    let [as_it_stands, with_handler] = BUILT.get_or_init(build).await.clone();
    Program { as_it_stands: vec![as_it_stands], with_handler: vec![with_handler], stopped: 0 }
}

pub async fn java() -> Program {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let directory = new_directory("java");
        let sources = ["examples/Worker.java", "tests/workers/Handler.java"].map(in_repository);
        let options = ["-Xlint:all", "-cp", GSON, "-d"].map(OsStr::new);
        let mut arguments = options.to_vec();
        arguments.push(directory.as_os_str());
        arguments.extend(sources.iter().map(|source| source.as_os_str()));
        compile(&mut Command::new("javac"), &arguments).await;
        directory
    };
    let classes = BUILT.get_or_init(build).await;
    let path = format!("{GSON}:{}", classes.display());
    let source = in_repository("examples/Worker.java");
    Program {
        as_it_stands: vec!["java".into(), "-cp".into(), GSON.into(), source],
        with_handler: vec!["java".into(), "-cp".into(), path.into(), "Handler".into()],
        // As any JVM that a signal has ended.
        stopped: 143,
    }
}
