import { log, Reject, type Event, type Context } from "koksmat";

export function handle(event: Event, ctx: Context) {
  const photo: string = event.text();
  if (!photo.endsWith(".jpg")) throw new Reject(`${photo} is no photo`);
  if (photo.startsWith("busy") && ctx.attempt === 1) throw new Error("try again"); // parked, and acknowledged
  log.info(`resized ${photo}`);
}
