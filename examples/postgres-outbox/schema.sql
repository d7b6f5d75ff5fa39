create table shop_outbox (
    id        bigint generated always as identity primary key,
    recipient text not null,
    payload   jsonb not null,
    at        timestamptz not null default now()
);
