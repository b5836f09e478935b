#!/usr/bin/env php
<?php
// A worker for one queue, with nothing but PHP itself (8.1 or later) and its extensions curl and pcntl.
//
//     GATEWAY=http://localhost:8080 QUEUE=orders php worker.php
//
// It waits for messages, works on several at a time, holds on to them while it does, and settles them
// together: what was done is deleted, what failed comes back after a pause that grows. SIGTERM and SIGINT
// end it as soon as what it has begun is done; what it has not begun goes to others at once.
//
// Each message is handled in a process of its own, which may take its time, run out of memory or crash
// without harm to others. What it needs of a database it opens itself.
//
// To have it do something, require this file and give the worker a function:
//
//     require 'worker.php';
//     (new Worker())->run(function (object $message) {
//         print_r($message->message);
//     });

declare(strict_types=1);

final class Worker
{
    private const WAIT = 20;
    private string $url;
    private int $concurrency;
    /** Seconds for which a message is nobody else's; extended while it is worked on. */
    private int $lease;
    private bool $isStopping = false;

    public function __construct()
    {
        $gateway = rtrim(getenv('GATEWAY') ?: 'http://localhost:8080', '/');
        $this->url = "$gateway/queues/" . rawurlencode(getenv('QUEUE') ?: 'orders') . '/messages';
        $this->concurrency = (int) (getenv('CONCURRENCY') ?: 10);
        $this->lease = (int) (getenv('LEASE') ?: 30);
    }

    /** Works until it is told to stop. `$handle` gets a message, and throws what speaks against it. */
    public function run(callable $handle): void
    {
        foreach ([SIGTERM, SIGINT] as $signal) {
            pcntl_signal($signal, function () {
                $this->isStopping = true;
            });
        }
        // It is waited for instead.
        pcntl_sigprocmask(SIG_BLOCK, [SIGCHLD]);
        $done = [];
        $failures = 0;
        while (!$this->isStopping()) {
            try {
                $messages = $this->receive($done);
            } catch (RuntimeException $error) {
                if (!$this->isStopping()) {
                    self::log("receiving failed, trying again: {$error->getMessage()}");
                    self::backOff(++$failures, 10);
                }
                continue;
            }
            $failures = 0;
            $done = $this->workOn($messages, $handle);
        }
        for ($attempt = 0; $attempt < 10 && $done && !$this->settle($done, 60); $attempt++) {
            self::backOff($attempt, 5);
        }
    }

    private function isStopping(): bool
    {
        pcntl_signal_dispatch();
        return $this->isStopping;
    }

    /**
     * Settles what is done and returns the next messages. If nothing is to be settled it waits for them;
     * whoever is told to stop meanwhile leaves, and what would have been answered stays in the queue.
     */
    private function receive(array $done): array
    {
        $next = $done ? ['settle' => $done] : ['wait' => self::WAIT];
        $body = $next + ['qty' => $this->concurrency, 'vt' => $this->lease];
        $answer = $this->call('POST', '/receive', $body, mayInterrupt: !$done);
        self::report($answer->settled);
        return $answer->messages;
    }

    /** Says what became of messages, and whether the gateway has heard it: doing so twice does no harm. */
    private function settle(array $done, float $limit): bool
    {
        try {
            self::report($this->call('POST', '/settle', $done, $limit));
            return true;
        } catch (RuntimeException $error) {
            self::log("settling failed, trying again: {$error->getMessage()}");
            return false;
        }
    }

    /** Has messages for longer, all at the same time. One that is somebody else's by now cannot be helped. */
    private function extend(array $messages): void
    {
        $all = curl_multi_init();
        $requests = [];
        foreach ($messages as $process => $message) {
            $path = "/$message->msg_id?receipt=" . rawurlencode($message->receipt);
            // One that hangs leaves time for another try.
            $requests[$process] = $this->request('PATCH', $path, ['vt' => $this->lease], $this->lease / 3);
            curl_multi_add_handle($all, $requests[$process]);
        }
        do {
            curl_multi_exec($all, $running);
            curl_multi_select($all, 0.1);
        } while ($running > 0);
        while ($info = curl_multi_info_read($all)) {
            $message = $messages[array_search($info['handle'], $requests, true)];
            try {
                $failed = $info['result'] !== CURLE_OK;
                self::answer($info['handle'], $failed ? false : curl_multi_getcontent($info['handle']));
            } catch (RuntimeException $error) {
                self::log("message $message->msg_id could not be extended: {$error->getMessage()}");
            }
        }
    }

    /**
     * Works on messages at the same time. What is through while others are not is settled; the rest is
     * returned.
     */
    private function workOn(array $messages, callable $handle): array
    {
        $done = $working = [];
        foreach ($messages as $message) {
            if ($this->isStopping()) {
                $done['retry'][] = ['receipt' => $message->receipt, 'uncounted' => true];
            } elseif (($process = $this->begin($message, $handle)) > 0) {
                $working[$process] = $message;
            } else {
                self::log('no process can be started: ' . pcntl_strerror(pcntl_get_last_error()));
                $done['retry'][] = ['receipt' => $message->receipt, 'delay' => 1, 'uncounted' => true];
            }
        }
        $extended = microtime(true);
        while ($working) {
            while (($process = pcntl_wait($status, WNOHANG)) > 0) {
                $message = $working[$process];
                unset($working[$process]);
                if (pcntl_wifexited($status) && pcntl_wexitstatus($status) === 0) {
                    $done['delete'][] = ['receipt' => $message->receipt];
                } else {
                    // 1, 2, 4, ... seconds. After `max_receives` deliveries it becomes a dead letter.
                    $delay = min(2 ** ($message->read_ct - 1), 900);
                    $done['retry'][] = ['receipt' => $message->receipt, 'delay' => $delay];
                }
            }
            if (!$working) {
                break;
            }
            if (microtime(true) >= $extended + $this->lease / 3) {
                $extended = microtime(true);
                $this->extend($working);
                continue;
            }
            // One try, and not for long: the others have to be extended.
            if ($done && $this->settle($done, $this->lease / 6)) {
                $done = [];
            }
            $left = max($extended + $this->lease / 3 - microtime(true), 0);
            // Until a process ends. A signal to stop ends this too, with a warning.
            @pcntl_sigtimedwait([SIGCHLD], $info, (int) $left, (int) (fmod($left, 1) * 1e9));
        }
        return $done;
    }

    /** Starts a process that handles a message, and returns its id; -1 if there can be none. */
    private function begin(object $message, callable $handle): int
    {
        $process = pcntl_fork();
        if ($process !== 0) {
            return $process;
        }
        // When to end is not for the handler to say.
        pcntl_signal(SIGTERM, SIG_IGN);
        pcntl_signal(SIGINT, SIG_IGN);
        pcntl_sigprocmask(SIG_UNBLOCK, [SIGCHLD]);
        try {
            $handle($message);
            exit(0);
        } catch (Throwable $error) {
            self::log("message $message->msg_id failed: {$error->getMessage()}");
            exit(1);
        }
    }

    /** One request; what the gateway answers, or null without a body. */
    private function call(
        string $method,
        string $path,
        array $body,
        float $limit = 60,
        bool $mayInterrupt = false,
    ): ?object {
        $curl = $this->request($method, $path, $body, $limit, $mayInterrupt);
        return self::answer($curl, curl_exec($curl));
    }

    /** A request to be made, which may take so many seconds. */
    private function request(
        string $method,
        string $path,
        array $body,
        float $limit,
        bool $mayInterrupt = false,
    ): CurlHandle {
        $headers = ['Content-Type: application/json', 'Prefer: return=minimal'];
        if ($key = getenv('GATEWAY_KEY')) {
            $headers[] = "Authorization: Bearer $key";
        }
        $curl = curl_init($this->url . $path);
        curl_setopt_array($curl, [
            CURLOPT_CUSTOMREQUEST => $method,
            CURLOPT_HTTPHEADER => $headers,
            CURLOPT_POSTFIELDS => json_encode($body, JSON_THROW_ON_ERROR),
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_TIMEOUT_MS => (int) ($limit * 1000),
            // Called about once a second; other than 0 ends the request.
            CURLOPT_NOPROGRESS => !$mayInterrupt,
            CURLOPT_PROGRESSFUNCTION => fn () => (int) $this->isStopping(),
        ]);
        return $curl;
    }

    /** What the gateway answered to a request; false is no answer. */
    private static function answer(CurlHandle $curl, string|false $text): ?object
    {
        if ($text === false) {
            throw new RuntimeException(curl_error($curl));
        }
        $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
        if ($status >= 300) {
            throw new RuntimeException("$status $text");
        }
        try {
            return $text === '' ? null : json_decode($text, false, 10_010, JSON_THROW_ON_ERROR);
        } catch (JsonException $error) {
            throw new RuntimeException("no JSON: {$error->getMessage()}");
        }
    }

    /** A pause that grows with the number of failures, and is never the same for all. */
    private static function backOff(int $failures, int $most): void
    {
        $seconds = min(2 ** $failures * 0.1, $most) * random_int(50, 100) / 100;
        usleep((int) ($seconds * 1_000_000));
    }

    private static function report(object $settled): void
    {
        foreach ($settled->failed as $failed) {
            self::log("message $failed->msg_id: $failed->detail");
        }
    }

    private static function log(string $line): void
    {
        fwrite(STDERR, "$line\n");
    }
}

if (realpath($_SERVER['SCRIPT_FILENAME']) === __FILE__) {
    (new Worker())->run(function (object $message) {
        echo json_encode($message->message), "\n";
    });
}
