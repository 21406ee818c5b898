//! The program, as it is deployed.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

pub struct Program {
    child: Child,
    url: String,
    /// Kept open: the program prints to it.
    _stdout: BufReader<ChildStdout>,
}

impl Program {
    pub fn start(environment: Vec<(&str, String)>) -> Result<Self, Box<dyn Error>> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orders"));
        command.envs(environment).env("LISTEN", "127.0.0.1:0").stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or("it is piped")?);
        let mut url = String::new();
        stdout.read_line(&mut url)?;
        Ok(Self { child, url: format!("{}/orders", url.trim()), _stdout: stdout })
    }

    /// Takes an order and looks for it.
    pub fn order(&self, item: &str) -> Result<(), Box<dyn Error>> {
        let taken: Value =
            ureq::post(&self.url).send_json(json!({ "item": item }))?.body_mut().read_json()?;
        let url = format!("{}/{}", self.url, taken["id"]);
        let found: Value = ureq::get(&url).call()?.body_mut().read_json()?;
        assert_eq!(found, json!({ "id": taken["id"], "item": item }));
        Ok(())
    }

    /// As a rolling update ends it.
    pub fn stop(mut self) -> Result<(), Box<dyn Error>> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status()?.success());
        assert!(self.child.wait()?.success());
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}
