//! What a cell can't do, tried from inside a real one: every way out of it that we know, the real host and the real proxy
//! around it, and a neighbour who goes on talking meanwhile. The same attempts get through where nothing is sealed off, or
//! they would prove nothing.
//! Never: passed over in silence where bubblewrap is missing; whoever means that sets MOLT_TEST_WITHOUT_SEAL.

#![expect(clippy::unwrap_used, reason = "a test panics where it can't go on")]

mod docker;
#[path = "../../../fleet/tests/conformance/engine.rs"]
mod engine;

use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::stack::http::Ask;
use crate::stack::people::Person;
use crate::stack::{LOOK_AGAIN, Stack};

/// For machines on which no seal can be made. `.ci/run` doesn't set it.
const WITHOUT: &str = "MOLT_TEST_WITHOUT_SEAL";
/// Little, so that it is soon used up, and more than the temporary folder may hold, which counts with it.
const MEMORY_MIB: u64 = 512;
const PROCESSES: u64 = 96;
const SETTINGS: &str = "[fleet]\nmemory_mib = 512\nprocesses = 96\n";
/// All attempts on two busy cores.
const ATTEMPTS_TAKE_MAX: Duration = Duration::from_secs(60);

/// What the host and its people hold that a cell must not reach, with somebody listening who notices.
struct World {
    stack: Stack,
    attacker: (Person, String),
    neighbour: (Person, String),
    http: TcpListener,
    resolver: UdpSocket,
    door: UnixListener,
    _abstract_door: UnixListener,
    abstract_name: String,
    outside: PathBuf,
    /// Where states lie, if not in the bots' folders.
    volumes: Option<PathBuf>,
}

impl World {
    async fn new(seal: &str) -> Self {
        Self::around(Stack::start_probed(&format!("{SETTINGS}seal = \"{seal}\"\n")).await, None).await
    }

    async fn around(stack: Stack, volumes: Option<PathBuf>) -> Self {
        let (attacker, neighbour) = (stack.with_bot("Eve").await, stack.with_bot("Ada").await);
        let outside = crate::stack::fresh_folder();
        std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(outside.join("everybodys"), "may be read").unwrap();
        let door = UnixListener::bind(outside.join("door.sock")).unwrap();
        std::fs::set_permissions(outside.join("door.sock"), std::fs::Permissions::from_mode(0o777)).unwrap();
        let abstract_name = format!("molt-it-{}", uuid::Uuid::new_v4().simple());
        let abstract_door = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
        answer_everybody(&resolver);
        let world = Self {
            stack,
            attacker,
            neighbour,
            http: TcpListener::bind("127.0.0.1:0").unwrap(),
            resolver,
            door,
            _abstract_door: UnixListener::bind_addr(&abstract_door).unwrap(),
            abstract_name,
            outside,
            volumes,
        };
        world.leave_a_program_of_roots();
        world
    }

    fn bot_folder(&self, bot: &str) -> PathBuf {
        self.stack.data().canonicalize().unwrap().join("bots").join(bot)
    }

    fn workspace(&self) -> PathBuf {
        let bot = &self.attacker.1;
        let volume = self.volumes.as_ref().map(|volumes| volumes.join(bot).join("_data"));
        volume.unwrap_or_else(|| self.bot_folder(bot).join("state")).join("workspace")
    }

    /// Where the attacker's own state folder lies for the attacker.
    fn seen_from_inside(&self, sealed: bool, path: &str) -> String {
        let state = self.bot_folder(&self.attacker.1).join("state");
        if sealed { format!("/state/{path}") } else { state.join(path).display().to_string() }
    }

    /// `id` that belongs to root and runs as root, whoever starts it.
    fn leave_a_program_of_roots(&self) {
        if rustix::process::geteuid().is_root() {
            let program = self.workspace().join("id");
            std::fs::copy("/usr/bin/id", &program).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o4755)).unwrap();
        }
    }

    /// Has the attacker make the attempts; what came of each.
    async fn attempt(&self, number: u64, attempts: &[Value]) -> BTreeMap<String, (bool, String)> {
        let (orders, results) = (self.workspace().join("orders.json"), self.workspace().join("results.json"));
        let text = json!({ "number": number, "attempts": attempts }).to_string();
        std::fs::write(orders.with_extension("draft"), text).unwrap();
        std::fs::set_permissions(orders.with_extension("draft"), std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::rename(orders.with_extension("draft"), &orders).unwrap();
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&results).unwrap_or_default();
            if let Ok(answered) = serde_json::from_str::<Value>(&text)
                && answered["number"] == number
            {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let answers = answered["answers"].as_array().unwrap().iter();
                let of = |answer: &Value| (answer["through"] == true, text(&answer["said"]));
                return answers.map(|answer| (text(&answer["name"]), of(answer))).collect();
            }
            assert!(began.elapsed() < ATTEMPTS_TAKE_MAX, "the attempts were not made");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn neighbour_answers(&self, message: &str) {
        let (person, bot) = &self.neighbour;
        let mut chat = self.stack.chat(person, bot).await;
        let began = Instant::now();
        assert_eq!(chat.turn(message, "main", "Hello there.").await.end(), "finished");
        println!("the neighbour answered within {:?}", began.elapsed());
    }

    /// Where the platform's database is reached: the socket, or the port.
    fn database(&self) -> Value {
        let url: url::Url = self.stack.database.owner_url.expose_secret().parse().unwrap();
        let port = url.port().unwrap_or(5432);
        let folder = url.query_pairs().map(|(_, value)| value.into_owned()).find(|value| value.starts_with('/'));
        let Some(folder) = folder else {
            let address = format!("{}:{port}", url.host_str().unwrap());
            return json!({"name": "the database", "do": "tcp", "address": address});
        };
        let socket = Path::new(&folder).join(format!(".s.PGSQL.{port}"));
        assert!(socket.exists(), "{} is no socket: {url}", socket.display());
        json!({"name": "the database", "do": "unix", "path": socket})
    }

    fn ways_out(&self, sealed: bool) -> Vec<Value> {
        // In containers, one of this very program: it is there as well, and nobody's business.
        let cell = self.stack.cells().into_iter().map(|cell| cell.pid).max().unwrap_or_else(own_number);
        let mut attempts = vec![
            json!({"name": "a host's port", "do": "tcp", "address": self.http.local_addr().unwrap().to_string()}),
            json!({"name": "the platform's port", "do": "tcp", "address": format!("127.0.0.1:{}", self.stack.port)}),
            json!({"name": "the operator's port", "do": "tcp", "address": format!("127.0.0.1:{}", self.stack.port + 1)}),
            json!({"name": "a name server", "do": "udp", "address": self.resolver.local_addr().unwrap().to_string()}),
            json!({"name": "a host's socket", "do": "unix", "path": self.outside.join("door.sock")}),
            json!({"name": "a socket without a file", "do": "abstract", "path": self.abstract_name}),
            json!({"name": "a file of everybody's", "do": "read", "path": self.outside.join("everybodys")}),
            json!({"name": "a file outside", "do": "write", "path": self.outside.join("written")}),
            json!({"name": "a host's processes", "do": "processes", "word": "molt dev"}),
            json!({"name": "a neighbour's process", "do": "signal", "pid": cell}),
            json!({"name": "root by a program", "do": "run", "argument": "-u",
                   "program": self.seen_from_inside(sealed, "workspace/id")}),
            json!({"name": "powers", "do": "powers"}),
            json!({"name": "more processes", "do": "bomb", "processes": PROCESSES * 4}),
            json!({"name": "more memory", "do": "memory", "mib": MEMORY_MIB + 128}),
            json!({"name": "more files", "do": "files", "files": 10_000}),
            json!({"name": "a larger temporary folder", "do": "fill", "path": "/tmp/large", "mib": 300}),
        ];
        for call in ["new user namespace", "ptrace", "keyctl", "io_uring", "clone3", "vsock", "file handles"] {
            attempts.push(json!({"name": call, "do": "call", "call": call}));
        }
        attempts
    }

    /// What other users of the machine and the rights of files keep from a cell as well: here nothing may lead to it at all.
    fn secrets_and_places(&self) -> Vec<Value> {
        let (neighbour, data) = (self.bot_folder(&self.neighbour.1), self.stack.data());
        let molt = format!("/proc/{}/environ", self.stack.pid());
        let mut attempts = vec![
            self.database(),
            json!({"name": "a neighbour's door", "do": "unix", "path": neighbour.join("run/in/cell.sock")}),
            json!({"name": "a neighbour's gate", "do": "unix", "path": neighbour.join("run/out/proxy.sock")}),
            json!({"name": "a neighbour's state", "do": "list", "path": neighbour.join("state")}),
            json!({"name": "the data folder", "do": "list", "path": data}),
            json!({"name": "the bots", "do": "list", "path": data.join("bots")}),
            json!({"name": "the master keys", "do": "environment", "path": molt, "word": "MOLT_SEAL_KEY"}),
            json!({"name": "its own token", "do": "environment", "path": "/proc/1/environ", "word": "MOLT_GATEWAY_TOKEN"}),
            json!({"name": "its own token in memory", "do": "read", "path": "/proc/1/mem"}),
            json!({"name": "the host's root", "do": "list", "path": "/proc/1/root/"}),
            json!({"name": "root", "do": "root"}),
            json!({"name": "the metadata address", "do": "tcp", "address": "169.254.169.254:80"}),
            json!({"name": "an address by TCP", "do": "tcp", "address": "192.0.2.1:443"}),
            json!({"name": "a name server by UDP", "do": "udp", "address": "192.0.2.1:53"}),
            json!({"name": "a domain by HTTPS", "do": "proxy", "target": "unlisted.example:443"}),
            json!({"name": "a domain by HTTP", "do": "proxy", "target": "http://unlisted.example/"}),
            json!({"name": "the metadata address by the proxy", "do": "proxy", "target": "http://169.254.169.254/"}),
            json!({"name": "a host's port by the proxy", "do": "proxy",
                   "target": format!("127.0.0.1:{}", self.http.local_addr().unwrap().port())}),
            json!({"name": "another gate", "do": "swap", "path": "/run/molt/out/proxy.sock", "target": "/tmp/x"}),
        ];
        for path in
            ["/escaped", "/usr/escaped", "/etc/escaped", "/run/molt/escaped", "/run/molt/out/escaped", "/dev/escaped"]
        {
            attempts.push(json!({"name": format!("a file {path}"), "do": "write", "path": path}));
        }
        attempts
    }

    /// Ctrl-C; no process of a cell is left, nor its groups.
    async fn end(mut self) {
        assert!(self.stack.interrupt().await.success());
        assert_eq!(crate::stack::processes::below(&self.stack.data()), Vec::new());
        for bot in [&self.attacker.1, &self.neighbour.1] {
            assert!(!Path::new("/sys/fs/cgroup/memory/molt-cells").join(bot).exists(), "the group of {bot} is left");
        }
    }

    /// Nobody came to where the host listens.
    fn assert_nobody_came(&self) {
        self.door.set_nonblocking(true).unwrap();
        self.http.set_nonblocking(true).unwrap();
        assert!(self.door.accept().is_err(), "somebody came to the host's socket");
        assert!(self.http.accept().is_err(), "somebody came to the host's port");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.outside);
    }
}

fn own_number() -> i32 {
    std::process::id().cast_signed()
}

/// A name server that knows one answer to everything.
fn answer_everybody(resolver: &UdpSocket) {
    let resolver = resolver.try_clone().unwrap();
    resolver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    std::thread::spawn(move || {
        let until = Instant::now() + ATTEMPTS_TAKE_MAX * 2;
        while Instant::now() < until {
            if let Ok((_, whom)) = resolver.recv_from(&mut [0; 512]) {
                resolver.send_to(b"here", whom).ok();
            }
        }
    });
}

/// Whether this machine was declared unable to seal anything off.
fn passed_over() -> bool {
    let over = std::env::var_os(WITHOUT).is_some();
    if over {
        eprintln!("passed over: {WITHOUT} is set");
    }
    over
}

fn through(answers: &BTreeMap<String, (bool, String)>) -> Vec<&str> {
    answers.iter().filter(|(_, (through, _))| *through).map(|(name, _)| name.as_str()).collect()
}

fn show(answers: &BTreeMap<String, (bool, String)>) {
    for (name, (through, said)) in answers {
        println!("{} {name}: {said}", if *through { "GOT THROUGH" } else { "refused" });
    }
}

#[tokio::test]
async fn nothing_gets_out_of_a_sealed_cell_and_the_neighbour_goes_on() {
    if passed_over() {
        return;
    }
    let world = World::new("require").await;
    let mut attempts = world.ways_out(true);
    attempts.extend(world.secrets_and_places());
    let talk = async {
        for number in 0..6 {
            world.neighbour_answers(&format!("n-{number}")).await;
        }
    };
    let (answers, ()) = tokio::join!(world.attempt(1, &attempts), talk);
    show(&answers);
    assert_eq!(answers.len(), attempts.len());
    assert_eq!(through(&answers), Vec::<&str>::new());
    world.assert_nobody_came();
    world.neighbour_answers("n-after").await;

    // What others of this machine can see of a cell tells nothing.
    for process in crate::stack::processes::below(&world.stack.data()) {
        assert!(!process.command.contains("MOLT_GATEWAY_TOKEN"), "{}", process.command);
        if process.command.starts_with("/usr/bin/bwrap") {
            let told = std::fs::read_to_string(format!("/proc/{}/environ", process.pid)).unwrap();
            let names: Vec<&str> = told.split('\0').filter_map(|entry| entry.split('=').next()).collect();
            assert_eq!(names, ["MOLT_CELL_MARK", "MOLT_STATE_DIR", ""], "{told}");
        }
        if process.is_cell() && process.command == "/run/molt/molt-cell" && rustix::process::geteuid().is_root() {
            let told = std::fs::read_to_string(format!("/proc/{}/environ", process.pid)).unwrap();
            assert!(told.contains("MOLT_GHOST_KEY=placeholder\0"), "not even the cell has a key");
        }
    }
    let (person, bot) = &world.attacker;
    let mut chat = world.stack.chat(person, bot).await;
    assert_eq!(chat.turn("e-1", "main", "Are you still there?").await.end(), "finished", "it harmed only itself");
    drop(chat);
    world.end().await;
}

#[tokio::test]
async fn the_same_attempts_get_through_where_nothing_is_sealed_off() {
    let world = World::new("off").await;
    let mut attempts = world.ways_out(false);
    // Whether these work depends on the machine's own settings.
    attempts.retain(|attempt| attempt["name"] != "more files");
    if !rustix::process::geteuid().is_root() {
        attempts.retain(|attempt| attempt["name"] != "root by a program");
    }
    let answers = world.attempt(1, &attempts).await;
    show(&answers);
    let refused: Vec<&String> = answers.iter().filter(|(_, (through, _))| !through).map(|(name, _)| name).collect();
    assert_eq!(refused, Vec::<&String>::new(), "these attempts prove nothing");
    world.end().await;
}

#[tokio::test]
async fn a_cell_that_swaps_its_door_for_another_leads_nobody_there() {
    if passed_over() {
        return;
    }
    let world = World::new("require").await;
    let (person, bot) = &world.attacker;
    let door = world.outside.join("door.sock");
    let swap = json!({"name": "its door", "do": "swap", "path": "/run/molt/in/cell.sock", "target": door});
    let answers = world.attempt(1, &[swap]).await;
    assert!(answers["its door"].0, "the folder is the cell's own: {answers:?}");
    let socket = world.bot_folder(bot).join("run/in/cell.sock");
    assert_eq!(std::fs::read_link(&socket).unwrap(), door);

    // The platform goes to the door with new settings and finds it wrong.
    let before = world.stack.bot(person, bot).await;
    let mut settings = before["settings"].clone();
    settings["personality"] = json!("concise");
    let revision = before["revision"].as_i64().unwrap().to_string();
    let change = Ask::new("post", &format!("/api/bots/{bot}/config")).by(person).json(&settings);
    assert_eq!(world.stack.http.send(change.header("if-match", &revision)).await.status, 202);
    let noticed = async || (world.stack.bot(person, bot).await["status"] != "running").then_some(());
    world.stack.eventually("the platform notices", noticed).await;
    world.assert_nobody_came();

    let restarted = world.stack.http.post(&format!("/api/bots/{bot}/restart"), person, &Value::Null).await;
    assert!((200..300).contains(&restarted.status), "{}", restarted.text);
    let itself = async || {
        let is_link = std::fs::symlink_metadata(&socket).map_or(true, |facts| facts.is_symlink());
        (!is_link && world.stack.bot(person, bot).await["status"] == "running").then_some(())
    };
    world.stack.eventually("the door is a door again", itself).await;
    world.assert_nobody_came();
    world.neighbour_answers("n-1").await;
    world.end().await;
}

#[tokio::test]
async fn the_end_of_the_keeper_is_the_end_of_all_and_the_bot_comes_back() {
    if passed_over() {
        return;
    }
    let world = World::new("require").await;
    let (person, bot) = &world.attacker;
    let mark = world.bot_folder(bot).join("state").display().to_string();
    let keepers = || {
        let all = crate::stack::processes::below(Path::new(&mark));
        all.into_iter().partition::<Vec<_>, _>(|process| process.command.starts_with("/usr/bin/bwrap"))
    };
    let (keeper, inside) = keepers();
    assert_eq!(keeper.len(), 1, "{keeper:?}");
    assert!(inside.iter().any(|process| process.is_cell()) && inside.len() >= 3, "{inside:?}");
    keeper[0].kill();
    let gone = async || {
        let left = inside.iter().filter(|process| Path::new(&format!("/proc/{}", process.pid)).exists());
        (left.count() == 0).then_some(())
    };
    let began = Instant::now();
    world.stack.eventually("all of the cell is gone", gone).await;
    println!("all {} processes were gone {:?} after their keeper", inside.len(), began.elapsed());
    let back = async || {
        let (now, _) = keepers();
        (now.len() == 1 && world.stack.bot(person, bot).await["status"] == "running").then_some(())
    };
    world.stack.eventually("the bot is back", back).await;
    world.stack.chat(person, bot).await.turn("e-1", "main", "Hello again.").await;
    world.end().await;
}
