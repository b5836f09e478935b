// Sends, receives with a filter and settles by what openapi-typescript makes of the document.

import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

declare const process: { argv: string[] };

function given<T>(value: T | undefined, error?: unknown): T {
  if (value === undefined) throw new Error(JSON.stringify(error));
  return value;
}

function check(holds: boolean, what: unknown): void {
  if (!holds) throw new Error(JSON.stringify(what));
}

const client = createClient<paths>({ baseUrl: given(process.argv[2]) });
const path = { queue: "typescript" };
const made = await client.PUT("/queues/{queue}", { params: { path } });
check(given(made.data, made.error).kind === "standard", made);
const again = await client.PUT("/queues/{queue}", { params: { path }, body: { kind: "standard" } });
check(given(again.data, again.error).created_at === made.data?.created_at, again);
const none = await client.GET("/queues/{queue}", { params: { path: { queue: "none" } } });
check(given(none.error).code === "queue_not_found", none);

const headers: components["schemas"]["MessageHeaders"] = { trace: { id: "abc" }, "x-pgmq-group": "g" };
for (const order of [1, 2]) {
  const body = { message: { order }, headers };
  const header = { "Idempotency-Key": `order-${order}` };
  const sent = await client.POST("/queues/{queue}/messages", { params: { path, header }, body });
  console.log("typescript: sent", JSON.stringify(given(sent.data, sent.error)));
}

const query = { qty: 10, vt: 60, wait: 1, filter: JSON.stringify({ order: 2 }) };
const answer = await client.GET("/queues/{queue}/messages", { params: { path, query } });
const received = given(answer.data, answer.error).messages;
check(received.length === 1, received);
const message = given(received[0]);
console.log("typescript: received", JSON.stringify(message));
check((message.message as { order: number }).order === 2, message);
check((message.headers?.["trace"] as { id: string }).id === "abc", message);

const entry = { receipt: given(message.receipt ?? undefined) };
const settle = { delete: [entry, { msg_id: 99 }] };
const ended = await client.POST("/queues/{queue}/messages/settle", { params: { path }, body: settle });
const settled = given(ended.data, ended.error);
console.log("typescript: settled", JSON.stringify(settled));
check(settled.deleted[0] === message.msg_id, settled);
check(settled.failed[0]?.code === "message_not_found", settled);
