//! nginx and HAProxy as processes of a test, configured as docs/operations.md says.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tokio::net::TcpStream;

use super::eventually;

/// A proxy that runs in front of a gateway.
pub struct Proxy {
    child: Child,
    directory: tempfile::TempDir,
    /// Where it listens.
    pub base: String,
}

/// A kind of proxy.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Nginx,
    Haproxy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// The program; nothing, and a line that says so, where it is not installed.
    #[expect(clippy::print_stdout, reason = "says what was not tested")]
    fn program(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
        let found = directories.map(|d| d.join(self.name())).find(|program| program.exists());
        if found.is_none() {
            println!("skipped: there is no {}; tools/setup --test installs it", self.name());
        }
        found
    }

    /// What the page says, the first time or the one after.
    pub fn documented(self, index: usize) -> String {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
        let page = fs::read_to_string(page).expect("docs/operations.md");
        let fence = format!("```{}\n", self.name());
        let block = page.split(&fence).nth(index + 1).expect("a configuration in the page");
        block.split("```").next().unwrap_or_default().to_owned()
    }
}

/// Starts one in front of a gateway, with one of the page's configurations.
pub async fn start(kind: Kind, index: usize, gateway: SocketAddr) -> Option<Proxy> {
    start_with(kind, &kind.documented(index), gateway).await
}

/// Starts one with a configuration in the page's terms.
pub async fn start_with(kind: Kind, config: &str, gateway: SocketAddr) -> Option<Proxy> {
    let program = kind.program()?;
    let directory = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    for address in ["127.0.0.1:8080", "127.0.0.1:8000"] {
        assert!(config.contains(address), "{config}");
    }
    let config = config.replace("127.0.0.1:8080", &gateway.to_string());
    let config = config.replace("127.0.0.1:8000", &listen);
    let path = directory.path().display();
    let config = match kind {
        Kind::Nginx => format!(
            "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\nclient_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\n\
             fastcgi_temp_path {path}/f;\nuwsgi_temp_path {path}/u;\nscgi_temp_path {path}/s;\n{config}\n}}\n"
        ),
        Kind::Haproxy => config,
    };
    let file = directory.path().join("config");
    fs::write(&file, &config).expect("written");
    let log = directory.path().join("log");
    let mut command = Command::new(program);
    match kind {
        Kind::Nginx => command.arg("-p").arg(directory.path()).arg("-e").arg("stderr").arg("-c"),
        Kind::Haproxy => command.args(["-db", "-q", "-f"]),
    };
    command.arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(File::create(&log).expect("a file")).spawn().expect("started");
    let mut proxy = Proxy { child, directory, base: format!("http://{listen}") };
    eventually("the proxy listens", async || {
        if let Ok(Some(status)) = proxy.child.try_wait() {
            panic!("{} ended with {status}: {}", kind.name(), proxy.log());
        }
        TcpStream::connect(&listen).await.ok()
    })
    .await;
    Some(proxy)
}

impl Proxy {
    /// What it said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("an address").port()
}
