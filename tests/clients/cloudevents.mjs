// Sends CloudEvents in every mode, made by the project's own SDK: node cloudevents.mjs URL [TOKEN]
import { randomBytes } from "node:crypto";
import { CloudEvent, HTTP } from "cloudevents";
import { say, sha256 } from "./post.mjs";

const [url, token] = process.argv.slice(2);
const authorization = token ? { authorization: `Bearer ${token}` } : {};
const bytes = randomBytes(70_000);

/** What an event's data is to a handler, by the rules of the mode it travels in. */
const asText = (data) => (typeof data === "string" ? data : JSON.stringify(data));

const made = (mode) => [
  { data: { order: 7, price: 12.5, name: "Blåbær ☃", nested: [{ a: null }] }, datacontenttype: "application/json" },
  { data: "plain text, two\nlines, a ☃ and a \"quote\"", datacontenttype: "text/plain; charset=utf-8" },
  { data: "<order><id>7</id></order>", datacontenttype: "application/xml" },
  { data: Uint8Array.from(bytes), datacontenttype: "application/octet-stream", binary: bytes },
  { data: Uint8Array.from([0xff, 0xfe, 0x00, 0x0a, 0x0d]), datacontenttype: "image/png", binary: Buffer.from([0xff, 0xfe, 0x00, 0x0a, 0x0d]) },
  { data: [1, 2, 3], datacontenttype: "application/vnd.shop+json", subject: "42", dataschema: "https://example.com/order.json" },
  { data: { n: 1 }, datacontenttype: "application/json", partitionkey: "k-1", traceparent: `00-${"a".repeat(32)}-${"b".repeat(16)}-01` },
  { datacontenttype: "application/json" },
].map(({ binary, ...fields }, n) => {
  const event = new CloudEvent({ id: `${mode}-${n}`, source: "/clients/cloudevents", type: "order.created", ...fields });
  return { event, data: binary ?? (fields.data === undefined ? "" : asText(fields.data)) };
});

/** What the handler must see of it. */
function expected({ event, data }) {
  const { id, source, type, subject, dataschema, datacontenttype, partitionkey, traceparent } = event;
  const attributes = Object.fromEntries(Object.entries({ partitionkey, traceparent }).filter(([, value]) => value !== undefined));
  return { id, source, type, subject, dataschema, time: new Date(event.time).toISOString(), datacontenttype, attributes, sha256: sha256(data) };
}

async function send(mode, message, events) {
  const response = await fetch(url, { method: "POST", headers: { ...message.headers, ...authorization }, body: message.body });
  say({ mode, events: events.map(expected), status: response.status, answer: await response.text() });
}

for (const mode of ["binary", "structured"]) {
  for (const item of made(mode)) {
    const message = HTTP[mode](item.event);
    await send(mode, message, [item]);
    await send(`${mode}, again`, message, [item]);
  }
}

// JSON that no serialiser would write: the text of `data` arrives as it is.
const odd = '{ "a" : 1.0,\n\t"b": "\\u00e9", "big": 123456789012345678901234567890 ,"a2":[ ] }';
const bare = new CloudEvent({ id: "odd", source: "/clients/cloudevents", type: "order.created", datacontenttype: "application/json" });
const structured = HTTP.structured(bare);
await send("structured", { ...structured, body: structured.body.replace(/\}$/, `,"data" :  ${odd} }`) }, [{ event: bare, data: odd }]);

// The SDK reads batches and leaves writing them to the sender: a JSON array of its structured form.
const batch = made("batch");
const parts = batch.map(({ event }) => HTTP.structured(event).body);
const message = { headers: { "content-type": "application/cloudevents-batch+json; charset=utf-8" }, body: `[${parts.join(",\n ")}]` };
await send("batch", message, batch);
await send("batch, again", message, batch);

// Not CloudEvents, though they say they are.
const broken = (headers, body) => send("broken", { headers, body }, []);
await broken({ "content-type": "application/cloudevents+json" }, parts[0].slice(0, -2));
await broken({ "content-type": "application/cloudevents-batch+json" }, `[${parts[0]}, {"specversion":"1.0","id":"1"}]`);
await broken({ "content-type": "text/plain", "ce-specversion": "1.0", "ce-id": "1", "ce-type": "t" }, "no source");
