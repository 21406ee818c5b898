//! Whose types an API names.

use std::collections::BTreeSet;

/// Names of crates in these lines that are not among those allowed, one line each.
pub fn named(own: &str, may_name: &[&str], api: &[String]) -> Vec<String> {
    let own = own.replace('-', "_");
    let allowed = |name: &str| {
        name == own || ["std", "core", "alloc"].contains(&name) || may_name.contains(&name)
    };
    let mut found = BTreeSet::new();
    for line in api {
        for name in roots(line).filter(|name| !allowed(name)) {
            found.insert(format!("names the crate {name}, which is not to be in its API: {line}"));
        }
    }
    found.into_iter().collect()
}

/// The first part of each path with `::` in it: `tokio` of `tokio::sync::broadcast::Receiver`.
fn roots(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .filter_map(|path| path.split_once("::"))
        .map(|(root, _)| root)
        // `Self::Item`, `T::Item` and `<T as Trait>::Item` are no crates'.
        .filter(|root| root.starts_with(char::is_lowercase))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_foreign_type_is_found_and_our_own_is_not() {
        let line = |s: &str| vec![s.to_owned()];
        let bad =
            line("pub fn leasehold::x() -> core::option::Option<sqlx_core::pool::Pool<Self::DB>>");
        let found = super::named("leasehold", &["tokio"], &bad);
        assert!(matches!(&found[..], [one] if one.contains("sqlx_core")), "{found:?}");
        let good = line("pub fn leasehold::x(T::Item) -> tokio::sync::broadcast::Receiver<u8>");
        assert!(super::named("leasehold", &["tokio"], &good).is_empty());
    }
}
