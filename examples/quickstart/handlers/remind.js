// An invoice is due: a row of the billing database, column by column.
import { config, log } from "koksmat";
import { count } from "./day";
import { money } from "./money";

export function handle(event) {
  const invoice = event.json();
  count("reminders");
  log.info(`reminding ${invoice.customer} of ${money(invoice.cents, config.get("currency"))}`, { invoice: invoice.id });
}
