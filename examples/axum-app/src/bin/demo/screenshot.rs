//! `cargo screenshot`: pictures of the page for the README, from a real browser.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use axum_app::browser::Chromium;
use tokio::time::Instant;

const WIDTH: u32 = 1280;
const HEIGHT: u32 = 1220;
/// For a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Two logins have gone, one is being emptied: that is what the page is about.
const WORTH_A_PICTURE: &str =
    "return document.querySelectorAll('#lanes [data-stage=revoked]').length >= 2
    && document.querySelector('#lanes [data-stage=draining]') !== null";

/// Writes `page-light.png` and `page-dark.png` into `directory`.
pub(crate) async fn take(url: String, directory: &Path) -> Result<(), Box<dyn Error>> {
    let browser = Chromium::start().await?;
    browser.resize(WIDTH, HEIGHT).await?;
    for scheme in ["light", "dark"] {
        browser.prefer(&[("prefers-color-scheme", scheme)]).await?;
        browser.open(&url).await?;
        let deadline = Instant::now() + PATIENCE;
        while browser.run(WORTH_A_PICTURE).await? != true {
            if Instant::now() > deadline {
                return Err(format!("no login was being emptied within {PATIENCE:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let path = directory.join(format!("page-{scheme}.png"));
        tokio::fs::write(&path, browser.picture().await?).await?;
    }
    browser.close().await
}
