//! The spans of a rotation on real servers, with names, fields and parents, as OpenTelemetry gets
//! them through the ordinary bridge. A program of its own, as it hears all spans.

#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use leasehold::Reason;
use leasehold_testkit::shared;
use leasehold_tests::*;
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio_postgres::NoTls;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Keeps them in memory.
#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

fn field(span: &SpanData, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|field| field.key.as_str() == name)?;
    Some(found.value.as_str().into_owned())
}

impl Spans {
    fn all(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }

    /// Those of this name below `parent`.
    fn below(&self, parent: &SpanData, name: &str) -> Vec<SpanData> {
        let id = parent.span_context.span_id();
        let mut all = self.all();
        all.retain(|span| span.parent_span_id == id && span.name == name);
        all
    }

    /// The only one of these, whose lifetime is within the parent's.
    fn one(&self, parent: &SpanData, name: &str) -> SpanData {
        let mut found = self.below(parent, name);
        assert_eq!(found.len(), 1, "{name} below {}: {found:#?}", parent.name);
        let span = found.remove(0);
        assert!(parent.start_time <= span.start_time && span.end_time <= parent.end_time, "{name}");
        span
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_one_span_with_its_steps_and_their_requests_below_it() {
    let spans = Spans::default();
    let traces = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(traces.tracer("test"));
    let ours = Targets::new().with_target("leasehold", LevelFilter::DEBUG);
    tracing_subscriber::registry().with(layer.with_filter(ours)).init();

    let db = database(shared().await.unwrap(), "spans", 600, 3600).await;
    let rotator = rotator(&db).await.name("orders").start().await.unwrap();
    let provider = rotator.provider();
    let pool = leasehold_deadpool::connect(&provider, db.pg_config(), NoTls, |b| b.max_size(2));
    let pool = pool.await.unwrap();
    drop(pool.get().await.unwrap());
    let mut events = provider.events();
    rotator.rotate();
    assert_eq!(swapped(&mut events).await, (2, Reason::Requested));
    revoked(&mut events, 1).await;
    let rotation = leasehold_testkit::eventually("the rotation's span ends", LONG, async || {
        Ok(spans.all().iter().any(|span| field(span, "reason").as_deref() == Some("requested")))
    });
    rotation.await.unwrap();
    let path = format!("{}/creds/{}", db.mount(), db.role());
    let password = provider.current().credential().expose_password().to_owned();
    assert!(rotator.shutdown(LONG).await.is_clean());
    traces.force_flush().unwrap();

    let fields = |span: &SpanData, wanted: &[(&str, &str)]| {
        for (name, value) in wanted {
            assert_eq!(field(span, name).as_deref(), Some(*value), "{name} of {span:#?}");
        }
        let own = span.attributes.iter().map(|field| field.key.as_str());
        // What the bridge adds of its own: where in the code, on which thread, for how long.
        let bridges = ["code.", "thread.", "busy_ns", "idle_ns", "target", "level"];
        let own = own.filter(|name| !bridges.iter().any(|added| name.starts_with(added)));
        assert_eq!(own.count(), wanted.len(), "nothing else is in {span:#?}");
    };
    let with_reason = |reason: &str| {
        let all = spans.all();
        let found = all.into_iter().find(|span| field(span, "reason").as_deref() == Some(reason));
        found.unwrap_or_else(|| panic!("no rotation for {reason}: {:#?}", spans.all()))
    };
    let first = with_reason("start");
    fields(&first, &[("provider", "orders"), ("reason", "start"), ("generation", "1")]);
    let rotation = with_reason("requested");
    assert_eq!(rotation.name, "leasehold.rotation");
    assert_eq!(rotation.parent_span_id, SpanId::INVALID);
    fields(&rotation, &[("provider", "orders"), ("reason", "requested"), ("generation", "2")]);

    let issue = spans.one(&rotation, "leasehold.issue");
    fields(&issue, &[("provider", "orders"), ("outcome", "ok")]);
    let path = &*path;
    let request = |operation: &'static str| {
        let status = if operation == "revoke" { "204" } else { "200" };
        [("operation", operation), ("path", path), ("status", status), ("outcome", "ok")]
    };
    fields(&spans.one(&issue, "leasehold_vault.request"), &request("issue"));
    let prove = spans.one(&rotation, "leasehold.prove");
    fields(&prove, &[("provider", "orders"), ("generation", "2"), ("outcome", "ok")]);
    let swap = spans.one(&rotation, "leasehold.swap");
    fields(&swap, &[("provider", "orders"), ("generation", "2")]);
    let drain = spans.one(&rotation, "leasehold.drain");
    let drained = [("provider", "orders"), ("generation", "1"), ("forced", "0"), ("left", "0")];
    fields(&drain, &drained);
    let revoke = spans.one(&rotation, "leasehold.revoke");
    fields(&revoke, &[("provider", "orders"), ("generation", "1"), ("outcome", "ok")]);
    fields(&spans.one(&revoke, "leasehold_vault.request"), &request("revoke"));
    let order = [&issue, &prove, &swap, &drain, &revoke].map(|span| span.start_time);
    assert!(order.is_sorted(), "{order:?}");

    // All that there is, is written down.
    let docs = include_str!("../../docs/observability.md");
    for span in spans.all() {
        assert!(docs.contains(&format!("| `{}` |", span.name)), "{} is not in the docs", span.name);
        assert!(!format!("{span:?}").contains(&password), "{span:#?}");
    }
}
