// Beside the handlers of a configuration under test: counts each event once, notes what is out of order, and tells of each call.
import { config, http, keyvalue, Retry } from "koksmat";

export function handle(event, ctx) {
  const run = config.get("run");
  http.fetch(config.get("observer"), { method: "POST", body: `${ctx.handler} ${event.id} ${ctx.attempt}` });
  // Some calls fail the first time, so that failures are under test too.
  let sum = 0;
  for (const character of event.id) sum = (sum * 31 + character.codePointAt(0)) % 1000003;
  if (ctx.attempt === 1 && sum % 20 === 0) throw new Retry("so that failures are under test too", { after: "50ms" });
  keyvalue.add(`crash-test/${run}/count/${ctx.handler}/${event.id}`, 1);
  if (config.get("ordered") === "yes") {
    const last = `crash-test/${run}/last/${ctx.handler}/${event.subject}`;
    const number = Number(event.id.slice(event.id.lastIndexOf("-") + 1));
    if (number <= Number(keyvalue.get(last) ?? -1)) keyvalue.add(`crash-test/${run}/disorder/${ctx.handler}`, 1);
    keyvalue.set(last, String(number));
  }
}
