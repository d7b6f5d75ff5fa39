// What was reserved is sold: it counts for the day.
import { count } from "./day";

export function handle(event) {
  const { quantity, cents = 0 } = event.json();
  count("orders");
  count("pieces", quantity);
  count("cents", cents);
}
