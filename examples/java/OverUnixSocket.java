import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.SocketTimeoutException;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.regex.Pattern;

/**
 * May these keys be used? Over the Unix socket, with Java 16 or newer and no library: one exchange of HTTP/1.1 a connection.
 *
 * <pre>java OverUnixSocket SOCKET [KEY_ID...]</pre>
 */
final class OverUnixSocket implements Verdict.Sidecar {
    private static final long LIMIT = 2_000_000_000L; // nanoseconds, of the whole exchange
    private static final int MOST = 1 << 20; // bytes of an answer

    private static final Pattern STATUS = Pattern.compile("\\AHTTP/1\\.1 (\\d{3}) ");
    private static final Pattern LENGTH = Pattern.compile("(?i)\r\ncontent-length: *(\\d{1,7})(?=\r\n)");

    private final UnixDomainSocketAddress address;

    OverUnixSocket(String socket) {
        address = UnixDomainSocketAddress.of(socket);
    }

    @Override
    public Verdict ask(String keyId) throws Verdict.CannotTell {
        // Connection: close, so that the answer is all that arrives until the end.
        String request = "GET " + Verdict.path(keyId) + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        byte[] answer;
        try {
            answer = exchange(request.getBytes(StandardCharsets.US_ASCII));
        } catch (IOException e) {
            throw new Verdict.CannotTell(e.toString(), e);
        }
        return judge(new String(answer, StandardCharsets.ISO_8859_1), answer, keyId);
    }

    private static Verdict judge(String text, byte[] answer, String keyId) throws Verdict.CannotTell {
        int end = text.indexOf("\r\n\r\n");
        var status = STATUS.matcher(text);
        var length = LENGTH.matcher(text.substring(0, end < 0 ? 0 : end + 2));
        if (end < 0 || !status.find() || !length.find() || Integer.parseInt(length.group(1)) != answer.length - end - 4) {
            throw new Verdict.CannotTell("the answer is not whole", null);
        }
        String body = new String(answer, end + 4, answer.length - end - 4, StandardCharsets.UTF_8);
        return Verdict.of(Integer.parseInt(status.group(1)), body, keyId);
    }

    private byte[] exchange(byte[] request) throws IOException {
        long deadline = System.nanoTime() + LIMIT;
        try (var channel = SocketChannel.open(StandardProtocolFamily.UNIX); var selector = Selector.open()) {
            channel.configureBlocking(false);
            if (!channel.connect(address)) {
                throw new IOException("the sidecar takes no more connections");
            }
            var key = channel.register(selector, SelectionKey.OP_WRITE);
            for (var out = ByteBuffer.wrap(request); out.hasRemaining();) {
                await(selector, deadline);
                channel.write(out);
            }
            key.interestOps(SelectionKey.OP_READ);
            var answer = new ByteArrayOutputStream();
            var in = ByteBuffer.allocate(8192);
            while (answer.size() <= MOST) {
                await(selector, deadline);
                if (channel.read(in.clear()) < 0) {
                    return answer.toByteArray();
                }
                answer.write(in.array(), 0, in.position());
            }
            throw new IOException("the answer is too long");
        }
    }

    private static void await(Selector selector, long deadline) throws IOException {
        long left = (deadline - System.nanoTime()) / 1_000_000;
        if (left <= 0 || selector.select(left) == 0) {
            throw new SocketTimeoutException("no answer in time");
        }
        selector.selectedKeys().clear();
    }

    public static void main(String[] args) throws Exception {
        System.exit(Verdict.tell(new OverUnixSocket(args[0]), args));
    }
}
