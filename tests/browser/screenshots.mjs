// Pictures of every page in both themes: `node screenshots.mjs <modules> <url> <key> <directory> [<width> …]`. With
// widths, the whole page at each of them, as PNG, to look at; without, what one sees first, small, as WebP.
import { mkdirSync, writeFileSync } from 'node:fs'
import { launch } from './browser.mjs'
import { logIn, open, THEMES } from './guard.mjs'
import { fill, orders, pages } from './shop.mjs'
import { traffic } from './traffic.mjs'

/** What stands in the documents: those that only differ in what they list are left out. */
const SHOWN = ['queues', 'queue', 'messages', 'dead', 'message', 'send', 'settings', 'table', 'delete', 'new', 'topics', 'keys', 'gateway']
const SIZE = { width: 1200, height: 750 }
const QUALITY = 0.72

const [modules, base, key, directory, ...widths] = process.argv.slice(2)
mkdirSync(directory, { recursive: true })
const browser = await launch(modules)
const shop = await fill(base, key)
await traffic(shop)
// Those that were there are done by now.
const shown = await shop.sendAll('orders', orders(40))

/** A picture in another format, which browsers can make themselves. */
async function webp(png) {
  const page = await browser.newPage()
  const url = await page.evaluate(async ([png, quality]) => {
    const image = new Image()
    image.src = `data:image/png;base64,${png}`
    await image.decode()
    const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height })
    canvas.getContext('2d').drawImage(image, 0, 0)
    return canvas.toDataURL('image/webp', quality)
  }, [png.toString('base64'), QUALITY])
  await page.close()
  return Buffer.from(url.split(',')[1], 'base64')
}

for (const theme of THEMES) {
  const window = await open(browser, base, { theme })
  const { page } = window
  const take = async (name) => {
    for (const width of widths.map(Number)) {
      await page.setViewportSize({ width, height: 900 })
      await page.waitForLoadState('load')
      await page.screenshot({ path: `${directory}/${name}-${theme}-${width}.png`, fullPage: true })
    }
    if (widths.length > 0) return
    await page.setViewportSize(SIZE)
    writeFileSync(`${directory}/${name}-${theme}.webp`, await webp(await page.screenshot()))
  }
  await page.goto('/ui/login')
  await take('login')
  await logIn(page, key)
  for (const [name, path] of Object.entries(pages(shown.msg_ids[0]))) {
    if (widths.length === 0 && !SHOWN.includes(name)) continue
    await page.goto(path)
    await take(name)
  }
  await window.context.close()
}
await browser.close()
