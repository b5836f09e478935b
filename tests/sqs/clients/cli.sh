#!/usr/bin/env bash
# The AWS command line: `cli.sh <aws>`, with the gateway and a key in the variables that it reads.
set -euo pipefail
program=$1
# Version 1 of it has no eyes for AWS_ENDPOINT_URL_SQS in the regions whose certificates once had other names.
aws() { "$program" --endpoint-url "$AWS_ENDPOINT_URL_SQS" "$@"; }
echo "client: awscli $(aws --version | sed 's/^aws-cli.\([^ ]*\).*/\1/')"

equal() {
  if [ "$1" != "$2" ]; then
    echo "\`$1\` is not \`$2\`" >&2
    exit 1
  fi
}

url=$(aws sqs create-queue --queue-name cli-Jobs --attributes VisibilityTimeout=0 --query QueueUrl --output text)
equal "$(aws sqs get-queue-url --queue-name cli-Jobs --query QueueUrl --output text)" "$url"
aws sqs send-message --queue-url "$url" --message-body 'a text & more' \
  --message-attributes '{"kind":{"DataType":"String","StringValue":"test"},"raw":{"DataType":"Binary","BinaryValue":"abc"}}' >/dev/null
received=$(aws sqs receive-message --queue-url "$url" --wait-time-seconds 5 --message-attribute-names All \
  --query 'Messages[0].[Body,MessageAttributes.kind.StringValue,MessageAttributes.raw.BinaryValue]' --output text)
equal "$received" $'a text & more\ttest\tYWJj'
handle=$(aws sqs receive-message --queue-url "$url" --wait-time-seconds 5 --visibility-timeout 60 \
  --query 'Messages[0].ReceiptHandle' --output text)
aws sqs change-message-visibility --queue-url "$url" --receipt-handle "$handle" --visibility-timeout 30
aws sqs delete-message --queue-url "$url" --receipt-handle "$handle"
equal "$(aws sqs receive-message --queue-url "$url" --query 'length(Messages || `[]`)')" 0
echo 'ok: send, receive, visibility, delete'

aws sqs send-message-batch --queue-url "$url" --entries Id=a,MessageBody=1 Id=b,MessageBody=2 Id=c,MessageBody=3 >/dev/null
count=$(aws sqs get-queue-attributes --queue-url "$url" --attribute-names ApproximateNumberOfMessages \
  --query Attributes.ApproximateNumberOfMessages --output text)
equal "$count" 3
aws sqs purge-queue --queue-url "$url"
equal "$(aws sqs receive-message --queue-url "$url" --query 'length(Messages || `[]`)')" 0
echo 'ok: batches, attributes, purge'

for name in cli-a cli-b cli-c; do aws sqs create-queue --queue-name "$name" >/dev/null; done
equal "$(aws sqs list-queues --queue-name-prefix cli- --page-size 2 --query 'length(QueueUrls)')" 4
aws sqs tag-queue --queue-url "$url" --tags team=a
equal "$(aws sqs list-queue-tags --queue-url "$url" --query Tags.team --output text)" a
if said=$(aws sqs get-queue-url --queue-name cli-gone 2>&1); then exit 1; fi
case $said in *AWS.SimpleQueueService.NonExistentQueue*) ;; *) echo "$said" >&2; exit 1 ;; esac
aws sqs delete-queue --queue-url "$url"
echo 'ok: pages of queues, tags, errors'
