// What stands in the queues is put there over REST, and is looked at over REST after the dashboard's actions.

/** Calls of one gateway with one key. */
export function client(base, key) {
  const call = async (method, path, body) => {
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
    const answer = await fetch(`${base}${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) })
    const text = await answer.text()
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`)
    return text === '' ? null : JSON.parse(text)
  }
  const of = (queue) => `/queues/${queue}`
  return {
    call,
    create: (queue, body = {}) => call('PUT', of(queue), body),
    send: async (queue, message, more = {}) => (await call('POST', `${of(queue)}/messages`, { message, ...more })).msg_id,
    sendAll: (queue, messages) => call('POST', `${of(queue)}/messages/batch`, { messages }),
    receive: async (queue, query = '') => (await call('GET', `${of(queue)}/messages?${query}`)).messages,
    archive: (queue, id) => call('POST', `${of(queue)}/messages/${id}/archive`),
    remove: (queue, id) => call('DELETE', `${of(queue)}/messages/${id}`),
    messages: async (queue) => (await call('GET', `${of(queue)}/peek?limit=100`)).messages,
    archived: async (queue) => (await call('GET', `${of(queue)}/archive?limit=100`)).messages,
    queue: (queue) => call('GET', of(queue)),
    bindings: async (queue) => (await call('GET', `${of(queue)}/bindings`)).bindings,
    names: async () => (await call('GET', '/queues?limit=100')).queues.map(({ queue }) => queue),
  }
}

/** Waits until something is so. */
export async function eventually(what, condition) {
  const deadline = Date.now() + 30_000
  for (;;) {
    const found = await condition()
    if (found) return found
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
