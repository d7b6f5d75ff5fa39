// Sums up the day, every minute and at closing time. The event's id is the time at which the timer was due.
import { config, log, type Event } from "koksmat";
import { counted } from "./day";
import { money } from "./money";

export function handle(event: Event) {
  const day = new Date(event.id);
  const sold = money(counted(day, "cents"), config.get("currency") ?? "");
  const [orders, pieces, reminders, pushes] = (["orders", "pieces", "reminders", "pushes"] as const).map((what) => counted(day, what));
  const when = event.subject === "closing-time" ? "today" : "so far";
  log.info(`${when}: ${orders} orders, ${pieces} pieces, ${sold}, ${reminders} reminders, ${pushes} pushes`);
}
