// Every page in both themes and at three widths: no violation that axe finds, nothing that is cut off.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { logIn, open, THEMES, WIDTHS } from './guard.mjs'
import { pages } from './shop.mjs'

/** What axe finds on a page, one line for each node. */
export async function violations(page, axe) {
  await page.evaluate(axe)
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ['violations'] }))
  return found.violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`))
}

/** What is wider than the window, outside of what can be scrolled. */
const overflow = (page) => page.evaluate(() => {
  const width = document.documentElement.clientWidth
  if (document.documentElement.scrollWidth <= width) return []
  const wide = [...document.querySelectorAll('body *')].filter((one) => one.getBoundingClientRect().right > width + 1)
  return wide.filter((one) => !one.closest('.scroll, pre')).map((one) => one.outerHTML.slice(0, 120))
})

/** Text that is there and cannot be seen, as its place has no width or height. */
const unseen = (page) => page.evaluate(() => {
  const cells = [...document.querySelectorAll('td, th, dd, dt, code, h1, h2, p, button, a')]
  const empty = cells.filter((one) => one.textContent.trim() !== '' && one.checkVisibility() && !one.closest('.hidden, .skip, thead, details'))
  return empty.filter((one) => one.getClientRects().length > 0 && one.getBoundingClientRect().width < 3).map((one) => one.outerHTML.slice(0, 120))
})

/** Looks at every page; returns how many looks that were. */
export async function lookAtAll(browser, modules, base, key) {
  const axe = readFileSync(`${modules}/node_modules/axe-core/axe.min.js`, 'utf8')
  const found = []
  let looks = 0
  for (const theme of THEMES) {
    const window = await open(browser, base, { theme })
    const look = async (name) => {
      for (const width of WIDTHS) {
        await window.page.setViewportSize({ width, height: 900 })
        // What scripts do to a window of another size, they have done then.
        await window.page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))))
        looks += 1
        found.push(...(await overflow(window.page)).map((one) => `${name} ${width}: too wide: ${one}`))
        found.push(...(await unseen(window.page)).map((one) => `${name} ${width}: cannot be seen: ${one}`))
        // Tables become lists on phones; between the other widths nothing changes that axe looks at.
        if (width === 820) continue
        found.push(...(await violations(window.page, axe)).map((one) => `${name} ${theme} ${width}: ${one}`))
      }
    }
    await window.page.goto('/ui/login')
    await look('login')
    await logIn(window.page, key)
    for (const [name, path] of Object.entries(pages(7))) {
      await window.page.goto(path)
      await look(name)
    }
    window.expect(404)
    await window.page.goto('/ui/queues/none')
    await look('failure')
    assert.ok(!(await window.page.locator('main').innerText()).includes('`'), 'names are set as code')
    window.quiet()
    await window.context.close()
  }
  assert.deepEqual([...new Set(found)], [])
  return looks
}
