import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.Map;

/**
 * Keys that may be used, each for at most a TTL, and only while events are heard. The rules and their reasons are in
 * docs/events.md; examples/events/cache.go is the same in Go.
 */
final class KeyCache {
    /** What keep must know of how the sidecar was asked. If it is fresh, ask with Cache-Control: no-cache. */
    record Question(long asked, int generation, boolean fresh) {}

    /** The members of an answer of 200 that matter here. */
    record Valid(String keyId, String ownerId, Instant expiresAt, String history, long seq) {}

    private record Entry(String owner, long until, Instant expiresAt) {}

    private final long ttl; // nanoseconds, as all times of System.nanoTime here
    private final int size;
    private final Map<String, Entry> entries = new HashMap<>();
    private boolean hearing;
    private boolean based; // every event up to seq was read, or is reflected by what is in here
    private long seq = -1; // the newest event that was read, or that an answer in here reflects
    private long read; // when seq last rose
    private String history = "";
    private int generation; // counts how often everything was forgotten

    KeyCache(Duration ttl, int size) {
        this.ttl = ttl.toNanos();
        this.size = size;
    }

    /** Whether the key may be used as far as is known here. */
    synchronized boolean has(String keyId) {
        var entry = entries.get(keyId);
        return entry != null && System.nanoTime() - entry.until < 0 && (entry.expiresAt == null || Instant.now().isBefore(entry.expiresAt));
    }

    /** Begins a question, before it is sent: an answer is as old as its question. */
    synchronized Question ask() {
        return new Question(System.nanoTime(), generation, !based);
    }

    /** Keeps an answer, unless it may be older than an event that was read here already. */
    synchronized void keep(Valid answer, Question question) {
        if (!hearing || question.generation != generation) {
            return;
        }
        if (answer.seq < seq) {
            if (question.asked - read > ttl) { // so long behind: that number was forged, or another log's
                forget();
            }
            return;
        }
        if (!based) { // and the question was a fresh one
            based = true;
            seq = answer.seq;
            history = answer.history;
            read = question.asked;
        }
        if (!answer.history.equals(history)) { // numbers begin anew
            forget();
            return;
        }
        for (var others = entries.keySet().iterator(); entries.size() >= size && others.hasNext();) {
            others.next();
            others.remove();
        }
        entries.put(answer.keyId, new Entry(answer.ownerId, question.asked + ttl, answer.expiresAt));
    }

    /** Evicts what an event is about, and everything if one before it is missing. */
    synchronized void apply(long eventSeq, long prev, String kind, String keyId, String ownerId) {
        if (eventSeq > seq) {
            if (prev != seq) {
                entries.clear();
            }
            seq = eventSeq;
            read = System.nanoTime();
        }
        switch (kind) {
            case "issued", "changed", "revoked", "deleted" -> entries.remove(keyId);
            case "owner_changed" -> entries.values().removeIf(entry -> entry.owner.equals(ownerId));
            default -> entries.clear(); // reset, and kinds that are newer than this
        }
    }

    /** Says whether events are heard from now on. Either way nothing from before is worth anything. */
    synchronized void hear(boolean yes) {
        hearing = yes;
        forget();
    }

    /** Forgets everything: after a message that cannot be read, too. */
    synchronized void forget() {
        entries.clear();
        seq = -1;
        based = false;
        generation++;
    }
}
