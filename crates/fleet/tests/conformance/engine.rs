//! A Docker engine for tests, with an image that holds what they bring along.
//! Never: an engine left running for good, or one that touches this machine's network.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};

/// What the stories need besides the cell and its runtime.
const PROGRAMS: [&str; 2] = ["/bin/sh", "/bin/sleep"];
/// Finds an engine, or starts one.
pub(crate) const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../infrastructure/docker/engine");
const USER: &str = "65532";

/// An engine that answers.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) socket: PathBuf,
}

impl Engine {
    /// Whichever the script finds or starts. `Err`: says what is missing.
    pub(crate) fn find() -> Result<Self, String> {
        Self::of(&mut Command::new(SCRIPT))
    }

    /// The same, however the script was told to look.
    pub(crate) fn of(script: &mut Command) -> Result<Self, String> {
        let out = script.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if out.status.success() { Ok(Self { socket: text(out.stdout).into() }) } else { Err(text(out.stderr)) }
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

    /// Removes the containers and volumes with this label, whatever state they are in.
    pub(crate) fn remove_all(&self, label: &str) {
        for (list, remove) in [
            (&["ps", "--all", "--quiet"][..], &["rm", "--force", "--volumes"][..]),
            (&["volume", "ls", "--quiet"], &["volume", "rm", "--force"]),
        ] {
            let Ok(found) = self.try_docker(&[list, &["--filter", label]].concat()) else { continue };
            for name in String::from_utf8_lossy(&found.stdout).lines() {
                self.try_docker(&[remove, &[name]].concat()).ok();
            }
        }
    }

    /// An image with these programs in it, where it says, made if the engine has none.
    pub(crate) fn image(&self, programs: &[(&Path, &str)]) -> String {
        let facts = programs.iter().map(|(path, place)| {
            let facts = std::fs::metadata(path).unwrap();
            format!("{place} {} {} {}", facts.len(), facts.mtime(), facts.mtime_nsec())
        });
        let facts = facts.collect::<Vec<_>>().join("\n");
        let name = format!("molt-test-cell:{}", &hex::encode(Sha256::digest(facts))[..12]);
        let _lock = lock(Path::new("/tmp/molt-test-docker-image.lock"));
        if !self.try_docker(&["image", "inspect", &name]).unwrap().status.success() {
            self.import(&name, programs);
        }
        name
    }

    fn import(&self, name: &str, programs: &[(&Path, &str)]) {
        let root = std::env::temp_dir().join(format!("molt-test-image-{}", std::process::id()));
        for folder in ["bin", "dev", "etc", "molt", "proc", "run/molt/in", "run/molt/out", "state", "sys", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap());
        let also = PROGRAMS.map(|program| (Path::new(program), program));
        for (from, to) in programs.iter().chain(&also) {
            std::fs::copy(from, inside(Path::new(to))).unwrap();
            for library in libraries(from) {
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
