// Goods have arrived.
import { keyvalue, log, Reject, type Event } from "koksmat";

interface Delivery {
  sku: string;
  quantity: number;
}

export function handle(event: Event) {
  const { sku, quantity } = event.json<Delivery>();
  if (!sku || !Number.isInteger(quantity) || quantity <= 0) throw new Reject("a delivery needs a sku and a quantity");
  const left = keyvalue.increment(`stock/${sku}`, quantity);
  log.info(`${quantity} of ${sku} delivered, ${left} in stock`);
  return { sku, left };
}
