import { keyvalue } from "koksmat";

/** What is counted in a day. */
export type Count = "orders" | "pieces" | "cents" | "reminders" | "pushes";

function prefix(day: Date): string {
  return `day/${day.toISOString().slice(0, 10)}/`;
}

/** Count something that happened today. `add` reads nothing, so that calls which count side by side never get in each other's way. */
export function count(what: Count, by = 1): void {
  keyvalue.add(prefix(new Date()) + what, by);
}

/** What was counted on a day. */
export function counted(day: Date, what: Count): number {
  return Number(keyvalue.get(prefix(day) + what) ?? 0);
}
