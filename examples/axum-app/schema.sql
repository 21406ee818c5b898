-- The example's one table. `v` is the balance in cents.
create table if not exists accounts(
    id int primary key,
    v bigint not null default 0,
    note text not null default 'x'
);
insert into accounts(id) select generate_series(0, 9999) on conflict do nothing;
