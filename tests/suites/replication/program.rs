//! The program itself, as a process of its own.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::pair::{Pair, TIMEOUT};

/// The program with the configuration of a pair.
pub(crate) struct Program {
    folder: tempfile::TempDir,
    /// What its environment has besides that of the tests.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Program {
    pub(crate) fn with(pair: &Pair, chunk: Option<&str>) -> Self {
        let config = &pair.config;
        let mut text = format!(
            "[[replication]]\nname = \"copies\"\nsource = {:?}\ntarget = {:?}\nchunk_bytes = {:?}\nmemory_bytes = \"{} MiB\"\n",
            config.source.expose(),
            config.target.expose(),
            chunk.unwrap_or("2 MiB"),
            config.memory_bytes.get() >> 20,
        );
        for table in &config.table {
            text.push_str(&format!("[[replication.table]]\nsource = {:?}\ncreate = true\n", table.source));
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outbox-relay.toml"), text).unwrap();
        Self { folder, environment: Vec::new() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let tests = std::env::current_exe().unwrap();
        let path = tests.ancestors().nth(2).unwrap().join("outbox-relay");
        assert!(path.exists(), "{} is not built: run `cargo lab test`", path.display());
        let mut command = Command::new(path);
        command.args(arguments).current_dir(self.folder.path()).envs(self.environment.iter().cloned());
        command
    }

    /// Starts it; what it says goes to its log.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        self.command(arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// What the one that was started last has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Runs it to its end; its exit code.
    pub(crate) fn run(&self, arguments: &[&str]) -> i32 {
        let mut child = self.command(arguments).spawn().unwrap();
        let began = std::time::Instant::now();
        loop {
            if let Some(ended) = child.try_wait().unwrap() {
                return ended.code().unwrap_or(-1);
            }
            if began.elapsed() > TIMEOUT {
                let _ = child.kill();
                panic!("{arguments:?} did not end");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
