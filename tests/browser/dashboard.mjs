// The dashboard in a browser: `node dashboard.mjs <modules> <url> <key> <key that may receive from emails>`.
import assert from 'node:assert/strict'
import { launch } from './browser.mjs'
import { deadLetters, messages, queues } from './actions.mjs'
import { logIn, open } from './guard.mjs'
import { lookAtAll } from './looks.mjs'
import { eventually } from './rest.mjs'
import { fill } from './shop.mjs'
import { byKeyboard, firstLoad, live, withFewRights, withoutScripts } from './ways.mjs'

/** What a first load may have, in bytes. */
const MOST = 60_000

const [modules, base, key, few] = process.argv.slice(2)
const browser = await launch(modules)
console.log(`Chromium ${browser.version()}`)
const shop = await fill(base, key)
await eventually('the figures are collected', async () => (await (await fetch(`${base}/queues/orders/metrics`, { headers: { authorization: `Bearer ${key}` } })).json()).in_flight === 3)

const window = await open(browser, base)
await logIn(window.page, key)
await eventually('the page has figures', async () => {
  await window.page.reload()
  return await window.page.locator('tr[data-queue=orders] [data-field=in_flight]').innerText() === '3'
})
const { bytes, requests, paint } = await firstLoad(browser, base, key)
console.log(`first load: ${bytes} bytes compressed, ${requests} requests, first paint after ${paint} ms`)
assert.ok(bytes > 1_000 && bytes < MOST)
const looks = await lookAtAll(browser, modules, base, key)
console.log(`ok: ${looks} looks in two themes at three widths, violations of axe: 0`)
await withoutScripts(browser, base, key, shop)
console.log('ok: reading without scripts')
await withFewRights(browser, base, few)
console.log('ok: nothing is offered that would be refused')
await messages(window.page, shop)
console.log('ok: messages are deleted, archived, given back and replayed')
await deadLetters(window.page, shop)
console.log('ok: dead letters go back')
// Names and JSON that are not right, and what is not confirmed.
for (const status of [400, 422]) window.expect(status)
await queues(window.page, shop)
console.log('ok: queues are made, set, paused, emptied and dropped')
window.quiet()
await byKeyboard(browser, base, key, shop)
console.log('ok: by keyboard alone')
await live(browser, base, key, shop)
console.log('ok: figures follow')
await browser.close()
