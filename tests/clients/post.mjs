// What the clients have in common: post, and say in one line of JSON what was sent and what came back.
import { createHash } from "node:crypto";

/** Post `body` and print a line with `sent`, the digest of the body's bytes, the status and the answer. */
export async function post(url, headers, body, sent) {
  const response = await fetch(url, { method: "POST", headers, body });
  const answer = await response.text();
  say({ ...sent, sha256: sha256(body), status: response.status, answer });
}

export function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** Of a string its UTF-8. */
export function sha256(data) {
  return createHash("sha256").update(data).digest("hex");
}

/** Call `work` for each item, so many of them side by side. */
export async function each(items, atOnce, work) {
  const rest = items.values();
  await Promise.all(Array.from({ length: atOnce }, async () => {
    for (const item of rest) await work(item);
  }));
}
