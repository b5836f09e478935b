// Other ways to use the dashboard than a mouse with scripts: the keyboard alone, no scripts, and just looking on.
import assert from 'node:assert/strict'
import { logIn, open } from './guard.mjs'
import { eventually } from './rest.mjs'

/** Presses Tab until something has the focus; what has it on the way has to show it. */
async function tabTo(page, selector) {
  for (let presses = 0; presses < 120; presses += 1) {
    await page.keyboard.press('Tab')
    const focus = await page.evaluate((selector) => {
      const one = document.activeElement
      const { outlineStyle, outlineWidth } = getComputedStyle(one)
      return { found: one.matches(selector), shown: outlineStyle !== 'none' && outlineWidth !== '0px', what: one.outerHTML.slice(0, 100), page: one === document.body }
    }, selector)
    if (!focus.page) assert.ok(focus.shown, `the focus does not show: ${focus.what}`)
    if (focus.found) return
  }
  assert.fail(`no way by Tab to ${selector}`)
}

/** Goes on with Enter to another page. */
async function enter(page) {
  await Promise.all([page.waitForEvent('domcontentloaded'), page.keyboard.press('Enter')])
}

/** Types into the field that a page gives the focus to by itself. */
async function typeInto(page, selector, text) {
  await page.waitForFunction((selector) => document.activeElement?.matches(selector), selector)
  await page.keyboard.type(text)
}

/** From the log-in to a queue, a message and its end, by keyboard alone. */
export async function byKeyboard(browser, base, key, shop) {
  const window = await open(browser, base)
  const { page } = window
  window.expect(401)
  await page.goto('/ui/login')
  await typeInto(page, '#key', 'a-wrong-key-of-some-length')
  await enter(page)
  await page.getByRole('alert').waitFor()
  await typeInto(page, '#key', key)
  await enter(page)
  await tabTo(page, '.skip')
  await page.keyboard.press('Enter')
  await tabTo(page, 'main a[href$="/new"]')
  await enter(page)
  await typeInto(page, '#name', 'by-keyboard')
  await tabTo(page, 'button.primary')
  await enter(page)
  await tabTo(page, '.tabs a[href$="/send"]')
  await enter(page)
  await tabTo(page, '#message')
  // In place of the example that stands there.
  await page.keyboard.press('Control+A')
  await page.keyboard.type('{"typed":true}')
  await tabTo(page, 'button.primary')
  await enter(page)
  assert.deepEqual((await shop.messages('by-keyboard')).map(({ message }) => message), [{ typed: true }])
  await tabTo(page, '.tabs a[href$="/messages"]')
  await enter(page)
  await tabTo(page, 'input[name=ids]')
  await page.keyboard.press('Space')
  await tabTo(page, 'form.chosen button[value=delete]')
  await enter(page)
  await tabTo(page, 'main button.primary')
  await enter(page)
  assert.match(await page.locator('.said').innerText(), /^Deleted 1/)
  assert.deepEqual(await shop.messages('by-keyboard'), [])
  await page.goto('/ui/queues/by-keyboard/do?action=drop')
  await tabTo(page, '#name')
  await page.keyboard.type('by-keyboard')
  await enter(page)
  assert.ok(!(await shop.names()).includes('by-keyboard'))
  await tabTo(page, '.who button')
  await enter(page)
  await page.goto('/ui')
  await page.getByLabel('Key or token').waitFor()
  window.quiet()
  await window.context.close()
}

/** Reading, searching and paging without scripts; and an action too. */
export async function withoutScripts(browser, base, key, shop) {
  const window = await open(browser, base, { javaScriptEnabled: false })
  const { page } = window
  await logIn(page, key)
  await page.getByPlaceholder('Name contains …').fill('orde')
  await page.getByRole('button', { name: 'Show' }).click()
  assert.deepEqual(await page.locator('table.queues tbody th a').allInnerTexts(), ['orders'])
  await page.getByRole('link', { name: 'orders', exact: true }).click()
  assert.equal(await page.locator('[data-field=in_flight]').innerText(), '3')
  assert.equal(await page.locator('.plot svg').count(), 2)
  await page.getByRole('link', { name: 'Messages', exact: true }).click()
  assert.equal(await page.locator('table.messages tbody tr').count(), 50)
  await page.getByRole('link', { name: 'Next' }).click()
  const first = page.locator('table.messages tbody th a').first()
  const id = await first.innerText()
  assert.ok(Number(id) > 50, id)
  await first.click()
  assert.match(await page.locator('pre.json').first().innerText(), /"customer": "Zoë Müller"/)
  await shop.send('thumbnails', 'without scripts')
  await page.goto('/ui/queues/thumbnails/messages')
  await page.getByRole('button', { name: 'Delete all …' }).click()
  await page.getByRole('button', { name: 'Delete', exact: true }).click()
  assert.deepEqual(await shop.messages('thumbnails'), [])
  window.quiet()
  await window.context.close()
}

/** Figures follow without a load; the search does too; a page in the background asks for nothing. */
export async function live(browser, base, key, shop) {
  const window = await open(browser, base)
  const { page } = window
  await shop.create('watched')
  let streams = 0
  const isStream = (request) => request.url().includes('/ui/events')
  page.on('request', (request) => { if (isStream(request)) streams += 1 })
  for (const event of ['requestfinished', 'requestfailed']) {
    page.on(event, (request) => { if (isStream(request)) streams -= 1 })
  }
  await logIn(page, key)
  await page.goto('/ui')
  await page.evaluate(() => { window.same = true })
  const row = page.locator('tr[data-queue=watched]')
  await row.locator('[data-field=visible]', { hasText: /^0$/ }).waitFor()
  await shop.sendAll('watched', [1, 2, 3, 4].map((message) => ({ message })))
  await row.locator('[data-field=visible]', { hasText: /^4$/ }).waitFor()
  const waiting = fetch(`${base}/queues/emails/messages?wait=20&filter=${encodeURIComponent('{"no":1}')}`, { headers: { authorization: `Bearer ${key}` } })
  await page.locator('tr[data-queue=emails] [data-field=waiters]', { hasText: /^1$/ }).waitFor()
  await shop.call('PATCH', '/queues/watched', { settings: { paused: true } })
  await row.locator('[data-field=paused]').waitFor({ state: 'visible' })
  assert.equal(await page.evaluate(() => window.same), true)
  assert.equal(streams, 1)
  await page.evaluate(() => {
    Object.defineProperty(document, 'hidden', { value: true, configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))
  })
  await eventually('the stream ends', async () => streams === 0)
  await page.evaluate(() => {
    delete document.hidden
    document.dispatchEvent(new Event('visibilitychange'))
  })
  await eventually('there is a stream again', async () => streams === 1)

  await page.getByPlaceholder('Name contains …').pressSequentially('bill')
  await page.locator('tr[data-queue=watched]').waitFor({ state: 'detached' })
  assert.deepEqual(await page.locator('table.queues tbody th a').allInnerTexts(), ['billing', 'billing-dead'])
  assert.match(page.url(), /q=bill/)
  assert.equal(await page.evaluate(() => window.same), true)
  await page.goBack()
  await page.locator('tr[data-queue=watched]').waitFor()

  await page.goto('/ui/queues/watched')
  assert.equal(await page.locator('[data-field=visible]').innerText(), '4')
  await shop.send('watched', 5)
  await page.locator('.tiles [data-field=visible]', { hasText: /^5$/ }).waitFor()
  await waiting
  window.quiet()
  await window.context.close()
}

/** Whoever may little is offered nothing that would be refused. */
export async function withFewRights(browser, base, key) {
  const window = await open(browser, base)
  const { page } = window
  await logIn(page, key)
  assert.deepEqual(await page.locator('table.queues tbody th a').allInnerTexts(), ['emails'])
  const seen = new Set()
  const left = ['/ui']
  while (left.length > 0) {
    const path = left.pop()
    if (seen.has(path)) continue
    seen.add(path)
    // Every answer of 400 and more is a complaint.
    await page.goto(path)
    const found = await page.evaluate(() => {
      const links = [...document.querySelectorAll('main a[href], header a[href]')].map((one) => one.href)
      const forms = [...document.querySelectorAll('form[method=get] button[name]')].map((button) => {
        const query = new URLSearchParams(new FormData(button.form, button))
        if (button.form.matches('.chosen')) query.append('ids', document.querySelector('[name=ids]').value)
        return `${new URL(button.form.getAttribute('action'), location)}?${query}`
      })
      return [...links, ...forms]
    })
    for (const url of found.map((url) => new URL(url))) {
      // Orders and searches of one list are one page.
      const path = `${url.pathname}${url.pathname === '/ui' ? '' : url.search}`
      if (url.origin === base && !path.includes('/assets/')) left.push(path)
    }
  }
  assert.ok(seen.size > 8, [...seen].join(' '))
  for (const path of ['/ui/queues/orders', '/ui/keys', '/ui/gateway', '/ui/new', '/ui/queues/emails/settings', '/ui/queues/emails/do?action=purge']) {
    assert.ok(![...seen].some((one) => one.startsWith(path)), path)
    assert.ok([403, 404].includes((await page.request.get(path)).status()), path)
  }
  window.quiet()
  await window.context.close()
}

/** What a first visit costs. */
export async function firstLoad(browser, base, key) {
  const window = await open(browser, base)
  const { page } = window
  const session = await window.context.newCDPSession(page)
  await session.send('Network.enable')
  let bytes = 0
  let requests = 0
  session.on('Network.loadingFinished', ({ encodedDataLength }) => {
    bytes += encodedDataLength
    requests += 1
  })
  await page.goto('/ui/login')
  await page.getByLabel('Key or token').fill(key)
  await session.send('Network.clearBrowserCache')
  bytes = 0
  requests = 0
  await page.getByRole('button', { name: 'Log in' }).click()
  await page.locator('table.queues').waitFor()
  await page.waitForLoadState('load')
  const paint = await eventually('it is painted', () => page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime))
  await window.context.close()
  return { bytes, requests, paint: Math.round(paint) }
}
