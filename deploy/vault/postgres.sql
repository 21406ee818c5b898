-- What Postgres needs, once, as a superuser in the database of the service ("orders"). Rights
-- belong to groups that never log in; a login is made a member of one and holds none of its own,
-- so that nothing stands in the way of dropping it.

-- The groups. The owner owns the schema and all that migrations make.
CREATE ROLE orders_owner NOLOGIN;
CREATE ROLE orders_rw NOLOGIN;
CREATE ROLE orders_ro NOLOGIN;

-- Postgres 14 and older let everybody make tables in "public": they would belong to logins that
-- are to be dropped.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA IF NOT EXISTS orders AUTHORIZATION orders_owner;
GRANT USAGE ON SCHEMA orders TO orders_rw, orders_ro;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA orders TO orders_rw;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA orders TO orders_rw;
GRANT SELECT ON ALL TABLES IN SCHEMA orders TO orders_ro;

-- The same for what the owner will make.
ALTER DEFAULT PRIVILEGES FOR ROLE orders_owner IN SCHEMA orders
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO orders_rw;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_owner IN SCHEMA orders
    GRANT USAGE, SELECT ON SEQUENCES TO orders_rw;
ALTER DEFAULT PRIVILEGES FOR ROLE orders_owner IN SCHEMA orders
    GRANT SELECT ON TABLES TO orders_ro;

-- What Vault logs in as: no superuser. It makes roles, drops those that it made, and may give the
-- groups to them. The password is known to Vault alone once it was rotated (rotate-root).
CREATE ROLE vaultadmin LOGIN CREATEROLE PASSWORD 'change-me';
GRANT orders_owner, orders_rw, orders_ro TO vaultadmin WITH ADMIN OPTION;
