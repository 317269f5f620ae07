//! What a sealed cell sees: the words that bubblewrap is told.
//! Never: a folder of the platform's, another bot's, or the home of the account that runs it all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Folder;

/// Where the cell's own folders lie inside.
pub(crate) const STATE: &str = "/state";
pub(crate) const WAY_IN: &str = "/run/molt/in/cell.sock";
pub(crate) const GATE: &str = "/run/molt/out/proxy.sock";
/// The cell's program; its name tells the host which process it is.
pub(super) const CELL: &str = "/run/molt/molt-cell";
/// Nobody's number, inside; outside it is the cell's own user.
const USER: &str = "65532";
/// The runtime's temporary files; 64 MiB were enough in all runs.
const TMP_BYTES: &str = "268435456";
const SHM_BYTES: &str = "67108864";
/// Of the system's own settings only what programs need to start, to trust certificates and to tell the time.
const SETTINGS: [&str; 8] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
];

/// The seal itself, and the system in it.
pub(super) fn system() -> Vec<OsString> {
    // Its own process 1 is the cell: a helper in that place would hold the cell's secrets where the runtime's tools can
    // read them.
    let namespaces = ["--unshare-all", "--unshare-user", "--disable-userns", "--as-pid-1", "--new-session"];
    let nobody = ["--cap-drop", "ALL", "--uid", USER, "--gid", USER, "--hostname", "cell", "--clearenv"];
    let mut words: Vec<OsString> = namespaces.iter().chain(&nobody).map(Into::into).collect();
    words.extend(["--ro-bind", "/usr", "/usr"].map(OsString::from));
    for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
        let path = Path::new("/").join(name);
        match std::fs::read_link(&path) {
            Ok(target) => words.extend(["--symlink".into(), target.into(), path.into()]),
            Err(_) if path.is_dir() => words.extend(["--ro-bind".into(), path.clone().into(), path.into()]),
            Err(_) => {}
        }
    }
    for path in SETTINGS {
        words.extend(["--ro-bind-try", path, path].map(OsString::from));
    }
    words.extend(["--proc", "/proc", "--dev", "/dev"].map(OsString::from));
    words.extend(["--perms", "1777", "--size", SHM_BYTES, "--tmpfs", "/dev/shm"].map(OsString::from));
    words.extend(["--remount-ro", "/dev"].map(OsString::from));
    words.extend(["--perms", "1777", "--size", TMP_BYTES, "--tmpfs", "/tmp"].map(OsString::from));
    words
}

/// Small files that tell programs who they are; there is nobody else inside.
pub(super) fn files() -> [(&'static str, &'static str); 4] {
    [
        ("/etc/passwd", "bot:x:65532:65532::/state:/bin/sh\n"),
        ("/etc/group", "bot:x:65532:\n"),
        ("/etc/hosts", "127.0.0.1 localhost cell\n::1 localhost\n"),
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
    ]
}

/// The cell's folders, its program and its runtime.
pub(super) fn cell(words: &mut Vec<OsString>, folder: &Folder, binary: &Path, runtime: &[String]) {
    for path in runtime_paths(runtime) {
        bind(words, "--ro-bind", &path, &path);
    }
    bind(words, "--ro-bind", binary, Path::new(CELL));
    bind(words, "--bind", &folder.state(), Path::new(STATE));
    for (outside, inside, how) in [(folder.way_in(), WAY_IN, "--bind"), (folder.out(), GATE, "--ro-bind")] {
        bind(words, how, &outside, Path::new(inside).parent().unwrap_or(Path::new(inside)));
    }
    words.extend(["--chdir", STATE].map(OsString::from));
}

fn bind(words: &mut Vec<OsString>, how: &str, outside: &Path, inside: &Path) {
    words.extend([how.into(), outside.into(), inside.into()]);
}

/// What the runtime is made of, outside of the system's own folders: packages of npm with all that they use, a script with
/// its package, or just the file.
fn runtime_paths(command: &[String]) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in command.iter().map(Path::new).filter(|path| path.is_absolute() && path.exists()) {
        let real = path.canonicalize().ok();
        for place in [Some(path.to_owned()), real].into_iter().flatten() {
            let root = root_of(&place);
            if !root.starts_with("/usr") && !paths.contains(&root) && !is_linked_system(&root) {
                paths.push(root);
            }
        }
    }
    paths
}

fn root_of(path: &Path) -> PathBuf {
    let packages = path.ancestors().filter(|folder| folder.file_name().is_some_and(|name| name == "node_modules"));
    if let Some(installed) = packages.last().and_then(Path::parent) {
        return installed.to_owned();
    }
    match path.parent() {
        Some(folder) if folder.join("package.json").is_file() => folder.to_owned(),
        _ => path.to_owned(),
    }
}

/// `/bin` and the like, where they are links into `/usr`.
fn is_linked_system(path: &Path) -> bool {
    ["/bin", "/sbin", "/lib", "/lib32", "/lib64"].iter().any(|folder| path.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_brings_its_packages_and_nothing_beside_them() {
        let folder = std::env::temp_dir().join(format!("molt-seal-{}", uuid::Uuid::new_v4()));
        let program = folder.join("a/node_modules/node/bin/node");
        let entry = folder.join("a/node_modules/openclaw/node_modules/x/entry.mjs");
        let own = folder.join("own/run.sh");
        let package = folder.join("package/main.js");
        for path in [&program, &entry, &own, &package] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::fs::write(folder.join("package/package.json"), "{}").unwrap();
        let words = |paths: &[&Path]| paths.iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        let of = |command: &[String]| runtime_paths(command);
        assert_eq!(of(&words(&[&program, &entry, Path::new("gateway")])), [folder.join("a")]);
        assert_eq!(of(&words(&[&own])), std::slice::from_ref(&own));
        assert_eq!(of(&words(&[Path::new("/usr/bin/env"), &package])), [folder.join("package")]);
        assert!(of(&words(&[Path::new("/bin/sh"), Path::new("/nowhere/at/all")])).is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
