import { keyvalue, emit, log, Reject } from "koksmat";

// A message of the topic: its key is the event's subject, its value the data.
export function handle(event) {
  const article = event.subject;
  const { order, quantity } = event.json();
  const left = Number(keyvalue.get(`stock/${article}`) ?? 5);
  if (left < quantity) throw new Reject(`${quantity} of ${article} wanted, ${left} left`);
  keyvalue.set(`stock/${article}`, left - quantity);
  emit({ type: "order.reserved", subject: article, data: { order, left: left - quantity } });
  log.info(`${quantity} of ${article} reserved for order ${order}`);
}
