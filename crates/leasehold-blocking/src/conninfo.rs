//! What libpq is told of where to connect, and as whom.

use std::fmt::Display;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{
    ChannelBinding, Host, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};
use zeroize::Zeroizing;

/// libpq's keywords and values, of which the last of a kind counts: what `config` says, then
/// `settings`, then the login. Without a connect timeout in `config` it is `bound`.
///
/// # Errors
/// A value can't be said to libpq. Names its keyword.
pub(crate) fn conninfo(
    config: &Config,
    settings: &[(String, String)],
    bound: Duration,
) -> Result<Zeroizing<String>, String> {
    let mut info = Info::default();
    place(&mut info, config);
    session(&mut info, config, bound);
    for (keyword, value) in settings {
        info.put(keyword, value)?;
    }
    if let Some(user) = config.get_user() {
        info.put("user", user)?;
    }
    if let Some(password) = config.get_password() {
        let password = std::str::from_utf8(password)
            .map_err(|_| "the password is not text, as libpq wants it".to_owned())?;
        info.put("password", password)?;
    }
    match info.refused {
        None => Ok(info.text),
        Some(why) => Err(why),
    }
}

fn place(info: &mut Info, config: &Config) {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    });
    info.list("host", hosts);
    info.list("hostaddr", config.get_hostaddrs());
    info.list("port", config.get_ports());
    info.some("dbname", config.get_dbname());
    info.some(
        "sslmode",
        match config.get_ssl_mode() {
            SslMode::Disable => Some("disable"),
            SslMode::Require => Some("require"),
            _ => None,
        },
    );
    // Known to libpq 17 and later.
    let direct = matches!(config.get_ssl_negotiation(), SslNegotiation::Direct);
    info.some("sslnegotiation", direct.then_some("direct"));
    info.some(
        "target_session_attrs",
        match config.get_target_session_attrs() {
            TargetSessionAttrs::ReadWrite => Some("read-write"),
            TargetSessionAttrs::ReadOnly => Some("read-only"),
            _ => None,
        },
    );
    info.some(
        "channel_binding",
        match config.get_channel_binding() {
            ChannelBinding::Disable => Some("disable"),
            ChannelBinding::Require => Some("require"),
            _ => None,
        },
    );
    // Known to libpq 16 and later.
    let random = matches!(config.get_load_balance_hosts(), LoadBalanceHosts::Random);
    info.some("load_balance_hosts", random.then_some("random"));
}

fn session(info: &mut Info, config: &Config, bound: Duration) {
    info.some("options", config.get_options());
    info.some("application_name", config.get_application_name());
    let timeout = config.get_connect_timeout().copied().unwrap_or(bound);
    // Zero would be for ever.
    info.some("connect_timeout", Some(seconds(timeout).max(1)));
    info.some("tcp_user_timeout", config.get_tcp_user_timeout().map(Duration::as_millis));
    info.some("keepalives", (!config.get_keepalives()).then_some(0));
    info.some("keepalives_idle", Some(seconds(config.get_keepalives_idle())));
    info.some("keepalives_interval", config.get_keepalives_interval().map(seconds));
    info.some("keepalives_count", config.get_keepalives_retries());
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[derive(Default)]
struct Info {
    text: Zeroizing<String>,
    refused: Option<String>,
}

impl Info {
    fn list<T: Display>(&mut self, keyword: &str, values: impl IntoIterator<Item = T>) {
        let values: Vec<_> = values.into_iter().map(|value| value.to_string()).collect();
        self.some(keyword, (!values.is_empty()).then(|| values.join(",")));
    }

    fn some(&mut self, keyword: &str, value: Option<impl Display>) {
        if let Some(value) = value
            && let Err(why) = self.put(keyword, &value.to_string())
        {
            self.refused = Some(why);
        }
    }

    fn put(&mut self, keyword: &str, value: &str) -> Result<(), String> {
        let is_keyword = |c: char| c.is_ascii_lowercase() || c == '_';
        if keyword.is_empty() || !keyword.chars().all(is_keyword) {
            return Err(
                "a keyword of libpq is a word of small letters: see Installer::libpq".into()
            );
        }
        if value.contains('\0') {
            return Err(format!("{keyword} has a zero byte in it, which libpq can't be told"));
        }
        let text = &mut self.text;
        // Once, so that no part of it is left behind where it was before.
        text.reserve(keyword.len() + 2 * value.len() + 4);
        text.push_str(keyword);
        text.push_str("='");
        for c in value.chars() {
            if matches!(c, '\'' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push_str("' ");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(4500);

    fn said(config: &str, settings: &[(&str, &str)]) -> Result<String, String> {
        let settings: Vec<_> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        conninfo(&config.parse().unwrap(), &settings, BOUND).map(|info| info.to_string())
    }

    #[test]
    fn what_a_value_holds_stays_in_its_value() {
        let mut config: Config = "host=db dbname='my db'".parse().unwrap();
        config.user(r"o'hara").password(r"a\b' host='evil");
        let info = conninfo(&config, &[], BOUND).unwrap();
        // libpq's own rules, as the driver of the same people reads them.
        let read: Config = info.replace("keepalives_count", "keepalives_retries").parse().unwrap();
        assert_eq!(read.get_user(), Some(r"o'hara"));
        assert_eq!(read.get_password(), Some(&br"a\b' host='evil"[..]));
        assert_eq!(read.get_hosts(), config.get_hosts());
        assert_eq!(read.get_dbname(), Some("my db"));
    }

    #[test]
    fn everything_that_both_know_is_said() {
        let config = "host=a,/run/pg hostaddr=127.0.0.1,127.0.0.2 port=1,2 dbname=d sslmode=require \
                      options='-c a=b' application_name=app connect_timeout=3 keepalives=0 \
                      keepalives_idle=9 keepalives_interval=4 keepalives_retries=5 \
                      tcp_user_timeout=6 target_session_attrs=read-write channel_binding=require \
                      load_balance_hosts=random sslnegotiation=direct";
        let info = said(config, &[]).unwrap();
        for part in [
            "host='a,/run/pg'",
            "hostaddr='127.0.0.1,127.0.0.2'",
            "port='1,2'",
            "dbname='d'",
            "sslmode='require'",
            "sslnegotiation='direct'",
            "options='-c a=b'",
            "application_name='app'",
            "connect_timeout='3'",
            "tcp_user_timeout='6000'",
            "keepalives='0'",
            "keepalives_idle='9'",
            "keepalives_interval='4'",
            "keepalives_count='5'",
            "target_session_attrs='read-write'",
            "channel_binding='require'",
            "load_balance_hosts='random'",
        ] {
            assert!(info.contains(&format!("{part} ")), "{part} is not in {info}");
        }
    }

    #[test]
    fn a_timeout_is_never_none_and_the_login_is_the_last_word() {
        let info =
            said("host=a user=me password=mine", &[("user", "you"), ("sslmode", "verify-full")]);
        let info = info.unwrap();
        assert!(info.contains("connect_timeout='5'"), "{info}");
        assert!(info.find("user='you'") < info.find("user='me'"), "{info}");
        assert!(info.ends_with("user='me' password='mine' "), "{info}");
    }

    #[test]
    fn what_libpq_can_not_be_told_is_refused_and_not_shown() {
        let mut config: Config = "host=a user=me".parse().unwrap();
        config.password("s3cr3t\0more");
        let why = conninfo(&config, &[], BOUND).unwrap_err();
        assert!(why.contains("password") && !why.contains("s3cr3t"), "{why}");
        let injected = ("x='' host", "evil".to_owned());
        let settings = [(injected.0.to_owned(), injected.1)];
        assert!(conninfo(&config, &settings, BOUND).is_err());
    }
}
