// Counts the words of a line, and of all lines so far.
import { keyvalue } from "koksmat";

export function handle(event) {
  const words = event.text().split(/\s+/).filter(Boolean).length;
  return { words, total: keyvalue.increment("words", words) };
}
