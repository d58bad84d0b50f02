import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * May these keys be used? With java.net.http, which knows no Unix sockets, over listen.tcp.address:
 *
 * <pre>java OverLoopback http://127.0.0.1:9475 [KEY_ID...]</pre>
 */
final class OverLoopback implements Verdict.Sidecar {
    // HTTP/1.1, nothing redirected, and no proxy, whatever the system's properties say.
    private final HttpClient client = HttpClient.newBuilder()
        .version(HttpClient.Version.HTTP_1_1)
        .followRedirects(HttpClient.Redirect.NEVER)
        .proxy(HttpClient.Builder.NO_PROXY)
        .connectTimeout(Duration.ofSeconds(1))
        .build();
    private final String address;

    OverLoopback(String address) {
        this.address = address;
    }

    @Override
    public Verdict ask(String keyId) throws Verdict.CannotTell, InterruptedException {
        var request = HttpRequest.newBuilder(URI.create(address + Verdict.path(keyId))).build();
        var exchange = client.sendAsync(request, BodyHandlers.ofString());
        try {
            // The request's own timeout would end with the header; this is for the whole exchange.
            var answer = exchange.get(2, TimeUnit.SECONDS);
            return Verdict.of(answer.statusCode(), answer.body(), keyId);
        } catch (ExecutionException | TimeoutException e) {
            throw new Verdict.CannotTell(e.toString(), e);
        } finally {
            exchange.cancel(true);
        }
    }

    public static void main(String[] args) throws Exception {
        System.exit(Verdict.tell(new OverLoopback(args[0]), args));
    }
}
