//! What a login may do in Postgres, and what of it keeps it from being dropped.

use tokio_postgres::Client;

use super::journey::Journey;
use super::report::Finding;
use crate::postgres::said;

impl Journey {
    pub(super) async fn privileges(&mut self) -> Finding {
        let acting = "SELECT current_user::text WHERE current_user <> session_user";
        if let Ok(acting) = self.client().query_opt(acting, &[]).await {
            self.acts_as = acting.map(|row| row.get(0));
        }
        let client = self.client();
        for (rights, table) in &self.needs {
            if let Some(finding) = lacking(client, rights, table).await {
                return finding;
            }
        }
        if let Some(probe) = &self.probe {
            let whole = format!("BEGIN; {probe}\n; ROLLBACK");
            if let Err(e) = client.batch_execute(&whole).await {
                let _ = client.batch_execute("ROLLBACK").await;
                return Finding::fail_and_go_on(
                    format!("the probe fails: {}", said(&e)),
                    "grant what it lacks to the group that the logins are members of",
                );
            }
        }
        let groups = "SELECT r.rolname::text FROM pg_auth_members m \
             JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles me ON me.oid = m.member \
             WHERE me.rolname = session_user ORDER BY 1";
        let tables = "SELECT count(*) FROM pg_class c \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relnamespace::regnamespace::text \
                 NOT IN ('pg_catalog', 'information_schema', 'pg_toast') \
             AND has_schema_privilege(c.relnamespace, 'USAGE') \
             AND has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE')";
        let (groups, tables) =
            match (client.query(groups, &[]).await, client.query_one(tables, &[]).await) {
                (Ok(groups), Ok(row)) => (groups, row.get::<_, i64>(0)),
                (Err(e), _) | (_, Err(e)) => {
                    return Finding::fail_and_go_on(said(&e), "look at Postgres's log");
                }
            };
        let groups: Vec<String> = groups.iter().map(|row| row.get(0)).collect();
        let member = if groups.is_empty() { "no group".to_owned() } else { groups.join(", ") };
        let detail = format!("member of {member}; {tables} tables and views are open to it");
        if self.needs.is_empty() && self.probe.is_none() {
            if tables == 0 {
                return Finding::warn(
                    detail,
                    "grant rights to a group (GRANT SELECT ON … TO orders_rw, and USAGE on its \
                     schema), and make logins its members (IN ROLE orders_rw)",
                );
            }
            return Finding::ok(format!("{detail} (--needs or --probe says what is needed)"));
        }
        Finding::ok(detail)
    }

    pub(super) async fn obstacles(&mut self) -> Finding {
        let client = self.client();
        // Catalogs are everybody's to read, those of other databases by number only.
        let depending = "SELECT CASE WHEN d.deptype = 'o' THEN 'owns ' ELSE 'has a right of its own on ' END || \
                 CASE WHEN d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                     OR d.dbid = 0 \
                 THEN pg_describe_object(d.classid, d.objid, d.objsubid) \
                 ELSE 'something in another database' END \
             FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid \
             WHERE d.refclassid = 'pg_authid'::regclass AND r.rolname = session_user \
                 AND d.classid <> 'pg_auth_members'::regclass LIMIT 5";
        let creates = "SELECT n.nspname::text FROM pg_namespace n \
             WHERE has_schema_privilege(session_user::name, n.oid, 'CREATE') \
                 AND n.nspname NOT LIKE 'pg\\_%' ORDER BY 1 LIMIT 5";
        let found = (client.query(depending, &[]).await, client.query(creates, &[]).await);
        let (depending, creates) = match found {
            (Ok(depending), Ok(creates)) => (depending, creates),
            (Err(e), _) | (_, Err(e)) => {
                return Finding::fail_and_go_on(said(&e), "look at Postgres's log");
            }
        };
        let texts = |rows: &[tokio_postgres::Row]| -> Vec<String> {
            rows.iter().map(|row| row.get(0)).collect()
        };
        self.obstacles = texts(&depending);
        let creates = texts(&creates);
        if !self.obstacles.is_empty() {
            return Finding::warn(
                format!("the login {}", self.obstacles.join("; it ")),
                "give rights to a group, and the login membership of it (IN ROLE) and nothing else: \
                 a bare DROP ROLE fails with 2BP01",
            );
        }
        if !creates.is_empty() {
            return Finding::warn(
                format!(
                    "the login may create in schema {}: what it makes is its own, and blocks \
                         its DROP ROLE",
                    creates.join(", ")
                ),
                "REVOKE CREATE ON SCHEMA … FROM the group (and from PUBLIC); migrations act as an \
                 owner that stays",
            );
        }
        Finding::ok("it owns nothing, and has no right of its own")
    }
}

/// What of `rights` the login lacks on `table`, as a finding.
async fn lacking(client: &Client, rights: &str, table: &str) -> Option<Finding> {
    let fail = |detail: String, mend: String| Some(Finding::fail_and_go_on(detail, mend));
    let schema_mend = || {
        let schema = table.rsplit_once('.').map_or("public", |(schema, _)| schema);
        format!(
            "GRANT USAGE ON SCHEMA {schema} and GRANT {rights} ON {table} to the group that the \
             logins are members of"
        )
    };
    let oid: Option<u32> = match client.query_one("SELECT to_regclass($1)::oid", &[&table]).await {
        Ok(row) => row.get(0),
        Err(e) => return fail(format!("{table}: {}", said(&e)), schema_mend()),
    };
    let Some(oid) = oid else {
        return fail(
            format!("there is no table {table} in this database"),
            "correct --needs (with the schema in front), or the database".to_owned(),
        );
    };
    let sql = "SELECT has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, $2) \
         FROM pg_class c WHERE c.oid = $1";
    for right in rights.split(", ") {
        let (schema, has): (bool, bool) = match client.query_one(sql, &[&oid, &right]).await {
            Ok(row) => (row.get(0), row.get(1)),
            Err(e) => return fail(format!("{table}: {}", said(&e)), schema_mend()),
        };
        if !(schema && has) {
            return fail(
                format!("the login has no {right} on {table}"),
                if schema {
                    format!("GRANT {right} ON {table} to the group that the logins are members of")
                } else {
                    schema_mend()
                },
            );
        }
    }
    None
}
