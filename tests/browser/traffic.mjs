// Something to see in the charts: senders, and consumers that do not always keep up.

const SECONDS = 150

/** Sends and consumes for a while, more and less of it by turns. */
export async function traffic(shop) {
  const until = Date.now() + SECONDS * 1000
  const wave = () => 1 + Math.sin((until - Date.now()) / 9000)
  const sender = async (queue, most) => {
    while (Date.now() < until) {
      const messages = Array.from({ length: 1 + Math.round(most * wave()) }, (_, at) => ({ message: { job: at } }))
      await shop.sendAll(queue, messages)
      await new Promise((resolve) => setTimeout(resolve, 700))
    }
  }
  const consumer = async (queue) => {
    while (Date.now() < until) {
      const messages = await shop.receive(queue, 'qty=8&vt=60&wait=1')
      await new Promise((resolve) => setTimeout(resolve, 400))
      if (messages.length === 0) continue
      await shop.call('POST', `/queues/${queue}/messages/settle`, { delete: messages.map(({ receipt }) => ({ receipt })) })
    }
  }
  await Promise.all([sender('orders', 6), sender('emails', 4), consumer('orders'), consumer('emails')])
}
