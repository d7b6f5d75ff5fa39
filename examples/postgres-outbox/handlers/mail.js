import { log } from "koksmat";

// A row arrives as a JSON object.
export function handle(event) {
  const { id, recipient, payload, at } = event.json();
  log.info(`mail to ${recipient}: ${payload.subject}`);
}
