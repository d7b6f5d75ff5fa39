import { keyvalue, log, Reject, type Context, type Event } from "koksmat";

interface Greeting {
  name?: string;
}

export function handle(event: Event, ctx: Context) {
  const { name } = event.json() as Greeting;
  if (!name) throw new Reject("a greeting needs a name");
  const times = keyvalue.increment(`greeted/${name}`);
  log.info(`hello ${name}`, { times, attempt: ctx.attempt });
  return { hello: name, times };
}
