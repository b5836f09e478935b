// The queues of a shop: something of everything that the dashboard shows.
import { client } from './rest.mjs'

const ORDER = {
  order: 4711, customer: 'Zoë Müller', total: 129.9, currency: 'EUR', paid: true, coupon: null,
  items: [{ sku: 'A-1', count: 2 }, { sku: 'B-7 <b>bold</b>', count: 1 }],
}

/** Orders of seven customers. */
export const orders = (length) => Array.from({ length }, (_, at) => ({
  message: { ...ORDER, order: 4711 + at }, headers: { 'x-pgmq-group': `customer-${at % 7}` },
}))

/** Makes the queues and what is in them. */
export async function fill(base, key) {
  const shop = client(base, key)
  await shop.create('billing-dead')
  await shop.create('orders', { fifo: true, settings: { visibility_timeout: 60, notify: { throttle_ms: 250 } } })
  await shop.create('billing', {
    settings: { visibility_timeout: 0, max_receives: 1, dead_letter_queue: 'billing-dead', retry_backoff: { min: 1, max: 3600, factor: 2 } },
  })
  await shop.create('emails', { settings: { fair: true, message_retention: 1209600 } })
  await shop.create('reports', { settings: { paused: true } })
  await shop.create('thumbnails', { kind: 'unlogged' })
  await shop.create('a-long-name-as-services-of-large-companies-have')
  await shop.sendAll('orders', orders(60))
  await shop.receive('orders', 'qty=3&vt=600')
  for (const id of [4, 5, 6]) await shop.archive('orders', id)
  await shop.sendAll('orders', [{ message: { later: true }, delay: 3600 }, { message: { later: true }, delay: 7200 }])
  // With `visibility_timeout` 0 it can be had again at once, and is a dead letter then.
  await shop.sendAll('billing', [1, 2, 3].map((invoice) => ({ message: { invoice, error: 'card declined' } })))
  await shop.receive('billing', 'qty=3')
  await shop.receive('billing', 'qty=3')
  await shop.sendAll('billing', [4, 5].map((invoice) => ({ message: { invoice } })))
  await shop.sendAll('emails', Array.from({ length: 12 }, (_, at) => ({ message: { to: `user${at}@example.org`, template: 'welcome' } })))
  await shop.sendAll('reports', [{ message: { month: '2026-10' } }, { message: 'a text of its own' }, { message: [1, null, true] }])
  for (const [queue, pattern] of [['orders', 'orders.#'], ['billing', 'orders.*.paid'], ['emails', '#.created']]) {
    await shop.call('POST', `/queues/${queue}/bindings`, { pattern })
  }
  return shop
}

/** Every page, and what it is called in file names, with a message of `orders` and the next one. */
export const pages = (id) => ({
  queues: '/ui',
  queue: '/ui/queues/orders',
  messages: '/ui/queues/orders/messages',
  'in-flight': '/ui/queues/orders/messages?list=in-flight',
  delayed: '/ui/queues/orders/messages?list=delayed',
  archived: '/ui/queues/orders/messages?list=archived',
  dead: '/ui/queues/billing/messages?list=dead',
  'no-messages': '/ui/queues/thumbnails/messages',
  message: `/ui/queues/orders/messages/${id}`,
  send: '/ui/queues/orders/send',
  settings: '/ui/queues/orders/settings',
  table: '/ui/queues/orders/table',
  'empty-queue': '/ui/queues/thumbnails',
  'long-name': '/ui/queues/a-long-name-as-services-of-large-companies-have',
  delete: `/ui/queues/orders/do?action=delete&list=waiting&ids=${id}&ids=${id + 1}`,
  drop: '/ui/queues/orders/do?action=drop',
  new: '/ui/new',
  topics: '/ui/topics?key=orders.eu.paid',
  keys: '/ui/keys',
  gateway: '/ui/gateway',
})
