// Sends what a Standard Webhooks sender does: node standard.mjs URL SECRET
import { randomUUID } from "node:crypto";
import { Webhook } from "standardwebhooks";
import { post } from "./post.mjs";

const [url, secret] = process.argv.slice(2);
const webhook = new Webhook(secret);
const MINUTE = 60_000;

const messages = [
  { type: "invoice.paid", body: JSON.stringify({ type: "invoice.paid", timestamp: new Date().toISOString(), data: { id: 7 } }) },
  { type: "user.created", body: '{ "data": {"name": "Åse \\u2603 ☃"},\n  "type": "user.created" }\n' },
  { type: null, body: '{"data":"without a type"}' },
  { type: null, body: "[]" },
  { type: null, body: "plain text, with a ☃" },
  ...Array.from({ length: 30 }, (_, n) => ({ type: "tick", body: JSON.stringify({ type: "tick", n, pad: "x".repeat(n * 1000) }) })),
].map((message) => ({ ...message, id: `msg_${randomUUID()}` }));

function headers(id, time, signature) {
  return {
    "content-type": "application/json",
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(time.getTime() / 1000)),
    "webhook-signature": signature,
  };
}

async function send(kind, { id, type, body }, time = new Date()) {
  await post(url, headers(id, time, webhook.sign(id, time, body)), body, { kind, id, type });
}

async function forge(how, { id = `msg_${randomUUID()}`, time = new Date(), signature, body = "{}", headerId = id, headerTime = time }) {
  const said = signature ?? webhook.sign(id, time, body);
  await post(url, headers(headerId, headerTime, said), how.includes("body") ? `${body} ` : body, { kind: "forged", how, id: headerId });
}

for (const message of messages) await send("new", message);
// A sender that got no answer signs anew: the id stays, time and signature do not.
for (const message of messages) await send("again", message, new Date(Date.now() - 1_000));

// While a secret is being replaced there are two signatures.
const [rotated, time] = [{ id: `msg_${randomUUID()}`, type: "rotated", body: '{"type":"rotated"}' }, new Date()];
const other = new Webhook(Buffer.from("another secret of this sender").toString("base64"));
const both = `${other.sign(rotated.id, time, rotated.body)} ${webhook.sign(rotated.id, time, rotated.body)}`;
await post(url, headers(rotated.id, time, both), rotated.body, { kind: "new", id: rotated.id, type: rotated.type });

await forge("the body was changed", {});
await forge("another id than was signed", { headerId: "msg_other" });
await forge("another time than was signed", { headerTime: new Date(Date.now() - 2_000) });
await forge("signed with another secret", { signature: other.sign("msg_1", new Date(), "{}"), id: "msg_1" });
await forge("old", { time: new Date(Date.now() - 6 * MINUTE) });
await forge("from the future", { time: new Date(Date.now() + 6 * MINUTE) });
await forge("not signed", { signature: "" });
await forge("signed by a version that does not exist", { signature: "v9,AAAA" });
