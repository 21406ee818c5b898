//! The demo from start to end.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum_app::Service;
use leasehold::CredentialProvider;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::args::Args;
use crate::buttons::buttons;
use crate::console::{Console, Tint};
use crate::harm::Record;
use crate::load::{Load, Results};
use crate::place::Place;
use crate::stop::Stop;
use crate::tally::Tally;

const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Runs it, and returns what was not as it should be.
pub(crate) async fn demo(args: &Args, console: &Console) -> Result<Vec<String>, Box<dyn Error>> {
    let mut stop = Stop::listen(console)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    // First of all: who opens it now waits a moment, and misses nothing.
    console.line(
        Tint::Good,
        format!("open http://{address}/ in a browser: it shows all of this, once the servers run"),
    );
    let place =
        if args.external { Place::External } else { Place::embedded(console, args.lives).await? };
    let config = place.config(address).await?;

    let tally = Tally::default();
    let observer = {
        let (tally, console) = (tally.clone(), console.clone());
        move |event: &leasehold::Event| {
            tally.see(event);
            console.event(event);
        }
    };
    let mut service = Service::start_with(config, |builder| builder.observer(observer)).await?;
    let provider = service.provider();
    let record = Record::default();
    let harm = place.harm(provider.clone(), record.clone());
    if let Some(harm) = harm.clone() {
        let record = record.clone();
        service.page().explain(move |begun| record.reaches(begun));
        let routes = buttons(address, harm, service.page(), console.clone());
        service = service.with_routes(routes);
    }
    let (end, ended) = oneshot::channel();
    let mut server = tokio::spawn(service.serve(listener, async {
        // An error: this function is gone, and the service should go too.
        let _ = ended.await;
    }));
    let workers = args.workers;
    console.line(
        Tint::Plain,
        format!("the page is at http://{address}/; {workers} clients ask; Ctrl-C ends it"),
    );

    let begun = Instant::now();
    let load = Load::start(address, args.workers, record.clone());
    let mut status = tokio::time::interval_at(begun + STATUS_EVERY, STATUS_EVERY);
    let deadline = args.run_for.map(|d| begun + d);
    let mut pictures = std::pin::pin!(pictures(args, address));
    while !stop.asked() {
        tokio::select! {
            taken = &mut pictures => {
                taken?;
                console.line(Tint::Plain, "the pictures are taken: stopping in order");
                break;
            }
            () = stop.wait() => {}
            () = until(deadline) => {
                console.line(Tint::Plain, "the time is up: stopping in order");
                break;
            }
            _ = status.tick() => {
                console.line(Tint::Faint, status_line(load.results(), &provider));
            }
            gone = &mut server => {
                gone??;
                return Err("the service ended by itself".into());
            }
        }
    }
    let lasted = begun.elapsed();

    if let Some(harm) = harm {
        harm.mend_at_the_end().await;
    }
    // In order: first the load, then requests, connections and logins, then the servers.
    let results = load.stop().await;
    let _ = end.send(());
    let report = server.await??;
    let leftovers = place.leftovers(&tally, !record.is_empty()).await?;
    let wrong_sum = place.wrong_sum(&results).await?;

    console.line(Tint::Plain, summary(&results, lasted));
    console.line(Tint::Plain, tally.to_string());
    // Said apart: who asks for harm gets it, and the demo did its part.
    for line in record.lines() {
        console.line(Tint::Drain, line);
    }
    let mut problems = Vec::new();
    if results.failures() > 0 {
        let first = results.first_failures().join("; ");
        problems.push(format!("{} queries failed, first: {first}", results.failures()));
    }
    // An interrupt may come before the first one.
    if results.ok() == 0 && !stop.asked() {
        problems.push("no query succeeded".to_owned());
    }
    problems.extend(wrong_sum);
    if !report.is_clean() {
        problems.push(format!("the shutdown reports: {report}"));
    }
    if leftovers.found.is_empty() {
        console.line(Tint::Good, format!("nothing is left: {}", leftovers.looked_at));
    } else {
        problems.push(format!("left behind: {}", leftovers.found.join(", ")));
    }
    if tally.rotations() == 0
        && record.is_empty()
        && place.rotates_within().is_some_and(|within| lasted > within)
    {
        problems.push(format!("no rotation in {lasted:.0?}"));
    }
    place.end().await?;
    Ok(problems)
}

/// Takes the pictures that were asked for; else never ends.
#[cfg(feature = "browser")]
async fn pictures(args: &Args, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    match &args.screenshot {
        Some(directory) => crate::screenshot::take(format!("http://{address}/"), directory).await,
        None => std::future::pending().await,
    }
}

#[cfg(not(feature = "browser"))]
async fn pictures(_: &Args, _: SocketAddr) -> Result<(), Box<dyn Error>> {
    std::future::pending().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn status_line(results: &Results, provider: &CredentialProvider) -> String {
    let latest = results.take_latest();
    let health = provider.health();
    let size: usize = health.pools.iter().map(|p| p.counts.size).sum();
    let idle: usize = health.pools.iter().map(|p| p.counts.idle).sum();
    format!(
        "queries {} ok, {} failed; p50 {}, p99 {}; generation {}; {size} connections, {idle} idle",
        results.ok(),
        results.failures(),
        ms(latest.percentile(0.50)),
        ms(latest.percentile(0.99)),
        health.generation,
    )
}

fn summary(results: &Results, lasted: Duration) -> String {
    let all = results.all();
    format!(
        "in {lasted:.1?}: queries {} ok, {} failed; p50 {}, p99 {}, max {}",
        results.ok(),
        results.failures(),
        ms(all.percentile(0.50)),
        ms(all.percentile(0.99)),
        ms(all.max()),
    )
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
