// sqs-consumer: `node consumer.mjs <modules>`, with the gateway and a key in the variables that every SDK reads.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [modules] = process.argv.slice(2)
const require = createRequire(`${modules}/`)
const { SQS } = require('@aws-sdk/client-sqs')
const { Consumer } = require('sqs-consumer')
const { version } = JSON.parse(readFileSync(`${modules}/node_modules/sqs-consumer/package.json`))
console.log(`client: sqs-consumer ${version}`)

const sqs = new SQS()
const { QueueUrl: dead } = await sqs.createQueue({ QueueName: 'consumed-dead' })
const { Attributes: { QueueArn: deadLetterTargetArn } } =
  await sqs.getQueueAttributes({ QueueUrl: dead, AttributeNames: ['QueueArn'] })
const { QueueUrl: queueUrl } = await sqs.createQueue({
  QueueName: 'consumed', Attributes: { RedrivePolicy: JSON.stringify({ deadLetterTargetArn, maxReceiveCount: 2 }) },
})
const count = async (name) => {
  const { Attributes } = await sqs.getQueueAttributes({ QueueUrl: queueUrl, AttributeNames: [name] })
  return Attributes[name]
}

/** Consumers whose receive is broken off. */
const stopping = new Set()

/** A consumer whose errors, where none is expected, end the test. */
function consume(options, expected = 'none') {
  const consumer = Consumer.create({ queueUrl, sqs, waitTimeSeconds: 20, ...options })
  for (const event of ['error', 'processing_error', 'timeout_error']) {
    // A listener that throws is only logged.
    consumer.on(event, (error) => {
      if (event === expected || stopping.has(consumer)) return
      console.error(error)
      process.exit(1)
    })
  }
  consumer.start()
  return consumer
}

/** Stops a consumer, and waits until it has. */
async function stop(consumer) {
  stopping.add(consumer)
  const stopped = once(consumer, 'stopped')
  consumer.stop({ abort: true })
  await stopped
}

const texts = Array.from({ length: 25 }, (_, at) => `job ${at}`)
for (let at = 0; at < texts.length; at += 10) {
  const Entries = texts.slice(at, at + 10).map((MessageBody, at) => ({ Id: `${at}`, MessageBody }))
  await sqs.sendMessageBatch({ QueueUrl: queueUrl, Entries })
}
const handled = []
const batches = consume({ batchSize: 10, handleMessageBatch: async (messages) => {
  handled.push(...messages.map((message) => message.Body))
  return messages
} })
while (handled.length < texts.length) await once(batches, 'response_processed')
await stop(batches)
assert.deepEqual(handled.sort(), texts.sort())
assert.equal(await count('ApproximateNumberOfMessages'), '0')
assert.equal(await count('ApproximateNumberOfMessagesNotVisible'), '0')
console.log('ok: batches')

await sqs.sendMessage({ QueueUrl: queueUrl, MessageBody: 'poison' })
const counts = []
const failing = consume({
  messageSystemAttributeNames: ['ApproximateReceiveCount'],
  // What fails is given back at once.
  terminateVisibilityTimeout: true,
  handleMessage: async (message) => {
    counts.push(message.Attributes.ApproximateReceiveCount)
    throw new Error('it cannot be done')
  },
}, 'processing_error')
const { Messages: [buried] } = await sqs.receiveMessage({ QueueUrl: dead, WaitTimeSeconds: 20 })
assert.equal(buried.Body, 'poison')
await stop(failing)
assert.deepEqual(counts, ['1', '2'])
console.log('ok: what fails is retried, and then a dead letter')

await sqs.sendMessage({ QueueUrl: queueUrl, MessageBody: 'long' })
let deliveries = 0
const slow = consume({ visibilityTimeout: 4, heartbeatInterval: 2, handleMessage: async (message) => {
  deliveries += 1
  // Beyond its visibility timeout; another consumer waits for it meanwhile, in vain. No heartbeat is due when it ends:
  // sqs-consumer goes on with them until the message is deleted.
  const { Messages } = await sqs.receiveMessage({ QueueUrl: queueUrl, WaitTimeSeconds: 5 })
  assert.equal(Messages, undefined)
  return message
} })
await once(slow, 'message_processed')
await stop(slow)
assert.equal(deliveries, 1)
assert.equal(await count('ApproximateNumberOfMessagesNotVisible'), '0')
console.log('ok: a heartbeat keeps what takes long')
