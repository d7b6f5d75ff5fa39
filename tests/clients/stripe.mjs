// Sends events the way Stripe does, signed by Stripe's own library: node stripe.mjs URL SECRET
import Stripe from "stripe";
import { post } from "./post.mjs";

const [url, secret] = process.argv.slice(2);
const { webhooks } = new Stripe("sk_test_not_a_key");
const now = () => Math.floor(Date.now() / 1000);

const OBJECTS = {
  "checkout.session.completed": { id: "cs_test_a1", object: "checkout.session", amount_total: 4200, currency: "sek", mode: "payment" },
  "customer.created": { id: "cus_1", object: "customer", email: "åse@example.com", name: "Åse Øl ☃", metadata: {} },
  "invoice.paid": { id: "in_1", object: "invoice", amount_paid: 4200, lines: { object: "list", data: [], has_more: false } },
  "payment_intent.succeeded": { id: "pi_1", object: "payment_intent", amount: 4200, currency: "sek", status: "succeeded" },
  "payout.failed": { id: "po_1", object: "payout", amount: -1, failure_code: "account_closed" },
};
const events = Object.entries(OBJECTS).flatMap(([type, object], kind) => Array.from({ length: 6 }, (_, n) => ({
  id: `evt_${kind}${n}`,
  type,
  // Stripe indents its bodies.
  body: JSON.stringify({
    id: `evt_${kind}${n}`, object: "event", api_version: "2026-01-28", created: now(), data: { object }, livemode: false,
    pending_webhooks: 1, request: { id: null, idempotency_key: null }, type,
  }, null, 2),
})));

async function send(kind, { id, type, body }, header, more = {}) {
  const headers = { "content-type": "application/json; charset=utf-8", "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)" };
  if (header !== undefined) headers["stripe-signature"] = header;
  await post(url, headers, body, { kind, id, type, ...more });
}

const signed = (payload, options) => webhooks.generateTestHeaderString({ payload, secret, ...options });
const forge = (how, header, body = '{"id":"evt_forged","type":"payout.paid"}') => send("forged", { id: "evt_forged", body }, header, { how });

for (const event of events) await send("new", event, signed(event.body));
for (const event of events) await send("again", event, signed(event.body, { timestamp: now() - 60 }));

const body = events[0].body;
await forge("the body was changed", signed(body), body.replace("4200", "2"));
await forge("old", signed(body, { timestamp: now() - 360 }), body);
await forge("from the future", signed(body, { timestamp: now() + 360 }), body);
await forge("signed with another secret", signed(body, { secret: `${secret}!` }), body);
await forge("not signed", undefined);
await forge("a scheme that is not v1", signed(body, { scheme: "v0" }), body);
