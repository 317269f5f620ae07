//! A Docker engine for the stories, with an image that holds the real cell and the stand-in runtime.
//! Never: an engine left running for good, or one that touches this machine's network.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Names the socket of an engine to use.
const VARIABLE: &str = "MOLT_TEST_DOCKER";
const USUAL: &str = "/var/run/docker.sock";
/// Where one is started for the tests of this machine; a socket's path must be short.
const OWN: &str = "/tmp/molt-test-docker";
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Ends the engine ($2) when nobody has touched the lease ($1) for ten minutes; no test is quiet for longer.
const WATCHDOG: &str = r#"while sleep 20 && kill -0 "$2"; do
  [ -n "$(find "$1" -mmin -10)" ] || { kill "$2"; exit; }
done"#;
/// What the stories need besides the cell and its runtime.
const PROGRAMS: [&str; 2] = ["/bin/sh", "/bin/sleep"];
const USER: &str = "65532";

/// An engine that answers.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) socket: PathBuf,
}

impl Engine {
    /// The one that is named, the machine's own, or one that is started for all tests. `Err`: says what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        if let Some(socket) = std::env::var_os(VARIABLE) {
            let engine = Self { socket: socket.into() };
            return if engine.answers() { Ok(engine) } else { Err(format!("no engine at {VARIABLE}")) };
        }
        let usual = Self { socket: USUAL.into() };
        if usual.answers() {
            return Ok(usual);
        }
        if !rustix::process::geteuid().is_root() || !has("dockerd") || !has("docker") {
            return Err("no engine, and none can be started (install docker.io, and be root)".to_owned());
        }
        shared()
    }

    fn answers(&self) -> bool {
        self.try_docker(&["version", "--format", "{{.Server.APIVersion}}"]).is_ok_and(|out| out.status.success())
    }

    /// Runs the client; what it printed.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let out = self.try_docker(arguments).unwrap();
        assert!(out.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn try_docker(&self, arguments: &[&str]) -> std::io::Result<Output> {
        let host = format!("unix://{}", self.socket.display());
        Command::new("docker").arg("--host").arg(host).args(arguments).stdin(Stdio::null()).output()
    }

    /// The image with these programs in it, made if the engine has none.
    pub(crate) fn image(&self, cell: &Path, runtime: &Path) -> String {
        let facts = [cell, runtime].map(|path| std::fs::metadata(path).unwrap());
        let facts = facts.map(|facts| format!("{} {} {}", facts.len(), facts.mtime(), facts.mtime_nsec()));
        let name = format!("molt-test-cell:{}", &hex::encode(Sha256::digest(facts.join(" ")))[..12]);
        let _lock = lock(Path::new("/tmp/molt-test-docker-image.lock"));
        if !self.try_docker(&["image", "inspect", &name]).unwrap().status.success() {
            self.import(&name, cell, runtime);
        }
        name
    }

    fn import(&self, name: &str, cell: &Path, runtime: &Path) {
        let root = std::env::temp_dir().join(format!("molt-test-image-{}", std::process::id()));
        for folder in ["bin", "dev", "etc", "molt", "proc", "run/molt/in", "run/molt/out", "state", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap());
        for (from, to) in [(cell, "/molt/molt-cell"), (runtime, "/molt/runtime")] {
            std::fs::copy(from, inside(Path::new(to))).unwrap();
        }
        for program in PROGRAMS {
            std::fs::copy(program, inside(Path::new(program))).unwrap();
        }
        for program in PROGRAMS.map(Path::new).into_iter().chain([cell, runtime]) {
            for library in libraries(program) {
                std::fs::create_dir_all(inside(library.parent().unwrap())).unwrap();
                std::fs::copy(&library, inside(&library)).unwrap();
            }
        }
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let tar = Command::new("tar")
            .args(["--owner", USER, "--group", USER, "--numeric-owner", "-C", root.to_str().unwrap(), "-c", "."])
            .output()
            .unwrap();
        assert!(tar.status.success());
        let host = format!("unix://{}", self.socket.display());
        let mut import = Command::new("docker")
            .args(["--host", &host, "import", "-", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(&tar.stdout).unwrap();
        assert!(import.wait().unwrap().success());
        std::fs::remove_dir_all(&root).unwrap();
    }
}

fn has(program: &str) -> bool {
    Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What the program is linked with, the loader too.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let out = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn lock(path: &Path) -> File {
    let lock = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    lock
}

/// Starts or adopts the engine of all tests under a lock between processes, and renews its lease.
fn shared() -> Result<Engine, String> {
    let lease = PathBuf::from(OWN).with_extension("lease");
    let held = lock(&lease);
    held.set_modified(std::time::SystemTime::now()).unwrap();
    let engine = Engine { socket: Path::new(OWN).join("docker.sock") };
    if engine.answers() {
        return Ok(engine);
    }
    let number = start(Path::new(OWN), &engine)?;
    Command::new("sh")
        .args(["-c", WATCHDOG, "sh"])
        .arg(&lease)
        .arg(number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    Ok(engine)
}

/// Starts an engine that makes no bridge and no rule; its process.
fn start(folder: &Path, engine: &Engine) -> Result<u32, String> {
    std::fs::create_dir_all(folder).unwrap();
    let log = File::create(folder.join("log")).unwrap();
    let mut command = Command::new("dockerd");
    for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
        command.arg(option).arg(folder.join(name));
    }
    command.args(["--bridge=none", "--iptables=false", "--host", &format!("unix://{}", engine.socket.display())]);
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
    let mut started = command.spawn().map_err(|error| format!("dockerd can't be started: {error}"))?;
    let began = Instant::now();
    while !engine.answers() {
        if began.elapsed() > STARTS_WITHIN || started.try_wait().unwrap().is_some() {
            started.kill().ok();
            let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            return Err(format!("dockerd did not start: {}", log.lines().last().unwrap_or_default()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(started.id())
}
