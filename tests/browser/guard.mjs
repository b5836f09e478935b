// A browser's window that is watched: what a page logs, and what it asks of whom, counts.
import assert from 'node:assert/strict'

export const WIDTHS = [390, 820, 1440]
export const THEMES = ['light', 'dark']

/**
 * A window with cookies of its own. `complaints` has every console message, error, request to another host than
 * `base`, and answer that is not expected: `expect(status)` says that the next answer of that status is.
 */
export async function open(browser, base, options = {}) {
  const { width = 1440, theme = 'light', ...more } = options
  const context = await browser.newContext({
    baseURL: base, viewport: { width, height: 900 }, colorScheme: theme, ...more,
  })
  const complaints = []
  const expected = []
  context.on('console', (message) => {
    // A page that is refused is one, as far as browsers are concerned.
    if (/Failed to load resource/.test(message.text()) && expected.length > 0) return
    complaints.push(`console: ${message.text()}`)
  })
  context.on('weberror', (error) => complaints.push(`error: ${error.error()}`))
  context.on('request', (request) => {
    if (new URL(request.url()).origin !== base && !request.url().startsWith('data:')) complaints.push(`asked: ${request.url()}`)
  })
  context.on('response', (response) => {
    if (response.status() < 400 || expected.includes(response.status())) return
    complaints.push(`${response.status()}: ${response.url()}`)
  })
  const page = await context.newPage()
  page.setDefaultTimeout(30_000)
  return {
    context,
    page,
    /** Says that answers of a status are right from here on. */
    expect: (status) => expected.push(status),
    /** Fails where there is something to complain of. */
    quiet: () => assert.deepEqual(complaints, []),
  }
}

/** Logs in as people do who have a key to paste. */
export async function logIn(page, key) {
  await page.goto('/ui/login')
  await page.getByLabel('Key or token').fill(key)
  await page.getByRole('button', { name: 'Log in' }).click()
  await page.getByRole('heading', { name: 'Queues', level: 1 }).waitFor()
}
