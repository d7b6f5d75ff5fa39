// Everything a handler may do, as the type checker sees it.
import {
  config, emit, http, keyvalue, log, Reject, Response as ImportedResponse, Retry,
  type Context, type Duration, type Event, type FetchOptions, type Handler, type Outgoing, type Result,
} from "koksmat";

interface Order { sku: string; quantity: number }

export function handle(event: Event, ctx: Context): { reserved: number } {
  const order = event.json<Order>();
  const left = Number(keyvalue.get(`stock/${order.sku}`) ?? 0);
  if (left < order.quantity) throw new Reject("out of stock");
  keyvalue.set(`stock/${order.sku}`, left - order.quantity);
  emit({ type: "order.reserved", data: order });
  log.info("reserved", { sku: order.sku, attempt: ctx.attempt });
  return { reserved: order.quantity };
}

const answers: Handler[] = [
  () => undefined,
  () => {},
  () => null,
  () => "text",
  () => 7,
  () => [1, 2],
  () => Uint8Array.of(1),
  () => new Uint8Array(2).buffer,
  () => ({ status: 1 }),
  () => new Response("x", { status: 201, headers: { "x-a": "1" } }),
  () => Response.json({ a: 1 }),
  async () => new ImportedResponse(null, { status: 204 }),
  async (event) => event.text(),
  (_event, ctx) => ctx.idempotencyKey,
];
export default answers[0] satisfies Handler | undefined;

export function theEvent(event: Event, ctx: Context): Result {
  const words: string[] = [event.id, event.type, event.source, event.text()];
  const perhaps: (string | undefined)[] = [event.subject, event.time, event.datacontenttype, event.dataschema, event.attributes["partitionkey"], event.headers["x-one"]];
  const data: Uint8Array = event.bytes();
  const free = event.json();
  const about: [string, string, number, string, number, number | undefined, string | undefined] =
    [ctx.tenant, ctx.handler, ctx.attempt, ctx.idempotencyKey, ctx.deadline - Date.now(), ctx.fencingToken, ctx.traceparent];
  return { words, perhaps, data: data.length, free: free.any.thing, about };
}

export function keys(): void {
  const text: string | undefined = keyvalue.get("k");
  const bytes: Uint8Array | undefined = keyvalue.getBytes("k");
  const order: Order | undefined = keyvalue.getJSON<Order>("k");
  for (const value of ["text", 1, 1n, true, Uint8Array.of(1), new Uint8Array(1).buffer, { a: 1 }, [1]]) keyvalue.set("k", value);
  keyvalue.delete("k");
  const list: string[] = keyvalue.exists("k") ? keyvalue.keys() : keyvalue.keys("prefix/");
  const sum: number = keyvalue.increment("n") + keyvalue.increment("n", 2) + keyvalue.increment("n", 2n);
  keyvalue.add("n", -1);
  keyvalue.add("n", 1n);
  log.debug("keys", { text, bytes, order, list, sum });
}

export function events(): string[] {
  const whole: Outgoing = {
    type: "t", id: "i", subject: "s", data: { any: "thing" }, datacontenttype: "application/json", dataschema: "https://example.com",
    attributes: { partitionkey: "k", count: 1, yes: true, absent: undefined }, queue: "work", after: "5s",
  };
  const spans: Duration[] = [5, "250ms", "5s", "1.5h", "2m"];
  return [emit(whole), ...spans.map((after) => emit({ type: "t", after }))];
}

export function failures(kind: string): never {
  switch (kind) {
    case "reject": throw new Reject("no", { cause: new TypeError("why") });
    case "retry": throw new Retry("busy");
    case "later": throw new Retry("busy", { after: "5s", cause: 1 });
    default: throw new class OutOfStock extends Reject { readonly sku = "tea"; }("out of stock");
  }
}

export function requests(): object {
  const options: FetchOptions = { method: "POST", headers: { a: "b", list: ["c", "d"] }, body: { json: 1 }, timeout: "2s", redirect: "manual" };
  const response: Response = http.fetch("https://example.com/", options);
  http.fetch(new URL("https://example.com/"), { headers: [["a", "b"]], body: new URLSearchParams({ a: "b" }) });
  http.fetch("https://example.com/", { headers: new Headers({ a: "b" }), body: Uint8Array.of(1), timeout: 5 });
  const { status, ok, headers, url } = response;
  const parts: [number, boolean, string | null, string] = [status, ok, headers.get("a"), url];
  return { parts, text: response.text(), json: response.json<Order>().sku, bytes: response.bytes().length, all: [...headers] };
}

export function settings(): Record<string, string> {
  const one: string | undefined = config.get("currency");
  return { ...config.all(), one: one ?? "none" };
}

export async function globals(): Promise<unknown[]> {
  console.log("%s", "a", 1, { a: 1 });
  console.error(new Error("e"));
  console.assert(true, "fine");
  log.warn("w", new Error("e"));
  queueMicrotask(() => {});
  await Promise.resolve();
  const url = new URL("/a", "https://example.com");
  url.searchParams.append("a", "b");
  url.pathname = "/b";
  const random: Uint32Array = crypto.getRandomValues(new Uint32Array(4));
  const copy: Map<string, Order> = structuredClone(new Map<string, Order>());
  return [
    new TextEncoder().encode("a").length, new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.of(97)), url.href, [...url.searchParams],
    URL.canParse("a:b"), URL.parse("x")?.href, crypto.randomUUID().length, random, copy.size, performance.now(), btoa("a") + atob("YQ=="), Math.random(),
  ];
}
