import { keyvalue, log, Reject } from "koksmat";

/**
 * @param {import("koksmat").Event} event
 * @param {import("koksmat").Context} ctx
 */
export function handle(event, ctx) {
  const { name } = event.json();
  if (!name) throw new Reject("a greeting needs a name");
  const times = keyvalue.increment(`greeted/${name}`);
  log.info(`hello ${name}`, { times, attempt: ctx.attempt });
  return { hello: name, times };
}
