import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** What a sidecar's answer means: whether the key may be used and, if not, a code that says why. */
record Verdict(boolean valid, String code) {
    /** Nobody can tell: it says nothing about the key. Fail the request that needed it. */
    static final class CannotTell extends IOException {
        private static final long serialVersionUID = 1;

        CannotTell(String why, Throwable cause) {
            super(why, cause);
        }
    }

    /** Asks about one key. */
    interface Sidecar {
        Verdict ask(String keyId) throws CannotTell, InterruptedException;
    }

    /** The path that names a key: one segment, whatever the id holds. */
    static String path(String keyId) {
        return "/v1/keys/" + URLEncoder.encode(keyId, StandardCharsets.UTF_8).replace("+", "%20");
    }

    // A JSON library does this better; the standard library has none. A quotation mark inside a value is escaped, so
    // that these find members only, and the verdict's own come before the attributes of a key.
    private static final Pattern VALID = Pattern.compile("\"valid\":(true|false)");
    private static final Pattern CODE = Pattern.compile("\"code\":\"(\\w+)\"");
    private static final Pattern KEY_ID = Pattern.compile("\"key_id\":\"([^\"\\\\]+)\"");

    private static String member(Pattern pattern, String body) {
        var found = pattern.matcher(body);
        return found.find() ? found.group(1) : "";
    }

    static Verdict of(int status, String body, String keyId) throws CannotTell {
        boolean named = member(KEY_ID, body).equals(keyId);
        String valid = member(VALID, body);
        String code = member(CODE, body);
        if (status == 200 && valid.equals("true") && named) {
            return new Verdict(true, code);
        }
        if (List.of(403, 404, 410).contains(status) && valid.equals("false") && named) {
            return new Verdict(false, code);
        }
        if (status == 400 && code.equals("bad_key_id")) {
            return new Verdict(false, code);
        }
        throw new CannotTell("status " + status + ", code " + code, null); // 503, an unknown route, another key
    }

    /**
     * A small command line: ADDRESS [KEY_ID...]; without key ids: one a line from standard input. Exit status: 0 all may
     * be used, 1 one may not, 2 one cannot be told.
     */
    static int tell(Sidecar sidecar, String[] args) throws InterruptedException {
        Stream<String> keyIds = args.length > 1
            ? Arrays.stream(args).skip(1)
            : new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines();
        int worst = 0;
        for (String keyId : (Iterable<String>) keyIds::iterator) {
            try {
                Verdict verdict = sidecar.ask(keyId);
                worst = Math.max(worst, verdict.valid() ? 0 : 1);
                System.out.println(verdict.valid() ? "yes" : "no " + verdict.code());
            } catch (CannotTell e) {
                worst = 2;
                System.out.println("cannot tell: " + e.getMessage());
            }
        }
        return worst;
    }
}
