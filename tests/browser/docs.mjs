// A newcomer's walk in a browser, at two widths: from `/` to `/docs`, a queue is made, and a message sent and received, with
// nothing typed but the queue's name and nothing loaded from elsewhere: `node docs.mjs <modules> <url> <queue> <directory>`. Each
// width has a queue of its own, `<queue>-<width>`. Screenshots go into the directory.
import assert from 'node:assert/strict'
import { launch } from './browser.mjs'

const [modules, url, queue, directory] = process.argv.slice(2)
const WIDTHS = { wide: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } }
const browser = await launch(modules)

/** Opens an operation of the page, and returns its block. */
async function open(page, method, path) {
  const block = page.locator(`.opblock-${method}`)
    .filter({ has: page.locator(`.opblock-summary-path[data-path="${path}"]`) })
  await block.locator('.opblock-summary-control').click()
  await block.locator('.execute').waitFor()
  return block
}

/** Executes an operation with these parameters, and returns the status and the body that the page shows. */
async function execute(block, parameters) {
  const answer = block.locator('.live-responses-table .response').first()
  if (await answer.isVisible()) await block.locator('.btn-clear').click()
  for (const [name, value] of Object.entries(parameters)) {
    await block.locator(`tr[data-param-name="${name}"] input`).fill(value)
  }
  await block.locator('.execute').click()
  await answer.waitFor()
  const status = parseInt(await answer.locator('.response-col_status').innerText(), 10)
  const body = await answer.locator('.highlight-code code').first().innerText()
  return { status, body }
}

/** How far the page is wider than its window, in pixels. */
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth)

async function walk(width, viewport) {
  const name = `${queue}-${width}`
  const page = await browser.newPage({ viewport, hasTouch: width === 'phone', isMobile: width === 'phone' })
  const wrong = []
  page.on('console', (message) => message.type() === 'error' && wrong.push(message.text()))
  page.on('pageerror', (error) => wrong.push(String(error)))
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('data:')) wrong.push(request.url())
  })
  const shoot = (what) => page.screenshot({ path: `${directory}/${width}-${what}.png` })

  await page.goto(url)
  // Where there is a dashboard, `/` leads there, and a link leads on.
  if (!page.url().endsWith('/docs/')) {
    await shoot('0-dashboard')
    await page.locator('a[href$="/docs/"]').click()
  }
  await page.locator('.opblock').first().waitFor()
  assert.equal(page.url(), `${url}/docs/`)
  await shoot('1-start')

  const creating = await open(page, 'put', '/queues/{queue}')
  const created = await execute(creating, { queue: name })
  assert.equal(created.status, 201, created.body)
  await shoot('2-created')

  const sending = await open(page, 'post', '/queues/{queue}/messages')
  const sent = await execute(sending, { queue: name })
  assert.equal(sent.status, 201, sent.body)
  await sending.scrollIntoViewIfNeeded()
  await shoot('3-send')
  await sending.locator('.live-responses-table').scrollIntoViewIfNeeded()
  await shoot('4-sent')

  const receiving = await open(page, 'get', '/queues/{queue}/messages')
  const received = await execute(receiving, { queue: name })
  assert.equal(received.status, 200, received.body)
  await receiving.locator('.live-responses-table').scrollIntoViewIfNeeded()
  await shoot('5-received')
  const { messages } = JSON.parse(received.body)
  assert.deepEqual(messages.map(({ msg_id: id }) => id), [JSON.parse(sent.body).msg_id])

  // What is chosen by is typed, too.
  await execute(sending, { queue: name })
  for (const [filter, found] of [['{"order":8}', 0], ['{"order":7}', 1]]) {
    const { body } = await execute(receiving, { queue: name, filter })
    assert.equal(JSON.parse(body).messages.length, found, body)
  }

  // Beside others, each operation begins on a line of its own, with its method before its path.
  for (const summary of await page.locator('.opblock-summary-control').all()) {
    const [method, path] = await Promise.all(['method', 'path'].map((part) =>
      summary.locator(`.opblock-summary-${part}`).boundingBox()))
    assert.ok(path.x >= method.x + method.width, `${width}: ${await summary.innerText()}`)
  }
  assert.ok((await overflow(page)) <= 0, `${width}: ${await overflow(page)} px too wide`)
  assert.deepEqual(wrong, [])
  await page.close()
  console.log(`ok: ${width}: sent and received ${JSON.stringify(messages[0].message)}`)
}

for (const [width, viewport] of Object.entries(WIDTHS)) await walk(width, viewport)
await browser.close()
