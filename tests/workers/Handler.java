import com.google.gson.JsonObject;

/** What the workers in the tests do: a message says how long it takes, and whether it fails. */
final class Handler {
    private static void handle(JsonObject message) throws InterruptedException {
        JsonObject body = message.getAsJsonObject("message");
        String n = body.get("n").getAsString();
        System.out.println("begun " + n);
        if (body.has("seconds")) {
            Thread.sleep(body.get("seconds").getAsLong() * 1000);
        }
        if (body.has("fails")) {
            throw new IllegalArgumentException("as the message says");
        }
        System.out.println("done " + n);
    }

    public static void main(String[] args) throws InterruptedException {
        new Worker(Handler::handle).run();
    }
}
