// supabase-js in pages: `node supabase.mjs <modules> <origin of ours> <origin of another> <url> <key> <open url>`. Our
// origin is allowed at both gateways; the second one asks nobody for a key. Fails where a page gets what it may not
// have, or not what it may.
import assert from 'node:assert/strict'
import { launch } from './browser.mjs'

const [modules, ours, others, url, key, open] = process.argv.slice(2)
const hosts = [ours, others].map((origin) => new URL(origin).hostname)
const browser = await launch(modules, hosts)
console.log(`Chromium ${browser.version()}`)

/** A page of a site. */
async function visit(origin) {
  const page = await browser.newPage()
  await page.goto(origin)
  return page
}

/** Calls functions of a page's supabase-js one after the other: `[name, arguments, wait]`. */
const call = (page, gateway, key, calls) => page.evaluate(async ({ gateway, key, calls }) => {
  const queues = window.supabase.createClient(gateway, key, { auth: { persistSession: false } }).schema('pgmq_public')
  const answers = []
  for (const [name, args, wait] of calls) {
    const request = queues.rpc(name, { queue_name: 'web', ...args })
    const { data, error, status } = await (wait === undefined ? request : request.setHeader('Prefer', `wait=${wait}`))
    answers.push({ data, status, error: error && { code: error.code, message: error.message } })
  }
  return answers
}, { gateway, key, calls })

const page = await visit(ours)
const [sent, batch, read, archived, popped, gone] = await call(page, url, key, [
  ['send', { message: { from: 'a page', text: 'ü €' } }],
  ['send_batch', { messages: [2, 'three'], sleep_seconds: 0 }],
  ['read', { sleep_seconds: 60, n: 1 }],
  ['archive', { message_id: 1 }],
  ['pop', {}],
  ['delete', { message_id: 9 }],
])
assert.deepEqual(sent, { data: [1], status: 200, error: null })
assert.deepEqual(batch.data, [2, 3])
assert.deepEqual(read.data[0].message, { from: 'a page', text: 'ü €' })
assert.equal(archived.data, true)
assert.equal(popped.data[0].message, 2)
assert.equal(gone.data, false)
const [late] = await call(page, url, key, [['read', { sleep_seconds: 0, n: 1 }, 20]])
assert.equal(late.data[0].message, 'three')
console.log('ok: a page of an allowed site sends and reads')

const [unknown] = await call(page, url, 'nobody', [['pop', {}]])
assert.equal(unknown.status, 401)
assert.equal(unknown.error.code, 'PGRST301')
const [missing] = await call(page, url, key, [['pop', { queue_name: 'gone' }]])
assert.equal(missing.error.code, '42P01')
console.log('ok: a page can read why it is refused')

const stranger = await visit(others)
for (const gateway of [url, open]) {
  for (const answer of await call(stranger, gateway, key, [['send', { message: 'evil' }], ['pop', {}]])) {
    assert.equal(answer.data, null)
    assert.match(answer.error.message, /Failed to fetch/)
  }
}
console.log('ok: a page of another site is refused')

// What a browser sends without asking first.
const plain = (args) => stranger.evaluate(async ([url, kind, body]) => {
  await fetch(url, { method: 'POST', mode: 'no-cors', headers: { 'content-type': kind }, body })
}, args)
const send = `${open}/rest/v1/rpc/send`
const message = '{"queue_name":"web","message":"evil"}'
await plain([send, 'text/plain', message])
await plain([`${open}/rest/v1/rpc/pop`, 'text/plain', '{"queue_name":"web"}'])
await stranger.evaluate((url) => new Promise((resolve) => {
  const image = new Image()
  image.onload = image.onerror = resolve
  image.src = url
}), `${open}/rest/v1/rpc/pop?queue_name=web`)
const [form] = await Promise.all([
  stranger.waitForResponse(send),
  stranger.evaluate(([url, message]) => {
    const form = document.body.appendChild(document.createElement('form'))
    const field = form.appendChild(document.createElement('input'))
    Object.assign(form, { method: 'post', enctype: 'text/plain', action: url })
    // `name=value` has to be JSON.
    Object.assign(field, { name: `${message.slice(0, -1)},"x":"`, value: '"}' })
    form.submit()
  }, [send, message]),
])
assert.ok(form.status() >= 400, `${form.status()}`)
console.log('ok: nor does it get in without asking first')

// A name of the other site that leads to the gateway: to the browser this is the page's own host.
const rebound = await browser.newPage()
const answer = await rebound.goto(`http://${new URL(others).hostname}:${new URL(open).port}/queues`)
assert.equal(answer.status(), 403)
console.log('ok: a name that is not the gateway’s is refused')
await browser.close()
