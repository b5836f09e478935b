// A worker for one queue, with Java (17 or later) and Gson.
//
//     GATEWAY=http://localhost:8080 QUEUE=orders java -cp gson.jar Worker.java
//
// It waits for messages, works on several at a time, holds on to them while it does, and settles them
// together: what was done is deleted, what failed comes back after a pause that grows. SIGTERM and SIGINT
// end it as soon as what it has begun is done; what it has not begun goes to others at once.
//
// To have it do something, give it a function:
//
//     new Worker(message -> System.out.println(message.get("message"))).run();

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

public final class Worker {
    /** What is done with a message; throws what speaks against it. */
    @FunctionalInterface
    public interface Handler {
        void handle(JsonObject message) throws Exception;
    }

    /** What became of a message: an entry of {@code delete} or {@code retry}. */
    private record Outcome(String action, JsonObject entry) {}

    private static final int WAIT = 20;
    private static final int CONCURRENCY = Integer.parseInt(setting("CONCURRENCY", "10"));
    /** Seconds for which a message is nobody else's; extended while it is worked on. */
    private static final int LEASE = Integer.parseInt(setting("LEASE", "30"));
    /** Between two extensions, and the most that one takes: one that hangs leaves time for another try. */
    private static final Duration HEARTBEAT = Duration.ofSeconds(LEASE).dividedBy(3);
    private static final Duration PATIENCE = Duration.ofSeconds(60);
    private static final String URL = setting("GATEWAY", "http://localhost:8080").replaceAll("/$", "")
            + "/queues/" + encoded(setting("QUEUE", "orders")) + "/messages";

    private final Handler handler;
    private final HttpClient client = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(10)).build();
    /** For messages, and to extend their leases. */
    private final ScheduledExecutorService threads = Executors.newScheduledThreadPool(2 * CONCURRENCY);
    private final CountDownLatch stop = new CountDownLatch(1);
    /** A request that may be broken off to stop. */
    private volatile CompletableFuture<?> waiting = new CompletableFuture<>();

    public Worker(Handler handler) {
        this.handler = handler;
    }

    /**
     * Works until the process is told to stop, which then waits for the end of this. After SIGTERM its exit
     * code is 143, as that of any JVM.
     */
    public void run() throws InterruptedException {
        Thread worker = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stop.countDown();
            waiting.cancel(true);
            try {
                worker.join();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        JsonObject done = new JsonObject();
        int failures = 0;
        try {
            while (!isStopping()) {
                try {
                    JsonArray messages = receive(done);
                    failures = 0;
                    done = workOn(messages);
                } catch (IOException e) {
                    if (!isStopping()) {
                        System.err.println("receiving failed, trying again: " + e.getMessage());
                        stop.await(pause(++failures, 10), TimeUnit.MILLISECONDS);
                    }
                }
            }
            settle(done);
        } finally {
            threads.shutdownNow();
        }
    }

    private boolean isStopping() {
        return stop.getCount() == 0;
    }

    /**
     * Settles what is done and returns the next messages. If nothing is to be settled it waits for them;
     * whoever is told to stop meanwhile leaves, and what would have been answered stays in the queue.
     */
    private JsonArray receive(JsonObject done) throws IOException, InterruptedException {
        JsonObject body = new JsonObject();
        body.addProperty("qty", CONCURRENCY);
        body.addProperty("vt", LEASE);
        boolean waits = done.size() == 0;
        if (waits) {
            body.addProperty("wait", WAIT);
        } else {
            body.add("settle", done);
        }
        JsonObject answer = call("POST", "/receive", body, PATIENCE, waits);
        report(answer.getAsJsonObject("settled"));
        return answer.getAsJsonArray("messages");
    }

    /** Says what became of messages, until the gateway has heard it: doing so twice does no harm. */
    private void settle(JsonObject done) throws InterruptedException {
        for (int attempt = 0; attempt < 10 && done.size() > 0; attempt++) {
            try {
                report(call("POST", "/settle", done, PATIENCE, false));
                return;
            } catch (IOException e) {
                System.err.println("settling failed, trying again: " + e.getMessage());
                TimeUnit.MILLISECONDS.sleep(pause(attempt, 5));
            }
        }
    }

    /** Has a message for longer. One that is somebody else's by now cannot be helped. */
    private void extend(JsonObject message) {
        String id = message.get("msg_id").getAsString();
        JsonObject body = new JsonObject();
        body.addProperty("vt", LEASE);
        try {
            String receipt = encoded(message.get("receipt").getAsString());
            call("PATCH", "/" + id + "?receipt=" + receipt, body, HEARTBEAT, false);
        } catch (IOException e) {
            System.err.println("message " + id + " could not be extended: " + e.getMessage());
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    /**
     * Works on messages at the same time. What is through while others are not is settled; the rest is
     * returned.
     */
    private JsonObject workOn(JsonArray messages) throws InterruptedException {
        var results = new LinkedBlockingQueue<Outcome>();
        for (JsonElement message : messages) {
            threads.execute(() -> results.add(work(message.getAsJsonObject())));
        }
        JsonObject done = new JsonObject();
        for (int pending = messages.size(); pending > 0; pending--) {
            if (results.isEmpty()) {
                settle(done);
                done = new JsonObject();
            }
            Outcome outcome = results.take();
            if (!done.has(outcome.action())) {
                done.add(outcome.action(), new JsonArray());
            }
            done.getAsJsonArray(outcome.action()).add(outcome.entry());
        }
        return done;
    }

    /** Handles a message; what became of it. */
    private Outcome work(JsonObject message) {
        JsonObject entry = new JsonObject();
        entry.add("receipt", message.get("receipt"));
        if (isStopping()) {
            entry.addProperty("uncounted", true);
            return new Outcome("retry", entry);
        }
        long pause = HEARTBEAT.toMillis();
        var heartbeat = threads.scheduleAtFixedRate(() -> extend(message), pause, pause, TimeUnit.MILLISECONDS);
        try {
            handler.handle(message);
            return new Outcome("delete", entry);
        } catch (Throwable e) { // whatever the handler throws
            System.err.println("message " + message.get("msg_id") + " failed: " + e);
            // 1, 2, 4, ... seconds. After `max_receives` deliveries it becomes a dead letter.
            entry.addProperty("delay", (long) Math.min(Math.pow(2, message.get("read_ct").getAsInt() - 1), 900));
            return new Outcome("retry", entry);
        } finally {
            heartbeat.cancel(false);
        }
    }

    /** One request; what the gateway answers, or null without a body. */
    private JsonObject call(String method, String path, JsonObject body, Duration limit, boolean mayInterrupt)
            throws IOException, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(URL + path)).timeout(limit)
                .header("Content-Type", "application/json").header("Prefer", "return=minimal")
                .method(method, HttpRequest.BodyPublishers.ofString(body.toString()));
        String key = System.getenv("GATEWAY_KEY");
        if (key != null) {
            request.header("Authorization", "Bearer " + key);
        }
        var pending = client.sendAsync(request.build(), HttpResponse.BodyHandlers.ofString());
        if (mayInterrupt) {
            waiting = pending;
            if (isStopping()) {
                pending.cancel(true);
            }
        }
        try {
            HttpResponse<String> answer = pending.get();
            if (answer.statusCode() >= 300) {
                throw new IOException(answer.statusCode() + " " + answer.body());
            }
            return answer.body().isEmpty() ? null : JsonParser.parseString(answer.body()).getAsJsonObject();
        } catch (ExecutionException e) {
            throw new IOException(e.getCause());
        } catch (IllegalStateException | JsonParseException e) { // broken off, or no JSON
            throw new IOException(e);
        }
    }

    /** Milliseconds, more with each failure up to {@code most} seconds, and never the same for all. */
    private static long pause(int failures, int most) {
        double whole = Math.min(Math.pow(2, failures) * 100, most * 1000);
        return (long) (whole * ThreadLocalRandom.current().nextDouble(0.5, 1));
    }

    private static void report(JsonObject settled) {
        for (JsonElement failed : settled.getAsJsonArray("failed")) {
            JsonObject entry = failed.getAsJsonObject();
            System.err.println("message " + entry.get("msg_id") + ": " + entry.get("detail").getAsString());
        }
    }

    private static String setting(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }

    private static String encoded(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
    }

    public static void main(String[] args) throws InterruptedException {
        new Worker(message -> System.out.println(message.get("message"))).run();
    }
}
