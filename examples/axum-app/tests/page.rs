//! The page in a real, headless Chromium, on the demo's real servers. Needs the feature `browser`,
//! and Debian's packages chromium and chromium-driver.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use axum_app::browser::Chromium;
use common::program::Program;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

/// For a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// The demo, and a browser on its page.
struct Seat {
    demo: Program,
    url: String,
    browser: Chromium,
}

impl Seat {
    async fn take(args: &'static [&'static str]) -> Self {
        let start = move || {
            let mut demo = Program::start(Command::new(env!("CARGO_BIN_EXE_demo")).args(args));
            demo.wait_for("the page is at");
            let url = demo.url();
            (demo, url)
        };
        let (demo, url) = tokio::task::spawn_blocking(start).await.unwrap();
        let browser = Chromium::start().await.unwrap_or_else(|e| panic!("{e}"));
        let seat = Self { demo, url, browser };
        seat.open().await;
        seat
    }

    async fn open(&self) {
        self.browser.open(&format!("{}/", self.url)).await.unwrap();
        let drawn = "document.querySelector('[data-figure=failed] dd').textContent !== '–'
            && document.querySelector('#lanes tr') !== null";
        self.until("the page is alive", drawn).await;
    }

    /// The value of a JavaScript expression.
    async fn eval(&self, expression: &str) -> Value {
        self.browser.run(&format!("return ({expression})")).await.unwrap()
    }

    /// How many elements a selector finds.
    async fn count(&self, selector: &str) -> u64 {
        let count = self.eval(&format!("document.querySelectorAll({selector:?}).length")).await;
        count.as_u64().unwrap()
    }

    /// Waits until a selector finds that many at least.
    async fn until_count(&self, selector: &str, least: u64) {
        let found = format!("document.querySelectorAll({selector:?}).length >= {least}");
        self.until(selector, &found).await;
    }

    async fn text(&self, selector: &str) -> String {
        let text = self.eval(&format!("document.querySelector({selector:?}).innerText")).await;
        text.as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true.
    async fn until(&self, what: &str, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.eval(expression).await != true {
            if Instant::now() > deadline {
                let page = self.text("body").await;
                panic!("not within {PATIENCE:?}: {what}\n{page}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// As with the keyboard.
    async fn press(&self, id: &str) {
        self.browser.run(&format!("document.getElementById({id:?}).focus()")).await.unwrap();
        self.browser.enter().await.unwrap();
    }

    /// Ends both, and checks what the console said. What the demo said.
    async fn leave(mut self) -> String {
        let said = self.browser.console().await.unwrap();
        assert_eq!(said, Vec::<String>::new(), "the console should be silent");
        self.browser.close().await.unwrap();
        self.demo.signal(Signal::INT);
        let end = move || (self.demo.end(), self.demo.said());
        let (status, said) = tokio::task::spawn_blocking(end).await.unwrap();
        assert!(status.success(), "{status}\n{said}");
        said
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_seen_and_nothing_fails() {
    let seat = Seat::take(&[]).await;
    seat.until(
        "another login is in use and the one before it is revoked",
        "[...document.querySelectorAll('#lanes [data-stage=current]')].some((row) =>
            row.dataset.generation >= 2 && document.querySelector(
                `#lanes [data-generation=\"${row.dataset.generation - 1}\"][data-stage=revoked]`))",
    )
    .await;
    let sentence = "document.getElementById('sentence').textContent";
    seat.until(sentence, &format!("{sentence}.startsWith('Queries run on login no.\u{a0}')")).await;
    seat.until("all is well", "document.getElementById('state').dataset.state === 'ready'").await;
    assert_eq!(seat.text("[data-figure=failed] dd").await, "0");
    // The pictures show it too: lanes, what is left of the lease, renewals, an end. Some follow with
    // the next sample.
    for shape in [".bar-current", ".bar-lease", ".renewal", ".over", ".now-line"] {
        seat.until_count(&format!("#timeline {shape}"), 1).await;
    }
    seat.until_count("#connections .area", 2).await;
    for chart in ["connections", "rate", "latency"] {
        seat.until_count(&format!("#{chart} .swap-line"), 1).await;
    }
    // In words, and for a screen reader.
    let kinds = "[...document.querySelectorAll('#log li')].map((li) => li.dataset.kind)";
    for kind in ["issued", "renewed", "rotating", "swapped", "drained", "revoked"] {
        seat.until(kind, &format!("{kinds}.includes('{kind}')")).await;
    }
    seat.until("it is said", "/took over/.test(document.getElementById('said').textContent)").await;

    // Once more from the start: the page is complete at once.
    seat.open().await;
    let first =
        "document.querySelector('#lanes [data-generation=\"1\"][data-stage=revoked]') !== null";
    assert_eq!(seat.eval(first).await, true, "history after a reload");
    assert!(seat.count("#connections .area").await >= 2, "charts after a reload");
    assert_eq!(seat.text("[data-figure=failed] dd").await, "0");

    // Nothing came from anywhere else.
    let hosts =
        "[...new Set(performance.getEntriesByType('resource').map((e) => new URL(e.name).origin))]";
    assert_eq!(seat.eval(hosts).await, serde_json::json!([seat.url]));
    let said = seat.leave().await;
    assert!(said.contains(", 0 failed; p50 "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_do_what_they_say_and_the_page_shows_it() {
    // No rotation but the one that is asked for.
    let seat = Seat::take(&["--lives", "1h"]).await;
    seat.until("the buttons are there", "document.querySelectorAll('#deeds button').length === 7")
        .await;
    assert_eq!(seat.text("[data-figure=failed] dd").await, "0", "before any harm");

    seat.press("harm-seal-vault").await;
    seat.until(
        "it is done",
        "/^You sealed Vault/.test(document.getElementById('harm-status').textContent)",
    )
    .await;
    seat.until("it is seen", "document.getElementById('state').textContent === 'Vault is sealed'")
        .await;
    seat.until(
        "in the sentence",
        "/Vault is sealed/.test(document.getElementById('sentence').textContent)",
    )
    .await;
    seat.until("it is marked", "document.querySelector('#latency .harm-line') !== null").await;
    seat.press("harm-mend").await;
    seat.until("all is well again", "document.getElementById('state').dataset.state === 'ready'")
        .await;

    let current = "document.querySelector('#lanes [data-stage=current]')?.dataset.generation";
    let before = seat.eval(current).await;
    let before = before.as_str().unwrap();
    seat.press("harm-revoke-lease").await;
    seat.until("another login took over", &format!("Number({current}) > {before}")).await;
    seat.until(
        "the log tells why",
        "[...document.querySelectorAll('#log li')].some((li) =>
            ['session_revoked', 'login_rejected', 'renew_failed'].includes(li.dataset.kind))",
    )
    .await;
    seat.until("all is well again", "document.getElementById('state').dataset.state === 'ready'")
        .await;
    let said = seat.leave().await;
    assert!(said.contains("after you sealed Vault: "), "{said}");
    assert!(said.contains("after you revoked the lease from outside: "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_can_use_it() {
    let seat = Seat::take(&[]).await;
    let buttons = "document.querySelectorAll('#deeds button').length === 7";
    seat.until("the buttons are there", buttons).await;

    // Narrow and wide, light and dark: nothing sticks out, nothing is clipped, all can be read.
    for scheme in ["light", "dark"] {
        // Still, since a colour on its way to another may be faint.
        let still = ("prefers-reduced-motion", "reduce");
        seat.browser.prefer(&[("prefers-color-scheme", scheme), still]).await.unwrap();
        for width in [400, 1600] {
            seat.browser.resize(width, 900).await.unwrap();
            seat.until("the pictures follow", "document.getElementById('timeline').viewBox.baseVal.width === document.getElementById('timeline').clientWidth").await;
            let out = seat.browser.run(STICKS_OUT).await.unwrap();
            assert_eq!(out, serde_json::json!([]), "at {width} px");
            let faint = seat.browser.run(TOO_FAINT).await.unwrap();
            assert_eq!(faint, serde_json::json!([]), "{scheme}");
        }
    }
    let dark = seat.eval("getComputedStyle(document.body).backgroundColor").await;
    seat.browser.prefer(&[("prefers-color-scheme", "light")]).await.unwrap();
    assert_ne!(dark, seat.eval("getComputedStyle(document.body).backgroundColor").await);

    // A language, a title, landmarks, headings without a gap.
    assert_eq!(seat.eval("document.documentElement.lang").await, "en");
    assert_ne!(seat.eval("document.title").await, "");
    for landmark in ["header", "main", "footer"] {
        assert_eq!(seat.count(landmark).await, 1, "{landmark}");
    }
    let levels =
        "[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))";
    let levels: Vec<u64> = serde_json::from_value(seat.eval(levels).await).unwrap();
    assert_eq!(levels.iter().filter(|l| **l == 1).count(), 1);
    assert!(levels.windows(2).all(|two| two[1] <= two[0] + 1), "{levels:?}");

    // Every control and picture has a name.
    let mut named = 0;
    for node in seat.browser.accessibility().await.unwrap() {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        let ours = ["button", "link", "checkbox", "img", "image", "region", "DisclosureTriangle"];
        if node["ignored"] == false && ours.contains(&role) {
            assert_ne!(node["name"]["value"].as_str().unwrap_or_default(), "", "{node}");
            named += 1;
        }
    }
    assert!(named >= 15, "{named}");

    // With the keyboard alone: Tab reaches every control, in the order of the page, and is seen.
    seat.browser.run("document.activeElement.blur(); window.scrollTo(0, 0)").await.unwrap();
    let wanted = "[...document.querySelectorAll('button, a[href], input, summary')].filter((e) => e.offsetParent !== null).map((e) => e.id || e.textContent)";
    let wanted: BTreeSet<String> = serde_json::from_value(seat.eval(wanted).await).unwrap();
    let mut reached = Vec::new();
    for _ in 0..60 {
        seat.browser.tab().await.unwrap();
        let focus = "document.activeElement === document.body ? null
            : [document.activeElement.id || document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle]";
        let Value::Array(focus) = seat.eval(focus).await else { break };
        assert_ne!(focus[1], "none", "the focus can't be seen on {}", focus[0]);
        let id = focus[0].as_str().unwrap().to_owned();
        if reached.contains(&id) {
            break;
        }
        reached.push(id);
    }
    let missed: Vec<_> = wanted.iter().filter(|w| !reached.contains(w)).collect();
    assert!(missed.is_empty(), "{missed:?} is not among {reached:?}");

    // And works with it: nothing moves while it is paused, for longer than samples are apart, and
    // all goes on after it.
    let said = "document.getElementById('pause').getAttribute('aria-pressed')";
    seat.press("pause").await;
    seat.until("paused", &format!("{said} === 'true'")).await;
    let still = seat.browser.run(CHANGES).await.unwrap();
    assert_eq!(still[0], 0, "changes while paused");
    seat.press("pause").await;
    seat.until("not paused", &format!("{said} === 'false'")).await;
    assert!(seat.browser.run(CHANGES).await.unwrap()[0].as_u64().unwrap() > 0);

    // Who asked for less motion gets a picture a second, and others get more.
    let mut pictures = Vec::new();
    for motion in ["reduce", "no-preference"] {
        seat.browser.prefer(&[("prefers-reduced-motion", motion)]).await.unwrap();
        let moved = seat.browser.run(PICTURES).await.unwrap();
        pictures.push((moved[0].as_f64().unwrap(), moved[1].as_f64().unwrap()));
    }
    let [(calm, seconds), (lively, _)] = pictures[..] else { panic!("two") };
    assert!(calm >= 1.0 && calm <= seconds + 2.0, "{calm} pictures in {seconds} s");
    assert!(lively > calm, "{lively} pictures, and {calm} with less motion");
    seat.leave().await;
}

/// Elements that are wider than the page or than their own box, and buttons whose text is cut.
const STICKS_OUT: &str = "
    const out = [];
    if (document.documentElement.scrollWidth > innerWidth) out.push('the page itself');
    for (const e of document.querySelectorAll('body *')) {
        if (e.closest('.unseen, .skip, .scroll, details:not([open])')) continue;
        const box = e.getBoundingClientRect();
        if (!box.width) continue;
        const name = `${e.tagName} ${e.id} ${e.getAttribute('class')} ${e.textContent.slice(0, 40)}`;
        if (box.left < -1 || box.right > innerWidth + 1) out.push(`beyond the page: ${name}`);
        if (!(e instanceof SVGElement) && e.scrollWidth > e.clientWidth + 1 && e.clientWidth) out.push(`cut: ${name}`);
    }
    return out;";

/// Text whose contrast is below 4.5 (3 where it is large), against the nearest ground.
const TOO_FAINT: &str = "
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => {
        const [r, g, b] = rgb(colour).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (e) => {
        for (let at = e; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (rgb(colour)[3] > 250) return colour;
        }
        return 'white';
    };
    const faint = [];
    for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
        if (!own || e.closest('noscript, .unseen, .skip') || !e.getBoundingClientRect().width) continue;
        const style = getComputedStyle(e);
        const [a, b] = [light(e instanceof SVGElement ? style.fill : style.color), light(ground(e))].sort((x, y) => y - x);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.push(`${contrast.toFixed(2)}: ${e.tagName} ${e.textContent.slice(0, 40)}`);
    }
    return faint;";

/// How often what is now, the timeline, the charts or the log change, in how many seconds.
const CHANGES: &str = "
    return new Promise((resolve) => {
        const begun = performance.now();
        let changes = 0;
        const seen = new MutationObserver(() => { changes += 1; });
        for (const id of ['now', 'figures', 'timeline', 'lanes', 'connections', 'rate', 'log']) {
            seen.observe(document.getElementById(id), { subtree: true, attributes: true, childList: true, characterData: true });
        }
        setTimeout(() => resolve([changes, (performance.now() - begun) / 1000]), 2000);
    });";

/// How often the timeline changes, in how many seconds.
const PICTURES: &str = "
    return new Promise((resolve) => {
        const begun = performance.now();
        let pictures = 0;
        const seen = new MutationObserver(() => { pictures += 1; });
        const timeline = document.getElementById('timeline');
        seen.observe(timeline, { subtree: true, attributes: true, childList: true });
        setTimeout(() => resolve([pictures, (performance.now() - begun) / 1000]), 3000);
    });";
