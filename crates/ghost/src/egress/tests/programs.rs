//! The programs that a bot's shell has, told of the proxy as a cell tells them.

use std::process::Stdio;

use tokio::process::Command;

use super::*;

impl Rig {
    /// Runs a program with the proxy's variables; its exit status, and all that it printed.
    async fn run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let proxy = format!("http://{}", self.proxy);
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
            command.env(name, &proxy);
        }
        let trusted = world::Trusted::write();
        command.env("NODE_USE_ENV_PROXY", "1");
        command.env("NODE_EXTRA_CA_CERTS", trusted.path()).env("CURL_CA_BUNDLE", trusted.path());
        command.env("no_proxy", "").env("NO_PROXY", "");
        let output = command.output().await.unwrap_or_else(|error| panic!("{program}: {error}"));
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[tokio::test]
async fn curl_reaches_what_is_listed_and_reads_why_not_otherwise() {
    let (web, secure) = (world::web().await, world::secure_web().await);
    let private = [("site.example:80", web), ("secure.example:443", secure), ("other.example:443", secure)];
    let rig = Rig::start(&["site.example", "secure.example"], &private).await;
    let curl = async |arguments: &[&str]| {
        let all = [&["-sS", "--max-time", "10"], arguments].concat();
        rig.run("curl", &all).await
    };
    let (good, said) = curl(&["http://site.example/hello", "-H", "x-a: 1", "--data", "body"]).await;
    assert!(good && said.contains("reached: POST /hello HTTP/1.1") && said.ends_with("body"), "{said}");
    assert!(said.contains("host: site.example") && !said.to_lowercase().contains("proxy"), "{said}");
    let (good, said) = curl(&["-p", "http://site.example/tunnelled"]).await;
    assert!(good && said.contains("GET /tunnelled"), "{said}");
    let (good, said) = curl(&["https://secure.example/safe"]).await;
    assert!(good && said.contains("reached: GET /safe"), "{said}");
    let (good, said) = curl(&["https://other.example/"]).await;
    assert!(!good && said.contains("403"), "{said}");
    let (good, said) = curl(&["-w", "%{http_code}", "http://other.example/"]).await;
    assert!(good && said.contains("may not reach other.example") && said.ends_with("403"), "{said}");
    // Another name than the tunnel's: curl is made to ask the one for the other.
    let to = "other.example:443:secure.example:443";
    let (good, said) = curl(&["--connect-to", to, "https://other.example/"]).await;
    assert!(!good && said.to_lowercase().contains("unrecognized name"), "{said}");
    rig.refused("other.example", 443, 1).await;
    let counted = rig.egress.0.counts.now();
    assert!(counted.sent > 500 && counted.received > 500, "bytes are counted");
}

/// Prints the status and the body of each address, or what went wrong.
const FETCH: &str = "
    const why = (error) => (error ? `${error.message}; ${why(error.cause)}` : '');
    for (const address of process.argv.slice(1)) {
      const answer = fetch(address).then(async (got) => `${got.status} ${await got.text()}`);
      console.log(address, await answer.catch(why));
    }";

/// What the end-to-end tests install: the very Node that runs the bots' runtime.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../e2e/node_modules");

#[tokio::test]
async fn node_reaches_what_is_listed_by_the_variables_alone() {
    let (web, secure) = (world::web().await, world::secure_web().await);
    let private = [("site.example:80", web), ("secure.example:443", secure)];
    let rig = Rig::start(&["site.example", "secure.example"], &private).await;
    let Some(node) = node() else {
        assert!(std::env::var_os("CI").is_none(), "nothing may be left out here");
        eprintln!("skipped: the runtime's Node isn't here; `npm ci --ignore-scripts` in e2e fetches it");
        return;
    };
    let addresses =
        ["http://site.example/a", "https://secure.example/b", "https://other.example/", "http://third.example/"];
    let all = [&["--input-type=module", "-e", FETCH, "--"][..], &addresses].concat();
    let (good, said) = rig.run(&node, &all).await;
    let line = |address: &str| said.lines().find(|line| line.starts_with(address)).unwrap_or_default().to_owned();
    assert!(good && line(addresses[0]).contains("200 reached: GET /a"), "{said}");
    assert!(line(addresses[1]).contains("200 reached: GET /b"), "{said}");
    assert!(line(addresses[2]).contains("Proxy response (403)"), "{said}");
    assert!(line(addresses[3]).contains("403"), "{said}");
}

/// Older ones don't heed the variables, so the machine's own won't do.
fn node() -> Option<String> {
    let processor = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let node = format!("{INSTALLED}/node-linux-{processor}/bin/node");
    std::path::Path::new(&node).is_file().then_some(node)
}

/// What is shown here holds for what bots have.
#[test]
fn the_node_of_the_tests_is_the_runtimes() {
    let pinned = |manifest: &str| {
        let manifest: Value = serde_json::from_str(manifest).unwrap();
        manifest["optionalDependencies"].clone()
    };
    let runtime = pinned(include_str!("../../../../../runtime/package.json"));
    let tests = pinned(include_str!("../../../../../e2e/package.json"));
    assert!(runtime.is_object());
    assert_eq!(runtime, tests);
}
