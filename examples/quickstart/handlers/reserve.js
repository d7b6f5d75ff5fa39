// Takes an order's goods from stock. The new number and the event take effect together, or neither does.
import { keyvalue, emit, log, Reject } from "koksmat";

export function handle(event, ctx) {
  const order = event.json();
  const left = Number(keyvalue.get(`stock/${order.sku}`) ?? 0);
  if (left < order.quantity) throw new Reject(`out of stock: ${order.quantity} of ${order.sku} wanted, ${left} left`);
  keyvalue.set(`stock/${order.sku}`, left - order.quantity);
  emit({ type: "order.reserved", subject: event.subject, data: order });
  log.info(`${order.quantity} of ${order.sku} reserved`, { left: left - order.quantity, attempt: ctx.attempt });
  return { reserved: order.quantity };
}
