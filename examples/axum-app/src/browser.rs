//! A real, headless Chromium, for the test of the page and for its screenshots.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use thirtyfour::{
    ChromiumLikeCapabilities, DesiredCapabilities, Key, LoggingPrefsLogLevel, WebDriver,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A browser with one window. Dropping it ends its processes.
#[derive(Debug)]
pub struct Chromium {
    web: WebDriver,
    _driver: Driver,
}

/// chromedriver and the browsers that it started, in a process group of their own.
#[derive(Debug)]
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        // Gone already, or gone with this.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Chromium {
    /// Starts `chromedriver`, or what the variable `CHROMEDRIVER` names, and a browser by it.
    ///
    /// # Errors
    /// It is not installed, which names the packages; or it does not come up.
    pub async fn start() -> Result<Self> {
        // An error: there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (driver, port) = tokio::task::spawn_blocking(start_driver).await??;
        let mut capabilities = DesiredCapabilities::chrome();
        let root = rustix::process::geteuid().is_root();
        for arg in
            ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        {
            capabilities.add_arg(arg)?;
        }
        if root {
            // Its sandbox refuses to work for root.
            capabilities.add_arg("--no-sandbox")?;
        }
        capabilities.set_browser_log_level(LoggingPrefsLogLevel::All)?;
        let web = WebDriver::new(format!("http://127.0.0.1:{port}"), capabilities).await?;
        Ok(Self { web, _driver: driver })
    }

    /// Loads a page.
    ///
    /// # Errors
    /// There is none.
    pub async fn open(&self, url: &str) -> Result<()> {
        Ok(self.web.goto(url).await?)
    }

    /// The value of a script's `return`.
    ///
    /// # Errors
    /// The script throws.
    pub async fn run(&self, script: &str) -> Result<Value> {
        Ok(self.web.execute(script, Vec::new()).await?.json().clone())
    }

    /// As a screen of this size in CSS pixels.
    ///
    /// # Errors
    /// The browser is gone.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.web.cdp().send_raw("Emulation.setDeviceMetricsOverride", size).await?;
        Ok(())
    }

    /// What the user prefers, such as `prefers-color-scheme` and `dark`.
    ///
    /// # Errors
    /// The browser is gone.
    pub async fn prefer(&self, preferences: &[(&str, &str)]) -> Result<()> {
        let features: Vec<_> = preferences
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let media = json!({ "features": features });
        self.web.cdp().send_raw("Emulation.setEmulatedMedia", media).await?;
        Ok(())
    }

    /// A picture of the screen, as a PNG.
    ///
    /// # Errors
    /// The browser is gone.
    pub async fn picture(&self) -> Result<Vec<u8>> {
        let format = json!({ "format": "png", "optimizeForSpeed": false });
        let answer = self.web.cdp().send_raw("Page.captureScreenshot", format).await?;
        Ok(STANDARD.decode(answer["data"].as_str().ok_or("no picture in the answer")?)?)
    }

    /// Presses Tab.
    ///
    /// # Errors
    /// The browser is gone.
    pub async fn tab(&self) -> Result<()> {
        Ok(self.web.action_chain().send_keys(Key::Tab).perform().await?)
    }

    /// Presses Enter.
    ///
    /// # Errors
    /// The browser is gone.
    pub async fn enter(&self) -> Result<()> {
        Ok(self.web.action_chain().send_keys(Key::Enter).perform().await?)
    }

    /// The nodes of the accessibility tree: what a screen reader is told.
    ///
    /// # Errors
    /// The browser is gone.
    pub async fn accessibility(&self) -> Result<Vec<Value>> {
        let tree = self.web.cdp().send_raw("Accessibility.getFullAXTree", json!({})).await?;
        Ok(tree["nodes"].as_array().cloned().unwrap_or_default())
    }

    /// What the console said since the last call, a line each; failed loads are among it.
    ///
    /// # Errors
    /// The browser is gone.
    pub async fn console(&self) -> Result<Vec<String>> {
        let said = self.web.get_log("browser").await?;
        Ok(said.into_iter().map(|one| format!("{}: {}", one.level, one.message)).collect())
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It is gone already.
    pub async fn close(self) -> Result<()> {
        Ok(self.web.quit().await?)
    }
}

/// It looks for a free port on IPv4 and takes the same on IPv6, where another one that starts at the
/// same time may have been quicker: then it ends, and is started again.
fn start_driver() -> std::result::Result<(Driver, u16), String> {
    const TRIES: usize = 5;
    let mut why = String::new();
    for _ in 0..TRIES {
        match try_driver()? {
            Ok(started) => return Ok(started),
            Err(ended) => why = ended,
        }
    }
    Err(format!("{why}, {TRIES} times"))
}

/// The outer error is one that another try does not mend.
fn try_driver() -> std::result::Result<std::result::Result<(Driver, u16), String>, String> {
    let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
    let mut command = Command::new(&program);
    command.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let mut child = command.spawn().map_err(|e| {
        format!(
            "{program} can't be started: {e}. It is in Debian's packages chromium and \
             chromium-driver; the variable CHROMEDRIVER names another"
        )
    })?;
    let said = child.stdout.take().map(BufReader::new);
    let driver = Driver(child);
    for line in said.into_iter().flat_map(BufRead::lines).map_while(std::io::Result::ok) {
        let port = line.split("started successfully on port ").nth(1);
        if let Some(port) = port.and_then(|p| p.trim_end_matches('.').parse().ok()) {
            return Ok(Ok((driver, port)));
        }
    }
    Ok(Err(format!("{program} ended before it listened")))
}
