// supabase-js on a gateway: `node client.mjs <modules> <url> <key>`. Fails where an answer is another than the
// platform's.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [modules, url, key] = process.argv.slice(2)
const require = createRequire(`${modules}/`)
const { createClient } = require('@supabase/supabase-js')
const { version } = JSON.parse(readFileSync(`${modules}/node_modules/@supabase/supabase-js/package.json`))
console.log(`supabase-js ${version} on Node ${process.version}`)

const connect = (key) => createClient(url, key, { realtime: { transport: class {} }, auth: { persistSession: false } })
const queues = connect(key).schema('pgmq_public')
const queue_name = 'js'

/** The data of a call that must be answered. */
async function data(call) {
  const { data, error, status } = await call
  assert.equal(error, null)
  assert.equal(status, 200)
  return data
}

/** The error of a call that must be refused. */
async function refusal(call, status, code) {
  const answer = await call
  assert.equal(answer.data, null)
  assert.equal(answer.status, status)
  assert.equal(answer.error.code, code)
  assert.equal(typeof answer.error.message, 'string')
}

assert.deepEqual(await data(queues.rpc('send', { queue_name, message: { a: 1 } })), [1])
assert.deepEqual(await data(queues.rpc('send_batch', { queue_name, messages: [{ b: 2 }, 'c'], sleep_seconds: 0 })), [2, 3])
const read = await data(queues.rpc('read', { queue_name, sleep_seconds: 60, n: 1 }))
assert.equal(read.length, 1)
assert.deepEqual(read[0].message, { a: 1 })
assert.deepEqual(Object.keys(read[0]), ['msg_id', 'read_ct', 'enqueued_at', 'last_read_at', 'vt', 'message', 'headers'])
assert.ok(!Number.isNaN(Date.parse(read[0].vt)))
assert.equal(await data(queues.rpc('archive', { queue_name, message_id: read[0].msg_id })), true)
assert.equal(await data(queues.rpc('archive', { queue_name, message_id: 1n.toString() })), false)
assert.equal((await data(queues.rpc('pop', { queue_name }).single())).msg_id, 2)
assert.equal(await data(queues.rpc('delete', { queue_name, message_id: 3 })), true)
assert.equal(await data(queues.rpc('delete', { queue_name, message_id: 3 })), false)
console.log('ok: the six functions')

assert.deepEqual(await data(queues.rpc('pop', { queue_name })), [])
assert.equal(await data(queues.rpc('pop', { queue_name }).maybeSingle()), null)
await refusal(queues.rpc('pop', { queue_name }).single(), 406, 'PGRST116')
await data(queues.rpc('send', { queue_name, message: 1 }))
const chosen = await data(queues.rpc('read', { queue_name, sleep_seconds: 0, n: 1 }).select('msg_id').order('msg_id'))
assert.deepEqual(chosen, [{ msg_id: 4 }])
await refusal(queues.rpc('read', { queue_name, sleep_seconds: 0, n: 1 }).limit(1), 400, 'PGRST100')
const counted = await queues.rpc('read', { queue_name, sleep_seconds: 0, n: 1 }, { count: 'exact' })
assert.equal(counted.count, 1)
await data(queues.rpc('pop', { queue_name }))
console.log('ok: single, maybeSingle, select, order, count')

await refusal(queues.rpc('pop', { queue_name }, { get: true }), 405, '25006')
assert.equal((await queues.rpc('pop', { queue_name }, { head: true })).status, 405)
await refusal(queues.rpc('pop', { queue_name: 'gone' }), 404, '42P01')
await refusal(queues.rpc('read', { queue_name, n: 1 }), 404, 'PGRST202')
await refusal(queues.rpc('read', { queue_name, sleep_seconds: 'x', n: 1 }), 400, '22P02')
await refusal(queues.rpc('send', { queue_name, message: '\0' }), 400, '22P05')
await refusal(connect(key).schema('elsewhere').rpc('pop', { queue_name }), 406, 'PGRST106')
await refusal(connect('nobody').schema('pgmq_public').rpc('pop', { queue_name }), 401, 'PGRST301')
assert.deepEqual(await data(connect(key).rpc('pop', { queue_name })), [])
console.log('ok: errors')

const waiting = data(queues.rpc('read', { queue_name, sleep_seconds: 60, n: 1 }).setHeader('Prefer', 'wait=20').single())
await data(connect(key).schema('pgmq_public').rpc('send', { queue_name, message: 'waited for' }))
assert.equal((await waiting).message, 'waited for')
console.log('ok: a read that waits')
