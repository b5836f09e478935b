// What people do in the dashboard, with a mouse; each time with what the queue then has.
import assert from 'node:assert/strict'

const rows = (page) => page.locator('table.messages tbody tr')
const press = (page, name) => page.getByRole('button', { name, exact: true }).click()
const said = (page) => page.locator('.said').innerText()
const touches = (page) => page.locator('.touches').innerText()
const ids = async (messages) => (await messages).map(({ msg_id }) => msg_id)

/** Chooses messages of a list, and what to do to them; the preview has to say to how many. */
async function act(page, list, chosen, action, expected) {
  await page.goto(list)
  for (const id of chosen) await page.getByLabel(`Choose message ${id}`, { exact: true }).check()
  await page.locator('form.chosen').getByRole('button', { name: `${action} …`, exact: true }).click()
  assert.equal(await touches(page), expected)
  await page.locator('main').getByRole('button', { name: action, exact: true }).click()
  return await said(page)
}

/** Deletes, archives, gives back, and brings back what was archived. */
export async function messages(page, shop) {
  await shop.create('work', { settings: { visibility_timeout: 600 } })
  await shop.sendAll('work', Array.from({ length: 70 }, (_, at) => ({ message: { kind: at < 55 ? 'a' : 'b' } })))
  const list = '/ui/queues/work/messages'
  assert.match(await act(page, list, [1, 3], 'Delete', '2 messages.'), /^Deleted 2/)
  assert.match(await act(page, list, [2], 'Archive', '1 message.'), /^Archived 1/)
  assert.deepEqual((await ids(shop.messages('work'))).slice(0, 2), [4, 5])
  assert.deepEqual(await ids(shop.archived('work')), [2])

  await shop.receive('work', 'qty=2')
  assert.match(await act(page, `${list}?list=in-flight`, [4], 'Give back', '1 message.'), /^Gave back 1/)
  const due = (await shop.messages('work')).slice(0, 2).map(({ vt }) => Date.parse(vt) <= Date.now())
  assert.deepEqual(due, [true, false])

  // One that goes between the preview and the deed is told of.
  await page.goto(list)
  for (const id of [6, 7]) await page.getByLabel(`Choose message ${id}`, { exact: true }).check()
  await page.locator('form.chosen').getByRole('button', { name: 'Delete …' }).click()
  await shop.remove('work', 6)
  await press(page, 'Delete')
  assert.match(await said(page), /Deleted 1 of 2/)

  // All that fit a search, beyond those that the page shows.
  await page.goto(list)
  await page.getByLabel('Contains').fill('{"kind":"b"}')
  await press(page, 'Search')
  assert.equal(await rows(page).count(), 15)
  await press(page, 'Archive all …')
  assert.equal(await touches(page), '15 messages.')
  await press(page, 'Archive')
  assert.match(await said(page), /^Archived 15/)
  assert.ok((await shop.messages('work')).every(({ message }) => message.kind === 'a'))
  assert.match(await act(page, `${list}?list=archived`, [60, 61], 'Replay', '2 messages.'), /^Moved back into the queue 2/)
  assert.equal((await shop.archived('work')).length, 14)

  // A message's own page.
  await page.goto(`${list}/8`)
  await press(page, 'Delete …')
  await press(page, 'Delete')
  assert.ok(!(await ids(shop.messages('work'))).includes(8))
}

/** Moves dead letters back to where they came from. */
export async function deadLetters(page, shop) {
  await shop.create('failed')
  await shop.create('tries', { settings: { visibility_timeout: 0, max_receives: 1, dead_letter_queue: 'failed' } })
  await shop.sendAll('tries', [1, 2, 3].map((message) => ({ message })))
  await shop.receive('tries', 'qty=3')
  await shop.receive('tries', 'qty=3')
  assert.equal((await shop.messages('failed')).length, 3)
  await page.goto('/ui/queues/tries')
  await page.getByRole('link', { name: 'dead', exact: true }).click()
  assert.equal(await rows(page).count(), 3)
  await press(page, 'Redrive all …')
  assert.equal(await touches(page), '3 messages.')
  await press(page, 'Redrive')
  assert.match(await said(page), /^Moved back 3/)
  assert.equal((await shop.messages('failed')).length, 0)
  assert.deepEqual((await shop.messages('tries')).map(({ message }) => message).sort(), [1, 2, 3])
}

/** Makes a queue, sets it, sends to it, binds it, pauses it, empties it and drops it. */
export async function queues(page, shop) {
  await page.goto('/ui')
  await page.getByRole('link', { name: 'New queue' }).first().click()
  await page.getByLabel(/^Name/).fill('Upper')
  await press(page, 'Make the queue')
  assert.match(await page.getByRole('alert').innerText(), /lower case/i)
  await page.getByLabel(/^Name/).fill('made-here')
  await press(page, 'Make the queue')
  await page.getByRole('heading', { name: 'made-here', level: 1 }).waitFor()

  await page.getByRole('link', { name: 'Settings', exact: true }).click()
  await page.locator('#visibility_timeout').fill('77')
  await press(page, 'Show what changes')
  assert.deepEqual(await page.locator('main tbody td').allInnerTexts(), ['30', '77'])
  assert.equal((await shop.queue('made-here')).settings.visibility_timeout, 30)
  await press(page, 'Change settings')
  assert.equal(await page.locator('#visibility_timeout').inputValue(), '77')
  assert.equal((await shop.queue('made-here')).settings.visibility_timeout, 77)

  await page.getByRole('link', { name: 'Send', exact: true }).click()
  await page.getByLabel(/^Message/).fill('{"n": 12345678901234567890.123456789')
  await press(page, 'Send')
  assert.match(await page.getByRole('alert').innerText(), /Nothing was stored/)
  await page.getByLabel(/^Message/).fill('{"n": 12345678901234567890.123456789}')
  await page.getByLabel(/^Headers/).fill('{"x-pgmq-group": "g"}')
  await press(page, 'Send')
  await page.getByRole('status').getByRole('link', { name: '1' }).click()
  assert.match(await page.locator('pre.json').first().innerText(), /12345678901234567890\.123456789/)
  assert.match(await page.locator('pre.json').nth(1).innerText(), /"x-pgmq-group": "g"/)

  await page.goto('/ui/queues/made-here/table')
  await page.getByLabel('Pattern').fill('made.#')
  await press(page, 'Bind')
  assert.deepEqual((await shop.bindings('made-here')).map(({ pattern }) => pattern), ['made.#'])
  await page.goto('/ui/topics')
  await page.getByLabel('Routing key').fill('made.by.hand')
  await press(page, 'Show')
  assert.deepEqual(await page.getByRole('status').getByRole('link').allInnerTexts(), ['made-here'])
  await page.goto('/ui/queues/made-here/table')
  await page.getByRole('button', { name: 'Unbind made.#' }).click()
  assert.deepEqual(await shop.bindings('made-here'), [])

  await page.goto('/ui/queues/made-here')
  for (const [action, paused] of [['Pause', true], ['Resume', false]]) {
    await page.getByRole('link', { name: action, exact: true }).click()
    await press(page, `${action} the queue`)
    assert.equal((await shop.queue('made-here')).settings.paused, paused)
    await page.getByRole('link', { name: 'Back', exact: true }).click()
  }

  // Neither is done while another name is typed.
  for (const [action, left] of [['Purge', 0], ['Drop', null]]) {
    await page.goto('/ui/queues/made-here')
    await page.getByRole('link', { name: `${action} …` }).click()
    await page.getByLabel(/to confirm/).fill('made-there')
    await press(page, `${action} the queue`)
    assert.equal((await shop.messages('made-here')).length, action === 'Purge' ? 1 : 0)
    await page.goto(`/ui/queues/made-here/do?action=${action.toLowerCase()}`)
    await page.getByLabel(/to confirm/).fill('made-here')
    await press(page, `${action} the queue`)
    await page.locator('.said').waitFor()
    if (left !== null) assert.equal((await shop.messages('made-here')).length, left)
  }
  assert.ok(!(await shop.names()).includes('made-here'))
}
