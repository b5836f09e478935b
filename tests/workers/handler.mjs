// What the workers in the tests do: a message says how long it takes, and whether it fails.
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';

const { run } = await import(pathToFileURL(process.env.WORKER).href);

await run(async ({ message }) => {
  console.log('begun', message.n);
  await sleep((message.seconds ?? 0) * 1000);
  if (message.fails) throw new Error('as the message says');
  console.log('done', message.n);
});
