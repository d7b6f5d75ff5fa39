// Mistakes that the type checker must see; each line below a mark is one.
import { emit, http, keyvalue, log, Reject, Retry, type Context, type Event, type Handler } from "koksmat";

export function mistakes(event: Event, ctx: Context): void {
  // @ts-expect-error: not here
  fetch("https://example.com/");
  // @ts-expect-error: not here
  setTimeout(() => {}, 1);
  // @ts-expect-error: not here
  process.env.HOME;
  // @ts-expect-error: not here
  require("fs");
  // @ts-expect-error: not here
  Buffer.from("a");
  // @ts-expect-error: not here
  document.title;
  // @ts-expect-error: there is no such capability
  import("koksmat").then(({ database }) => database);
  // @ts-expect-error: it is synchronous and gives no promise
  http.fetch("https://example.com/").then(() => {});
  // @ts-expect-error: a body is a value here, too
  http.fetch("https://example.com/").text().then(() => {});
  // @ts-expect-error: it may be absent
  keyvalue.get("k").length;
  // @ts-expect-error: that is what delete is for
  keyvalue.set("k", undefined);
  // @ts-expect-error: keys are text
  keyvalue.get(7);
  // @ts-expect-error: by how much?
  keyvalue.add("n");
  // @ts-expect-error: nobody replaces a capability
  keyvalue = null;
  // @ts-expect-error: an event has a type
  emit({ data: 1 });
  // @ts-expect-error: a unit is missing
  emit({ type: "t", after: "5" });
  // @ts-expect-error: no such member
  emit({ type: "t", payload: 1 });
  // @ts-expect-error: the reason is text
  new Reject(7);
  // @ts-expect-error: not a time span
  new Retry("busy", { after: "soon" });
  // @ts-expect-error: there is no such level
  log.fatal("no");
  // @ts-expect-error: an event is read only
  event.id = "other";
  // @ts-expect-error: it may be absent
  event.subject.length;
  // @ts-expect-error: it may be absent
  event.headers["x"].length;
  // @ts-expect-error: no such member
  ctx.retry();
  // @ts-expect-error: not a redirect
  Response.redirect("https://example.com/", 200);
  // @ts-expect-error: only integers are filled
  crypto.subtle;
}

// @ts-expect-error: a function is no answer that could be sent
export const noAnswer: Handler = () => Symbol("no");
// @ts-expect-error: a handler takes an event first
export const noEvent: Handler = (count: number) => count;
