-- The database that the poller watches. It is made when the shop first starts: two invoices are due, one will be in 20 seconds.
create table invoice (
    id integer primary key,
    customer text not null,
    cents integer not null,
    due_at text not null,
    status text not null default 'open'
);

insert into invoice (customer, cents, due_at) values
    ('Anna', 12050, datetime('now', '-3 days')),
    ('Bob', 4800, datetime('now', '-1 hour')),
    ('Carla', 990, datetime('now', '+20 seconds')),
    ('Dan', 31000, datetime('now', '+30 days'));
