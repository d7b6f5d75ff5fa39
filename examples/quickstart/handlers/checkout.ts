// An order of the web site becomes an order in our own queue.
import { emit, Reject, type Event } from "koksmat";

interface Placed {
  order: string;
  sku: string;
  quantity: number;
  cents: number;
}

export function handle(event: Event) {
  // Standard Webhooks: { type, timestamp, data }
  const { data } = event.json<{ data: Placed }>();
  if (!data?.order || !(data.quantity > 0)) throw new Reject("an order needs a number and a quantity");
  emit({
    id: `order-${data.order}`, // an event with this id is accepted once, however often the site tells us
    type: "order.created",
    subject: data.order,
    data,
    queue: "orders",
  });
}
