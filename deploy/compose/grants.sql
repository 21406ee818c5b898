-- The group that owns the rights. Each login is made a member of it: rights granted to logins
-- themselves would stand in the way of dropping them.
create role app_rw nologin;
grant usage on schema public to app_rw;
grant select, insert, update, delete on accounts to app_rw;
