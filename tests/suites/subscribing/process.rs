//! A subscriber that is a process of its own: this binary again, with one of its ignored tests.

use std::process::{Child, Command, Stdio};

/// The process, killed when it is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Runs `the_process` of a module, with what it is told in its environment.
    pub(crate) fn start(module: &str, told: &[(&str, &str)]) -> Self {
        let (_, module) = module.split_once("::").unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("{module}::the_process"), "--ignored", "--nocapture"]);
        command.envs(told.iter().copied());
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
