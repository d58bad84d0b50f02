import java.time.Duration;
import java.time.Instant;

/** The rules of docs/events.md, asked of examples/spring/KeyCache.java: the same as examples/events/cache_test.go. */
final class KeyCacheTest {
    private static void expect(KeyCache cache, String keyId, boolean want, String when) {
        if (cache.has(keyId) != want) {
            throw new AssertionError(when + ": " + keyId + " is there: " + !want);
        }
    }

    private static KeyCache.Valid valid(String keyId, long seq) {
        return new KeyCache.Valid(keyId, "m_" + keyId, null, "h", seq);
    }

    private static void keep(KeyCache cache, String keyId, long seq) {
        cache.keep(valid(keyId, seq), cache.ask());
    }

    private static KeyCache heard(Duration ttl) {
        var cache = new KeyCache(ttl, 100);
        cache.hear(true);
        keep(cache, "pk_1", 10);
        keep(cache, "pk_2", 10);
        return cache;
    }

    private static KeyCache heard() {
        var cache = heard(Duration.ofMinutes(1));
        expect(cache, "pk_1", true, "kept");
        expect(cache, "pk_2", true, "kept");
        return cache;
    }

    public static void main(String[] args) throws Exception {
        for (String kind : new String[] {"issued", "changed", "revoked", "deleted"}) {
            var cache = heard();
            cache.apply(11, 10, kind, "pk_1", "");
            expect(cache, "pk_1", false, kind);
            expect(cache, "pk_2", true, kind);
        }
        var cache = heard();
        cache.apply(11, 10, "owner_changed", "", "m_pk_1");
        expect(cache, "pk_1", false, "owner");
        expect(cache, "pk_2", true, "another owner");
        for (String kind : new String[] {"reset", "something new"}) {
            cache = heard();
            cache.apply(11, 10, kind, "", "");
            expect(cache, "pk_1", false, kind);
        }

        cache = heard();
        cache.apply(12, 11, "revoked", "pk_3", "");
        expect(cache, "pk_1", false, "a gap");
        cache = heard();
        cache.apply(15, 10, "revoked", "pk_3", "");
        cache.apply(15, 10, "revoked", "pk_3", "");
        cache.apply(3, 2, "revoked", "pk_3", "");
        expect(cache, "pk_1", true, "no gap");
        cache = heard();
        cache.hear(false);
        keep(cache, "pk_1", 11);
        expect(cache, "pk_1", false, "not hearing");

        cache = heard();
        cache.apply(11, 10, "revoked", "pk_1", "");
        keep(cache, "pk_1", 10);
        expect(cache, "pk_1", false, "an answer older than an event");
        keep(cache, "pk_1", 11);
        expect(cache, "pk_1", true, "an answer that knows of the event");

        cache = new KeyCache(Duration.ofMinutes(1), 100);
        var before = cache.ask();
        cache.hear(true);
        cache.keep(valid("pk_1", 10), before);
        expect(cache, "pk_1", false, "asked before the queue was bound");
        var first = cache.ask();
        cache.apply(11, 10, "revoked", "pk_1", "");
        cache.keep(valid("pk_1", 10), first);
        expect(cache, "pk_1", false, "the event came while the first question was under way");
        if (!first.fresh() || heard().ask().fresh()) {
            throw new AssertionError("not the first question is fresh, or all are");
        }
        cache = heard();
        var under = cache.ask();
        cache.forget();
        cache.keep(valid("pk_3", 20), under);
        expect(cache, "pk_3", false, "asked before everything was forgotten");

        cache = heard();
        cache.keep(new KeyCache.Valid("pk_3", "m", null, "another", 12), cache.ask());
        expect(cache, "pk_1", false, "another history");
        cache = heard();
        cache.keep(new KeyCache.Valid("pk_3", "m", Instant.now().minusSeconds(1), "h", 10), cache.ask());
        expect(cache, "pk_3", false, "expired");
        for (int i = 0; i < 200; i++) {
            keep(cache, "pk_many_" + i, 10);
        }
        expect(cache, "pk_many_199", true, "the newest of many");
        expect(heard(Duration.ZERO), "pk_1", false, "its time is over");

        cache = heard(Duration.ofMillis(1));
        cache.apply(1_000_000, 10, "revoked", "pk_3", "");
        var later = cache.ask();
        while (System.nanoTime() - later.asked() <= 1_000_000) {
            Thread.onSpinWait();
        }
        keep(cache, "pk_4", 11);
        if (!cache.ask().fresh()) {
            throw new AssertionError("a number that nobody reaches keeps the cache empty for ever");
        }
    }
}
