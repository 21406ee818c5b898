//! Which of a configuration's hosts a connect goes to.

use leasehold::Address;
use leasehold::hook::Refusal;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};

use crate::diagnosis::refusal;

/// Connects to the first of the hosts that takes it, in the driver's order.
///
/// The driver tells of the last host alone. After a fail-over that is often the one which is gone,
/// while the one before it refused the login: nobody would hear that it has to be replaced. So
/// they are asked one at a time, and a refused login is told before anything else.
pub(crate) async fn connect<T>(
    config: &Config,
    tls: T,
) -> Result<(Client, Connection<Socket, T::Stream>), Error>
where
    T: MakeTlsConnect<Socket> + Clone,
{
    let mut told: Option<Error> = None;
    for host in order(config) {
        match alone(config, host).connect(tls.clone()).await {
            Ok(connected) => return Ok(connected),
            Err(_) if told.as_ref().is_some_and(|told| refusal(told) == Refusal::Login) => {}
            Err(error) => told = Some(error),
        }
    }
    match told {
        Some(error) => Err(error),
        None => config.connect(tls).await,
    }
}

/// Several hosts, as they are to be asked. None where there is one, or where it is for the driver
/// to say that they don't fit together.
fn order(config: &Config) -> Vec<usize> {
    let (names, ips) = (config.get_hosts().len(), config.get_hostaddrs().len());
    let (ports, count) = (config.get_ports().len(), names.max(ips));
    let fits = |len: usize| len == 0 || len == count;
    if count < 2 || !fits(names) || !fits(ips) || !(fits(ports) || ports == 1) {
        return Vec::new();
    }
    let mut order: Vec<_> = (0..count).collect();
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        fastrand::shuffle(&mut order);
    }
    order
}

/// The same with one of its hosts.
fn alone(config: &Config, host: usize) -> Config {
    let mut alone = other_than_hosts(config);
    if let Some(name) = config.get_hosts().get(host) {
        add(&mut alone, name);
    }
    if let Some(ip) = config.get_hostaddrs().get(host) {
        alone.hostaddr(*ip);
    }
    let ports = config.get_ports();
    if let Some(port) = ports.get(host).or(ports.first()) {
        alone.port(*port);
    }
    alone
}

/// `base`, connecting to `address`; what that does not say stays. `Config` can only add hosts and
/// ports, so that one with others is made from the start.
pub(crate) fn elsewhere(base: &Config, address: &Address) -> Config {
    let mut config = if address.host.is_some() || address.port.is_some() {
        let mut config = other_than_hosts(base);
        match &address.host {
            Some(host) => drop(config.host(host)),
            None => {
                for host in base.get_hosts() {
                    add(&mut config, host);
                }
                for ip in base.get_hostaddrs() {
                    config.hostaddr(*ip);
                }
            }
        }
        // Several ports belong to as many hosts, which may be others now.
        match (address.port, base.get_ports()) {
            (Some(port), _) => drop(config.port(port)),
            (None, [port]) => drop(config.port(*port)),
            (None, _) => {}
        }
        config
    } else {
        base.clone()
    };
    if let Some(database) = &address.database {
        config.dbname(database);
    }
    config
}

fn add(config: &mut Config, host: &Host) {
    match host {
        Host::Tcp(name) => config.host(name),
        #[cfg(unix)]
        Host::Unix(path) => config.host_path(path),
    };
}

/// The login is among it.
fn other_than_hosts(base: &Config) -> Config {
    let mut config = Config::new();
    config
        .ssl_mode(base.get_ssl_mode())
        .ssl_negotiation(base.get_ssl_negotiation())
        .keepalives(base.get_keepalives())
        .keepalives_idle(base.get_keepalives_idle())
        .target_session_attrs(base.get_target_session_attrs())
        .channel_binding(base.get_channel_binding())
        .load_balance_hosts(base.get_load_balance_hosts());
    if let Some(user) = base.get_user() {
        config.user(user);
    }
    if let Some(password) = base.get_password() {
        config.password(password);
    }
    if let Some(name) = base.get_dbname() {
        config.dbname(name);
    }
    if let Some(options) = base.get_options() {
        config.options(options);
    }
    if let Some(name) = base.get_application_name() {
        config.application_name(name);
    }
    if let Some(timeout) = base.get_connect_timeout() {
        config.connect_timeout(*timeout);
    }
    if let Some(timeout) = base.get_tcp_user_timeout() {
        config.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = base.get_keepalives_interval() {
        config.keepalives_interval(interval);
    }
    if let Some(retries) = base.get_keepalives_retries() {
        config.keepalives_retries(retries);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_hosts_are_taken_apart_with_all_that_belongs_to_them() {
        let rest = "user=me password=x dbname=mine options=-cgeqo=off application_name=app \
                    sslmode=require sslnegotiation=direct keepalives=0 keepalives_idle=1 \
                    keepalives_interval=2 keepalives_retries=3 connect_timeout=4 \
                    tcp_user_timeout=5 target_session_attrs=read-write channel_binding=require";
        let parse = |text: String| text.parse::<Config>().unwrap();
        let both = parse(format!("host=a,b hostaddr=10.0.0.1,10.0.0.2 port=1,2 {rest}"));
        let one = |which: &str| parse(format!("{which} {rest}"));
        let (a, b) = ("host=a hostaddr=10.0.0.1 port=1", "host=b hostaddr=10.0.0.2 port=2");
        assert_eq!(order(&both), [0, 1]);
        assert_eq!([alone(&both, 0), alone(&both, 1)], [one(a), one(b)]);
        let port = parse(format!("host=a,b port=7 {rest}"));
        let apart = [one("host=a port=7"), one("host=b port=7")];
        assert_eq!([alone(&port, 0), alone(&port, 1)], apart);
        for driver in ["host=a", "host=a,b hostaddr=10.0.0.1", "host=a,b,c port=1,2"] {
            assert!(order(&parse(driver.to_owned())).is_empty(), "{driver}");
        }
        let random = parse("host=a,b,c,d,e,f,g,h load_balance_hosts=random".to_owned());
        let firsts: Vec<_> = (0..100).map(|_| order(&random)[0]).collect();
        assert!(firsts.iter().any(|host| *host != firsts[0]), "{firsts:?}");
    }

    #[test]
    fn an_address_takes_the_place_of_the_hosts_and_leaves_the_rest() {
        let base = "host=a,b port=1,2 dbname=mine application_name=app connect_timeout=3 \
                    sslmode=require keepalives_interval=4 target_session_attrs=read-write";
        let base: Config = base.parse().unwrap();
        let moved = elsewhere(&base, &Address::new().host("c").port(5).database("yours"));
        let wanted = "host=c port=5 dbname=yours application_name=app connect_timeout=3 \
                      sslmode=require keepalives_interval=4 target_session_attrs=read-write";
        assert_eq!(moved, wanted.parse().unwrap());
        let same = elsewhere(&base, &Address::new().database("mine"));
        assert_eq!(same, base);
        let port = elsewhere(&base, &Address::new().port(6));
        assert_eq!((port.get_hosts(), port.get_ports()), (base.get_hosts(), &[6][..]));
    }
}
