// Debian's Chromium, driven by Playwright: what every test in a browser starts with.
import { createRequire } from 'node:module'

const EXECUTABLE = '/usr/bin/chromium'
const ARGUMENTS = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** What a package of `tools/setup --test` exports. */
export const load = (modules, name) => createRequire(`${modules}/`)(name)

/**
 * A browser with an empty profile of its own, which goes with it. `hosts` are names that lead to this machine.
 */
export async function launch(modules, hosts = []) {
  const names = hosts.map((host) => `MAP ${host} 127.0.0.1`).join(',')
  return await load(modules, 'playwright-core').chromium.launch({
    executablePath: EXECUTABLE,
    args: names === '' ? ARGUMENTS : [...ARGUMENTS, `--host-resolver-rules=${names}`],
    ignoreDefaultArgs: ['--headless'],
  })
}
