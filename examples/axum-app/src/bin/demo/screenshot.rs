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
/// Two logins have gone, one is being emptied: that is what the page is about. The table, the
/// sentence and the picture say the same.
const WORTH_A_PICTURE: &str = "
    const leaving = document.querySelector('#lanes [data-stage=draining]');
    const current = document.querySelector('#lanes [data-stage=current]');
    if (!leaving || !current || document.querySelectorAll('#lanes [data-stage=revoked]').length < 2) {
        return false;
    }
    const text = (id) => document.getElementById(id).textContent;
    return text('next').startsWith(`No. ${leaving.dataset.generation} is being emptied`)
        && text('sentence').includes(`login no.\u{a0}${current.dataset.generation},`)
        && text('timeline').includes(`No. ${leaving.dataset.generation} being emptied`);";

/// Writes `page-light.png` and `page-dark.png` into `directory`.
pub(crate) async fn take(url: String, directory: &Path) -> Result<(), Box<dyn Error>> {
    let browser = Chromium::start().await?;
    browser.resize(WIDTH, HEIGHT).await?;
    for scheme in ["light", "dark"] {
        browser.prefer(&[("prefers-color-scheme", scheme)]).await?;
        browser.open(&url).await?;
        let deadline = Instant::now() + PATIENCE;
        let picture = loop {
            if browser.run(WORTH_A_PICTURE).await? == true {
                let picture = browser.picture().await?;
                // And still: it was so while it was taken.
                if browser.run(WORTH_A_PICTURE).await? == true {
                    break picture;
                }
            }
            if Instant::now() > deadline {
                return Err(format!("no login was being emptied within {PATIENCE:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        tokio::fs::write(directory.join(format!("page-{scheme}.png")), picture).await?;
    }
    browser.close().await
}
