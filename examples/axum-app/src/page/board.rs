//! What has been seen, for whoever opens the page now or later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use leasehold::Event;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::lanes::Lanes;
use super::sampler::Sample;
use super::traffic::Traffic;
use super::words::{self, Tone};
use crate::health::seconds;

/// Samples that are kept: five minutes, at two a second.
const SAMPLES: usize = 600;
/// Lines of the log that are kept.
const ENTRIES: usize = 300;
/// A browser that is further behind is sent everything anew.
const BEHIND: usize = 1_024;

/// One message to the browsers: what it is, and its JSON.
pub(crate) type News = (&'static str, Arc<str>);

/// Shared by the observer, the sampler and the browsers.
#[derive(Clone, Debug)]
pub(crate) struct Board(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    traffic: Traffic,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    lanes: Lanes,
    entries: VecDeque<Entry>,
    samples: VecDeque<Sample>,
    numbered: u64,
    ok: u64,
    failed: u64,
    explained: u64,
    buttons: Option<Value>,
    /// `None` once the service stops: streams end then, and hold up no shutdown.
    news: Option<broadcast::Sender<News>>,
}

/// A line of the log.
#[derive(Clone, Debug, Serialize)]
struct Entry {
    number: u64,
    /// Seconds since the service began to start.
    at: f64,
    kind: &'static str,
    tone: Tone,
    /// What happened.
    words: String,
    /// What that means, for who has never heard of it.
    means: String,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            begun: Instant::now(),
            traffic: Traffic::default(),
            seen: Mutex::new(Seen {
                lanes: Lanes::default(),
                entries: VecDeque::new(),
                samples: VecDeque::new(),
                numbered: 0,
                ok: 0,
                failed: 0,
                explained: 0,
                buttons: None,
                news: Some(broadcast::Sender::new(BEHIND)),
            }),
        }))
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.0.traffic.clone()
    }

    /// Takes in what the rotator tells. Quick: it runs on the rotator's task.
    pub(crate) fn event(&self, event: &Event) {
        let at = self.now();
        let mut seen = self.seen();
        for lane in seen.lanes.see(at, event) {
            seen.tell("lane", &lane);
        }
        let told = words::of(event);
        seen.log(at, told.kind, told.tone, told.words, told.means.to_owned());
    }

    pub(crate) fn note(&self, words: String, means: String) {
        let at = self.now();
        let mut seen = self.seen();
        seen.log(at, "harm", Tone::Harm, words, means);
    }

    pub(crate) fn offer(&self, buttons: Value) {
        let mut seen = self.seen();
        seen.tell("buttons", &buttons);
        seen.buttons = Some(buttons);
    }

    /// Takes in a sample, whose times and totals are filled in here.
    pub(crate) fn sampled(&self, mut sample: Sample) {
        sample.at = self.now();
        let mut seen = self.seen();
        seen.ok += sample.ok;
        seen.failed += sample.failed;
        seen.explained += sample.explained;
        (sample.ok_total, sample.failed_total) = (seen.ok, seen.failed);
        sample.explained_total = seen.explained;
        // Once it is over, when it ended is known better.
        if let Some(left) = sample.expires_in.filter(|left| *left > 0.0)
            && let Some(lane) = seen.lanes.ends(sample.generation, sample.at + left)
        {
            seen.tell("lane", &lane);
        }
        seen.tell("sample", &sample);
        if seen.samples.len() == SAMPLES {
            seen.samples.pop_front();
        }
        seen.samples.push_back(sample);
    }

    /// Logins that may have connections, with their generations.
    pub(crate) fn open_logins(&self) -> Vec<(u64, String)> {
        self.seen().lanes.open()
    }

    /// Somebody has the page open.
    pub(crate) fn is_watched(&self) -> bool {
        self.seen().news.as_ref().is_some_and(|news| news.receiver_count() > 0)
    }

    /// All that is known, and what follows without a gap. `None`: the service stops.
    pub(crate) fn follow(&self) -> Option<(News, broadcast::Receiver<News>)> {
        // Only copied under the lock, which the rotator's task waits for.
        let (news, now, lanes, entries, samples, buttons) = {
            let seen = self.seen();
            let news = seen.news.as_ref()?.subscribe();
            let lanes: Vec<_> = seen.lanes.all().cloned().collect();
            let (entries, samples) = (seen.entries.clone(), seen.samples.clone());
            (news, self.now(), lanes, entries, samples, seen.buttons.clone())
        };
        let hello = json!({
            "now": now,
            "lanes": lanes,
            "entries": entries,
            "samples": samples,
            "buttons": buttons,
        });
        Some((("hello", hello.to_string().into()), news))
    }

    /// Ends all streams, with a last word: the service stops.
    pub(crate) fn close(&self) {
        let mut seen = self.seen();
        seen.tell("bye", &json!({}));
        seen.news = None;
    }

    /// In seconds, to the millisecond.
    fn now(&self) -> f64 {
        seconds(self.0.begun.elapsed())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn log(&mut self, at: f64, kind: &'static str, tone: Tone, words: String, means: String) {
        self.numbered += 1;
        let entry = Entry { number: self.numbered, at, kind, tone, words, means };
        self.tell("entry", &entry);
        if self.entries.len() == ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    fn tell(&self, what: &'static str, news: &impl Serialize) {
        if let Some(to) = &self.news
            && let Ok(json) = serde_json::to_string(news)
        {
            // An error: nobody looks.
            let _ = to.send((what, json.into()));
        }
    }
}
