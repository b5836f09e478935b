// Workers that each hold a message and extend its lease again and again, with an agent that keeps connections:
// `node heartbeats.mjs <url of a queue's messages> <workers> <milliseconds between requests> <requests of each>`.
// Prints how many requests were answered, how many failed and why, and how many connections it took.
import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const [url, ...numbers] = process.argv.slice(2);
const [workers, interval, rounds] = numbers.map(Number);
const counts = { answered: 0, failed: {}, connections: 0 };

function request(agent, method, path, body) {
  return new Promise((resolve, reject) => {
    const sent = http.request(url + path, { agent, method }, (answer) => {
      let text = '';
      answer.on('error', reject);
      answer.on('data', (part) => (text += part));
      answer.on('end', () => {
        if (answer.statusCode >= 300) reject(new Error(`${answer.statusCode} ${text}`));
        else resolve(text && JSON.parse(text));
      });
    });
    sent.on('error', reject);
    sent.on('socket', () => {
      if (!sent.reusedSocket) counts.connections += 1;
    });
    sent.end(body && JSON.stringify(body));
  });
}

async function work() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const { msg_id: id } = await request(agent, 'POST', '', { message: 1 });
  for (let round = 0; round < rounds; round += 1) {
    await sleep(interval);
    try {
      await request(agent, 'PATCH', `/${id}`, { vt: 60 });
      counts.answered += 1;
    } catch (error) {
      const why = error.code ?? error.message;
      counts.failed[why] = (counts.failed[why] ?? 0) + 1;
    }
  }
  agent.destroy();
}

await Promise.all(Array.from({ length: workers }, work));
console.log(JSON.stringify(counts));
