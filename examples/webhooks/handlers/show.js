// Logs what came, and answers with it where someone waits for an answer.
import { log } from "koksmat";

export function handle(event) {
  const { id, type, source, subject, headers } = event;
  log.info(`${type} at ${subject}`, { id, headers });
  return { id, type, source, subject, bytes: event.bytes().length };
}
