// Somebody has pushed to the repository of the web site.
import { log } from "koksmat";
import { count } from "./day";

export function handle(event) {
  const { ref, pusher, commits } = event.json();
  count("pushes");
  log.info(`${pusher.name} pushed ${commits.length} commit(s) to ${ref}`, { github: event.headers["x-github-event"] });
}
