<?php
// What the workers in the tests do: a message says how long it takes, and whether it fails.

require __DIR__ . '/../../examples/worker.php';

(new Worker())->run(function (object $message) {
    $body = $message->message;
    echo "begun $body->n\n";
    usleep((int) (($body->seconds ?? 0) * 1_000_000));
    if ($body->fails ?? false) {
        throw new Exception('as the message says');
    }
    echo "done $body->n\n";
});
