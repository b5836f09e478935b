// The AWS SDK for JavaScript, version 3: `node sdk.mjs <modules>`, with the gateway and a key in the variables that
// every SDK reads. Fails where an answer is another than the service's.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [modules] = process.argv.slice(2)
const { SQS, paginateListQueues, QueueDoesNotExist } = createRequire(`${modules}/`)('@aws-sdk/client-sqs')
const { version } = JSON.parse(readFileSync(`${modules}/node_modules/@aws-sdk/client-sqs/package.json`))
console.log(`client: @aws-sdk/client-sqs ${version}, Node ${process.version}`)

const sqs = new SQS({ maxAttempts: 1 })

/** Makes a queue. */
const create = async (QueueName, Attributes) => (await sqs.createQueue({ QueueName, Attributes })).QueueUrl
/** What is received, with all there is to know of it. */
const receive = async (QueueUrl, more = {}) => (await sqs.receiveMessage({
  QueueUrl, MaxNumberOfMessages: 10, MessageAttributeNames: ['All'], MessageSystemAttributeNames: ['All'], ...more,
})).Messages ?? []
const arn = async (QueueUrl) =>
  (await sqs.getQueueAttributes({ QueueUrl, AttributeNames: ['QueueArn'] })).Attributes.QueueArn

const url = await create('js-Jobs', { VisibilityTimeout: '5' })
const sent = await sqs.sendMessage({
  QueueUrl: url,
  MessageBody: 'héllo €\t"1"',
  MessageAttributes: {
    text: { DataType: 'String.custom', StringValue: 'ü' },
    number: { DataType: 'Number', StringValue: '12345678901234567890.5' },
    bytes: { DataType: 'Binary', BinaryValue: Uint8Array.from([0, 255, 10, 13]) },
  },
})
const [message] = await receive(url)
assert.equal(message.Body, 'héllo €\t"1"')
assert.equal(message.MessageId, sent.MessageId)
assert.equal(message.MD5OfMessageAttributes, sent.MD5OfMessageAttributes)
assert.equal(message.MessageAttributes.number.StringValue, '12345678901234567890.5')
assert.deepEqual([...message.MessageAttributes.bytes.BinaryValue], [0, 255, 10, 13])
assert.equal(message.Attributes.ApproximateReceiveCount, '1')
await sqs.changeMessageVisibility({ QueueUrl: url, ReceiptHandle: message.ReceiptHandle, VisibilityTimeout: 0 })
const [again] = await receive(url, { WaitTimeSeconds: 5 })
assert.equal(again.Attributes.ApproximateReceiveCount, '2')
await sqs.deleteMessage({ QueueUrl: url, ReceiptHandle: again.ReceiptHandle })
assert.deepEqual(await receive(url), [])
console.log('ok: send, receive, visibility, delete')

const batch = await sqs.sendMessageBatch({
  QueueUrl: url,
  Entries: [
    { Id: 'a', MessageBody: 'one' },
    { Id: 'b', MessageBody: 'bad \u0001' },
    { Id: 'c', MessageBody: 'three', DelaySeconds: 0 },
  ],
})
assert.deepEqual(batch.Successful.map((entry) => entry.Id), ['a', 'c'])
assert.deepEqual(batch.Failed.map(({ Id, Code, SenderFault }) => [Id, Code, SenderFault]), [['b', 'InvalidMessageContents', true]])
const both = await receive(url, { WaitTimeSeconds: 5 })
assert.deepEqual(both.map((message) => message.Body).sort(), ['one', 'three'])
const handles = both.map(({ ReceiptHandle }, at) => ({ Id: `${at}`, ReceiptHandle }))
const changed = handles.map((entry) => ({ ...entry, VisibilityTimeout: 60 }))
assert.equal((await sqs.changeMessageVisibilityBatch({ QueueUrl: url, Entries: changed })).Successful.length, 2)
const deleted = await sqs.deleteMessageBatch({
  QueueUrl: url, Entries: [...handles, { Id: 'x', ReceiptHandle: 'garbage' }],
})
assert.equal(deleted.Successful.length, 2)
assert.equal(deleted.Failed[0].Code, 'ReceiptHandleIsInvalid')
console.log('ok: batches that fail in part')

const waiting = receive(url, { WaitTimeSeconds: 20 })
await sqs.sendMessage({ QueueUrl: url, MessageBody: 'waited for' })
assert.equal((await waiting)[0].Body, 'waited for')
const left = new AbortController()
const leaving = sqs.receiveMessage({ QueueUrl: await create('js-left'), WaitTimeSeconds: 20 }, { abortSignal: left.signal })
left.abort()
await assert.rejects(leaving, { name: 'AbortError' })
console.log('ok: waiting')

await assert.rejects(sqs.getQueueUrl({ QueueName: 'js-gone' }), (error) => {
  assert.ok(error instanceof QueueDoesNotExist)
  assert.equal(error.$metadata.httpStatusCode, 400)
  return true
})
await assert.rejects(create('js-Jobs', { VisibilityTimeout: '6' }), { name: 'QueueNameExists' })
await assert.rejects(sqs.sendMessage({ QueueUrl: url, MessageBody: '' }), { name: 'MissingParameter' })
const stranger = new SQS({ maxAttempts: 1, credentials: { accessKeyId: 'PGMQNOBODY', secretAccessKey: 'x' } })
await assert.rejects(stranger.listQueues(), { name: 'InvalidClientTokenId' })
console.log('ok: errors by their classes')

const fifo = await create('js-orders.fifo', { FifoQueue: 'true', ContentBasedDeduplication: 'true' })
for (const [MessageGroupId, MessageBody] of [['a', '1'], ['b', '2'], ['a', '3'], ['a', '3']]) {
  await sqs.sendMessage({ QueueUrl: fifo, MessageGroupId, MessageBody })
}
const first = await receive(fifo, { MaxNumberOfMessages: 1 })
assert.deepEqual((await receive(fifo)).map((message) => message.Body), ['2'])
await sqs.deleteMessage({ QueueUrl: fifo, ReceiptHandle: first[0].ReceiptHandle })
const rest = await receive(fifo)
assert.deepEqual(rest.map((message) => [message.Body, message.Attributes.MessageGroupId]), [['3', 'a']])
assert.ok(BigInt(rest[0].Attributes.SequenceNumber) > BigInt(first[0].Attributes.SequenceNumber))
console.log('ok: FIFO and deduplication')

const dead = await create('js-dead')
const RedrivePolicy = JSON.stringify({ deadLetterTargetArn: await arn(dead), maxReceiveCount: 1 })
const work = await create('js-work', { RedrivePolicy, VisibilityTimeout: '0' })
await sqs.sendMessage({ QueueUrl: work, MessageBody: 'poison' })
assert.equal((await receive(work)).length, 1)
assert.deepEqual(await receive(work), [])
const [buried] = await receive(dead, { WaitTimeSeconds: 20, VisibilityTimeout: 0 })
assert.equal(buried.Body, 'poison')
assert.equal(buried.Attributes.DeadLetterQueueSourceArn, await arn(work))
assert.deepEqual((await sqs.listDeadLetterSourceQueues({ QueueUrl: dead })).queueUrls, [work])
await sqs.startMessageMoveTask({ SourceArn: await arn(dead) })
assert.equal((await receive(work, { WaitTimeSeconds: 20 }))[0].Body, 'poison')
const { Results: [task] } = await sqs.listMessageMoveTasks({ SourceArn: await arn(dead) })
assert.equal(task.ApproximateNumberOfMessagesMoved, 1)
console.log('ok: dead letters and a move back')

await sqs.tagQueue({ QueueUrl: url, Tags: { team: 'a', stage: 'test' } })
await sqs.untagQueue({ QueueUrl: url, TagKeys: ['stage'] })
assert.deepEqual((await sqs.listQueueTags({ QueueUrl: url })).Tags, { team: 'a' })
const listed = []
for await (const page of paginateListQueues({ client: sqs, pageSize: 2 }, { QueueNamePrefix: 'js-' })) {
  listed.push(...page.QueueUrls)
}
assert.deepEqual(listed.map((each) => each.split('/').at(-1)).sort(), ['js-Jobs', 'js-dead', 'js-left', 'js-orders.fifo', 'js-work'])
await sqs.setQueueAttributes({ QueueUrl: url, Attributes: { DelaySeconds: '7' } })
const { Attributes } = await sqs.getQueueAttributes({ QueueUrl: url, AttributeNames: ['All'] })
assert.deepEqual([Attributes.DelaySeconds, Attributes.VisibilityTimeout, Attributes.ApproximateNumberOfMessages], ['7', '5', '0'])
await sqs.purgeQueue({ QueueUrl: url })
await sqs.deleteQueue({ QueueUrl: url })
await assert.rejects(receive(url), { name: 'QueueDoesNotExist' })
console.log('ok: tags, lists, attributes, purge, drop')
