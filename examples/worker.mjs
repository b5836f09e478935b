#!/usr/bin/env node
// A worker for one queue, with nothing but Node itself (18 or later).
//
//     GATEWAY=http://localhost:8080 QUEUE=orders node worker.mjs
//
// It waits for messages, works on several at a time, holds on to them while it does, and settles them
// together: what was done is deleted, what failed comes back after a pause that grows. SIGTERM and SIGINT
// end it as soon as what it has begun is done; what it has not begun goes to others at once.
//
// To have it do something, import `run` and give it a function:
//
//     import { run } from './worker.mjs';
//     await run(async (message) => console.log(message.message));

import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const { GATEWAY = 'http://localhost:8080', QUEUE = 'orders', GATEWAY_KEY, CONCURRENCY = '10', LEASE = '30' } = process.env;
const WAIT = 20;
// Seconds for which a message is nobody else's; extended while it is worked on.
const lease = Number(LEASE);
const messagesUrl = `${GATEWAY.replace(/\/$/, '')}/queues/${encodeURIComponent(QUEUE)}/messages`;

/** One request; what the gateway answers, or null without a body. */
async function call(method, url, body, signal = AbortSignal.timeout(60_000)) {
  const headers = { 'content-type': 'application/json', prefer: 'return=minimal' };
  if (GATEWAY_KEY) headers.authorization = `Bearer ${GATEWAY_KEY}`;
  const answer = await fetch(url, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${answer.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

/** A pause that grows with the number of failures, and is never the same for all. */
const backOff = (failures, most) => sleep(Math.min(2 ** failures * 100, most) * (0.5 + Math.random() / 2));

/** The next messages; waits for the first one. Whoever is told to stop meanwhile takes nothing along. */
async function receive(stop) {
  const waiting = new AbortController();
  const leave = () => waiting.abort();
  const limit = setTimeout(leave, (WAIT + 5) * 1000);
  stop.addEventListener('abort', leave);
  try {
    const url = `${messagesUrl}?qty=${CONCURRENCY}&vt=${lease}&wait=${WAIT}`;
    return (await call('GET', url, undefined, waiting.signal)).messages;
  } finally {
    clearTimeout(limit);
    stop.removeEventListener('abort', leave);
  }
}

/** Has a message for longer. One that is somebody else's by now cannot be helped. */
async function extend({ msg_id, receipt }) {
  try {
    // One that hangs leaves time for another try.
    const limit = AbortSignal.timeout((lease * 1000) / 3);
    await call('PATCH', `${messagesUrl}/${msg_id}?receipt=${receipt}`, { vt: lease }, limit);
  } catch (error) {
    console.error(`message ${msg_id} could not be extended: ${error.message}`);
  }
}

/** Says what became of messages, until the gateway has heard it: doing so twice does no harm. */
async function settle(entries) {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      const { failed } = await call('POST', `${messagesUrl}/settle`, entries);
      for (const { msg_id, detail } of failed) console.error(`message ${msg_id}: ${detail}`);
      return;
    } catch (error) {
      console.error(`settling failed, trying again: ${error.message}`);
      await backOff(attempt, 5_000);
    }
  }
}

/** Works on messages at the same time, and settles those that are through together. */
async function workOn(messages, handle, isStopping) {
  let entries = { delete: [], retry: [] };
  const work = async (message) => {
    const { receipt, read_ct, msg_id } = message;
    if (isStopping()) return entries.retry.push({ receipt, uncounted: true });
    const heartbeat = setInterval(() => extend(message), (lease * 1000) / 3);
    try {
      await handle(message);
      entries.delete.push({ receipt });
    } catch (error) {
      console.error(`message ${msg_id} failed: ${error}`);
      // 1, 2, 4, ... seconds. After `max_receives` deliveries it becomes a dead letter.
      entries.retry.push({ receipt, delay: Math.min(2 ** (read_ct - 1), 900) });
    } finally {
      clearInterval(heartbeat);
    }
  };
  const pending = new Set();
  for (const message of messages) {
    const promise = work(message).finally(() => pending.delete(promise));
    pending.add(promise);
  }
  while (pending.size > 0 || entries.delete.length + entries.retry.length > 0) {
    if (pending.size > 0) await Promise.race(pending);
    const done = entries;
    entries = { delete: [], retry: [] };
    if (done.delete.length + done.retry.length > 0) await settle(done);
  }
}

/** Works until it is told to stop. `handle` gets a message, and throws what speaks against it. */
export async function run(handle) {
  const stop = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => stop.abort());
  let failures = 0;
  while (!stop.signal.aborted) {
    let messages;
    try {
      messages = await receive(stop.signal);
      failures = 0;
    } catch (error) {
      if (stop.signal.aborted) break;
      console.error(`receiving failed, trying again: ${error.message}`);
      await backOff(++failures, 10_000);
      continue;
    }
    await workOn(messages, handle, () => stop.signal.aborted);
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  await run(async ({ message }) => console.log(JSON.stringify(message)));
}
