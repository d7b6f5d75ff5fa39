// Sends every example delivery the way GitHub does: node github.mjs URL SECRET
import { createHmac, randomUUID } from "node:crypto";
import { sign } from "@octokit/webhooks-methods";
import examples from "@octokit/webhooks-examples" with { type: "json" };
import { each, post } from "./post.mjs";

const [url, secret] = process.argv.slice(2);
const JSON_TYPE = "application/json";
const FORM = "application/x-www-form-urlencoded";

const deliveries = examples.flatMap(({ name, examples }) =>
  examples.map((example) => ({ event: name, id: randomUUID(), type: JSON_TYPE, body: JSON.stringify(example) })));
// A webhook can be set up to send forms: the JSON is then in a field called payload.
deliveries.push(...deliveries.slice(0, 5).map(({ event, body }) =>
  ({ event, id: randomUUID(), type: FORM, body: new URLSearchParams({ payload: body }).toString() })));

function headers({ event, id, type }, signature) {
  return {
    "content-type": type,
    "user-agent": "GitHub-Hookshot/044aadd",
    "x-github-delivery": id,
    "x-github-event": event,
    "x-github-hook-id": "292430182",
    "x-github-hook-installation-target-type": "repository",
    ...signature,
  };
}

async function deliver(kind, delivery) {
  const signature = { "x-hub-signature-256": await sign(secret, delivery.body) };
  await post(url, headers(delivery, signature), delivery.body, { kind, ...delivery, body: undefined });
}

async function forge(how, signature, body) {
  const delivery = { event: "push", id: randomUUID(), type: JSON_TYPE };
  await post(url, headers(delivery, signature), body, { kind: "forged", how, ...delivery });
}

await each(deliveries, 8, (delivery) => deliver("new", delivery));
await each(deliveries, 8, (delivery) => deliver("again", delivery));

const body = deliveries[0].body;
await forge("a byte of the body was changed", { "x-hub-signature-256": await sign(secret, body) }, body.replace("e", "E"));
await forge("a byte was added", { "x-hub-signature-256": await sign(secret, body) }, `${body}\n`);
await forge("signed with another secret", { "x-hub-signature-256": await sign(`${secret}!`, body) }, body);
await forge("not signed", {}, body);
await forge("the signature is empty", { "x-hub-signature-256": "sha256=" }, body);
const sha1 = createHmac("sha1", secret).update(body).digest("hex");
await forge("signed in the old way only", { "x-hub-signature": `sha1=${sha1}` }, body);
