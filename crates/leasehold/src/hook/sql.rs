//! The statements that hook crates send over connections of their own. They run as an ordinary
//! dynamic role: it may see every session's user name, role OID, pid and application name, and may
//! end sessions of its own role, but no more.

/// Proves a login: returns its role's OID as `bigint`. The OID is what still finds sessions when
/// the role's name is gone.
pub const PROVE: &str =
    "SELECT oid::bigint AS role_oid FROM pg_catalog.pg_roles WHERE rolname = session_user";

/// Is the role that logged in still there? Fails with 42704 `invalid role OID` once it was
/// dropped, while `SELECT 1` and every ping go on answering. The cheapest statement that knows.
/// Not `current_user`: a login may have taken on another role that lives on.
pub const LIVENESS: &str = "SELECT session_user";

/// The application name of a connection that a hook crate opens for itself. Whoever opens one closes
/// it before its login is revoked; so nobody counts or ends another pool's, for which it would
/// wait in vain when two pools drain the login that both their own connections are of.
pub const CONTROL_APPLICATION: &str = "leasehold control";

/// Sessions of the login `$1` (text) with role OID `$2` (bigint), as `bigint`. Counts listeners,
/// detached connections and other pools on the same login; filters on no column that is hidden
/// from an ordinary role.
pub const COUNT_SESSIONS: &str = "SELECT count(*) FROM pg_catalog.pg_stat_activity \
     WHERE (usename = $1 OR usesysid::bigint = $2) AND pid <> pg_catalog.pg_backend_pid() \
     AND application_name IS DISTINCT FROM 'leasehold control'";

/// Who still holds on: run by the superseded login itself, which sees its own role's sessions
/// whole. Never selects query text.
pub const LIST_HOLDERS: &str = "SELECT pid, coalesce(application_name, ''), coalesce(state, ''), \
     coalesce(extract(epoch FROM now() - xact_start), 0)::float8, \
     coalesce(extract(epoch FROM backend_start), 0)::float8 \
     FROM pg_catalog.pg_stat_activity \
     WHERE usename = session_user AND pid <> pg_catalog.pg_backend_pid() \
     AND application_name IS DISTINCT FROM 'leasehold control'";

/// Ends all sessions of the login that runs it, but its own; one row each.
pub const END_OWN_SESSIONS: &str = "SELECT pg_catalog.pg_terminate_backend(pid) \
     FROM pg_catalog.pg_stat_activity \
     WHERE usename = session_user AND pid <> pg_catalog.pg_backend_pid() \
     AND application_name IS DISTINCT FROM 'leasehold control'";

/// SQLSTATE of [`LIVENESS`] when the role is gone.
pub const ROLE_GONE: &str = "42704";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_counts_or_ends_connections_of_other_hooks() {
        let condition = format!("application_name IS DISTINCT FROM '{CONTROL_APPLICATION}'");
        for statement in [COUNT_SESSIONS, LIST_HOLDERS, END_OWN_SESSIONS] {
            assert!(statement.ends_with(&condition), "{statement}");
        }
    }
}
