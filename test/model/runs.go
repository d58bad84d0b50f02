package model

import "time"

const (
	s1      = "deny"
	s3      = "flghost"
	receipt = "receipted"
	fleet   = "assertion violated 0"
	mirror  = "serve"
	cycle   = "acceptance cycle"
)

// Runs are all searches. Every mutant's world is clean without its M_ flag.
var Runs = []Run{
	// The protocol, in a minute.
	{Name: "S1, S3, S5", File: "sidecar", Flags: "N=2 L=2 S5"},
	{Name: "S1, S3, S5 with warms", File: "sidecar", Flags: "N=1 L=1 WARM S5"},
	{Name: "S1, S3 across a failover with warms", File: "sidecar", Flags: "N=1 L=1 FAILOVER WARM NO_EVICTION"},
	{Name: "S1, S3 with full pages", File: "sidecar", Flags: "N=2 L=1 PAGES"},
	{Name: "no-cache and max-age", File: "sidecar", Flags: "N=1 L=2 MODES"},
	{Name: "receipts with pruning and sign-off", File: "sidecar", Flags: "N=1 L=1 RECEIPTS"},
	{Name: "receipts across a failover that loses registrations", File: "sidecar", Flags: "N=1 L=1 RECEIPTS FAILOVER LOSSY NO_FILLS"},
	{Name: "receipts: serve_stale rows pruned and expired after stale_limit", File: "fleet", Flags: "L=1 S=2 ALONE"},
	{Name: "receipts: silent sidecars and their setting", File: "fleet", Flags: "L=2 ALONE SILENT"},
	{Name: "S1 and its mirror, absence as an answer", File: "complete", Flags: "N=3 L=1"},
	{Name: "the lease returns", File: "liveness", LTL: "returns"},
	{Name: "a revocation is in the end known", File: "liveness", LTL: "settles"},
	{Name: "a receipt completes under faults", File: "liveness", LTL: "completes"},
	{Name: "a receipt completes by reports alone, once faults stop", File: "liveness", Flags: "ONLY_REPORTS", LTL: "by_report"},

	// More of the world.
	{Name: "S1 and its mirror, L of two ticks", File: "complete", Flags: "N=3 L=2", Tier: Long},
	{Name: "S1, S3, S5, three events", File: "sidecar", Flags: "N=3 L=2 S5", Tier: Long},
	{Name: "S1, S3, L of three ticks, warms", File: "sidecar", Flags: "N=1 L=3 WARM", Tier: Long},
	{Name: "S1, S3, warms beside the fences", File: "sidecar", Flags: "N=2 L=2 WARM BESIDE", Tier: Long},
	{Name: "S1, S3, S5 across a failover", File: "sidecar", Flags: "N=2 L=2 FAILOVER S5", Tier: Long},
	{Name: "S1, S3 across a failover, two events, warms", File: "sidecar", Flags: "N=2 L=1 FAILOVER WARM", Tier: Long, Limit: 10 * time.Minute},
	{Name: "S1, S3, a log rewritten on the same timeline", File: "sidecar", Flags: "N=2 L=2 REWRITE", Tier: Long},
	{Name: "no-cache and max-age with warms", File: "sidecar", Flags: "N=1 L=2 MODES WARM", Tier: Long},
	{Name: "S1 with serve_stale", File: "sidecar", Flags: "N=1 L=2 S=3 WARM", Tier: Long},
	{Name: "receipts, L of two ticks", File: "sidecar", Flags: "N=1 L=2 RECEIPTS", Tier: Long},
	{Name: "receipts with warms", File: "sidecar", Flags: "N=1 L=1 RECEIPTS WARM", Tier: Long},
	{Name: "receipts with serve_stale", File: "sidecar", Flags: "N=1 L=1 S=2 RECEIPTS", Tier: Long},
	{Name: "receipts, failover and warms together", File: "sidecar", Flags: "N=1 L=1 RECEIPTS FAILOVER WARM", Tier: Long, Limit: 15 * time.Minute},
	{Name: "receipts, failover that loses registrations, and warms", File: "sidecar", Flags: "N=1 L=1 RECEIPTS FAILOVER LOSSY WARM", Tier: Long, Limit: 15 * time.Minute},
	{Name: "receipts of two processes", File: "fleet", Flags: "L=1 NO_FILLS", Tier: Long, Limit: 15 * time.Minute},
	{Name: "receipts of two processes, with fills, none pruned", File: "fleet", Flags: "L=1 NO_PRUNING", Tier: Long, Limit: 15 * time.Minute},
	{Name: "receipts across two promotions, with serve_stale, none pruned", File: "fleet", Flags: "L=1 S=2 ALONE PROMOTIONS=2 NO_FILLS NO_PRUNING", Tier: Long},
	{Name: "receipts across two promotions", File: "fleet", Flags: "L=1 ALONE PROMOTIONS=2 NO_FILLS", Tier: Long, Limit: 15 * time.Minute},
	{Name: "receipts across a promotion, with fills", File: "fleet", Flags: "L=1 ALONE PROMOTIONS=1", Tier: Long, Limit: 15 * time.Minute},

	// Mutants of one sidecar.
	{Name: "an event does not overtake the fill", File: "sidecar", Flags: "M_NO_POISON N=2 L=2", Want: s3},
	{Name: "and S1 fails for it", File: "sidecar", Flags: "M_NO_POISON_S1 N=2 L=2", Want: s1},
	{Name: "the lease counts from the answer's arrival", File: "sidecar", Flags: "M_LEASE_AT_ARRIVAL N=1 L=2", Want: s1},
	{Name: "the cursor moves before the events are applied", File: "sidecar", Flags: "M_CURSOR_FIRST N=1 L=1", Want: s1},
	{Name: "the lease is granted before the events are applied", File: "sidecar", Flags: "M_LEASE_FIRST N=1 L=2", Want: s1},
	{Name: "the entry is read before the lease", File: "sidecar", Flags: "M_ENTRY_BEFORE_LEASE N=1 L=2", Want: s1},
	{Name: "serving after the lease", File: "sidecar", Flags: "M_NO_LEASE_CHECK N=1 L=2", Want: s1},
	{Name: "a fill is answered later than L after its question", File: "sidecar", Flags: "M_FILL_OLDER_THAN_L N=1 L=2", Want: s1},
	{Name: "a fill enters without asking for the cursor", File: "sidecar", Flags: "M_FILL_WITHOUT_CURSOR N=2 L=1 REWRITE", Want: s1},
	{Name: "the cursor's identity is ignored", File: "sidecar", Flags: "M_IDENTITY_IGNORED N=2 L=2 REWRITE", Want: s1},
	{Name: "a full page renews the lease", File: "sidecar", Flags: "M_FULL_PAGE_RENEWS N=2 L=2 PAGES", Want: s1},
	{Name: "a message moves the cursor", File: "sidecar", Flags: "M_MESSAGE_MOVES_CURSOR N=2 L=2", Want: s1},
	{Name: "a message renews the lease", File: "sidecar", Flags: "M_MESSAGE_RENEWS N=1 L=2", Want: s1},
	{Name: "a warm beside the fences loads keys changed since its snapshot, lease kept", File: "sidecar", Flags: "M_WARM_BESIDE N=1 L=2 WARM", Want: s1},
	{Name: "a fill outlives the warm it crossed", File: "sidecar", Flags: "M_WARM_KEEPS_FILLS N=1 L=2 WARM", Want: s1},
	{Name: "max-age extends L", File: "sidecar", Flags: "M_MAX_AGE_EXTENDS N=1 L=2 MODES", Want: s1},
	{Name: "no-cache joins an older fill", File: "sidecar", Flags: "M_NO_CACHE_JOINS N=1 L=2 MODES", Want: s1},

	// Mutants of registration, reports and receipts.
	{Name: "a fill is joined after the revocation was applied", File: "sidecar", Flags: "M_JOIN_AFTER_EVENT N=1 L=1 RECEIPTS NO_EVICTION NO_MESSAGES", Want: receipt},
	{Name: "a fence before the registration", File: "sidecar", Flags: "M_FENCE_BEFORE_REGISTRATION N=1 L=1 RECEIPTS NO_FILLS", Want: receipt},
	{Name: "a fill before the registration", File: "sidecar", Flags: "M_FILL_BEFORE_REGISTRATION N=1 L=1 RECEIPTS NO_EVICTION NO_MESSAGES", Want: receipt},
	{Name: "a marked row will do", File: "sidecar", Flags: "M_MARK_IGNORED N=1 L=1 RECEIPTS NO_FILLS", Want: receipt},
	{Name: "pruning in one step", File: "sidecar", Flags: "M_PRUNE_ONE_STEP N=1 L=1 RECEIPTS NO_EVICTION NO_MESSAGES", Want: receipt},
	{Name: "a void fence renews the lease", File: "sidecar", Flags: "M_VOID_RENEWS N=1 L=1 RECEIPTS NO_FILLS", Want: receipt},
	{Name: "the fence makes its own row", File: "sidecar", Flags: "M_UPSERT N=1 L=1 RECEIPTS NO_FILLS", Want: receipt},
	{Name: "no registration id", File: "sidecar", Flags: "M_NO_REGISTRATION_ID N=1 L=1 RECEIPTS NO_EVICTION NO_MESSAGES", Want: receipt},
	{Name: "the head is reported instead of the cursor", File: "sidecar", Flags: "M_REPORT_HEAD N=1 L=1 RECEIPTS NO_FILLS", Want: receipt},
	{Name: "signing off while answering", File: "sidecar", Flags: "M_SIGN_OFF_EARLY N=1 L=1 RECEIPTS NO_FILLS", Want: receipt},
	{Name: "an unrecognised cursor is reported", File: "sidecar", Flags: "M_REPORT_UNRECOGNISED N=2 L=1 RECEIPTS FAILOVER NO_EVICTION NO_MESSAGES NO_PRUNING", Want: receipt},
	{Name: "a report under a lost history counts", File: "sidecar", Flags: "M_REPORT_OF_LOST_HISTORY N=2 L=1 RECEIPTS FAILOVER NO_EVICTION NO_MESSAGES NO_PRUNING", Want: receipt},
	// The relay's wait after a promotion would hide this one.
	{Name: "a new timeline is taken over without a warm, and the registry believed at once", File: "sidecar", Flags: "M_TIMELINE_IGNORED M_IDENTITY_AT_ONCE N=2 L=1 RECEIPTS FAILOVER NO_EVICTION NO_MESSAGES NO_PRUNING", Want: receipt, Tier: Long},
	{Name: "a waiter goes on counting across a promotion", File: "sidecar", Flags: "M_WAITER_KEEPS_COUNTING N=2 L=1 RECEIPTS FAILOVER NO_EVICTION NO_MESSAGES NO_PRUNING", Want: receipt},
	{Name: "a row is deleted whether marked or not", File: "sidecar", Flags: "M_PRUNE_UNASKED N=1 L=1 RECEIPTS FAILOVER LOSSY NO_EVICTION NO_MESSAGES", Want: receipt},
	{Name: "a promoted registry is believed at once", File: "sidecar", Flags: "M_IDENTITY_AT_ONCE N=1 L=1 RECEIPTS FAILOVER LOSSY NO_FILLS", Want: receipt},
	{Name: "a serve_stale row is pruned after L", File: "fleet", Flags: "M_PRUNE_AFTER_L L=1 S=2 ALONE NO_FILLS", Want: fleet},
	{Name: "a serve_stale row expires after L", File: "fleet", Flags: "M_EXPIRES_AFTER_L L=1 S=2 ALONE NO_FILLS", Want: fleet},
	{Name: "after a promotion a waiter waits L, with serve_stale about", File: "fleet", Flags: "M_LONGEST_IS_L L=1 S=2 ALONE NO_FILLS PROMOTIONS=1", Want: fleet},
	{Name: "one row for two processes of a name", File: "fleet", Flags: "M_ROW_PER_NAME L=1 NO_FILLS", Want: fleet},
	{Name: "a silent sidecar does not ask the setting", File: "fleet", Flags: "M_SILENT_UNASKED L=1 ALONE SILENT", Want: fleet},
	{Name: "silent sidecars are not waited for", File: "fleet", Flags: "M_SILENT_NOT_AWAITED L=1 ALONE SILENT", Want: fleet},
	{Name: "a lowered setting counts for receipts at once", File: "fleet", Flags: "M_LOWERED_AT_ONCE L=1 ALONE SILENT", Want: fleet},
	{Name: "the relay lowers the wait for another lowering than it saw", File: "fleet", Flags: "M_LOWERED_ANY_VERSION L=1 ALONE SILENT", Want: fleet},
	{Name: "a row is deleted for another mark than the relay made", File: "fleet", Flags: "M_DELETE_ANY_MARK L=1 ALONE PROMOTIONS=1 NO_FILLS", Want: fleet},
	{Name: "the relay vouches for another timeline than it waited for", File: "fleet", Flags: "M_IDENTITY_ANY_TIMELINE L=1 ALONE PROMOTIONS=2 NO_FILLS NO_PRUNING", Want: fleet},

	// Mutants of complete memories.
	{Name: "an event leaves no mark", File: "complete", Flags: "M_NO_MARK N=3 L=1", Want: mirror},
	{Name: "a mark is taken for absence", File: "complete", Flags: "M_MARK_IS_UNKNOWN N=3 L=1", Want: mirror},
	{Name: "an unknown result is not overtaken by an event", File: "complete", Flags: "M_UNKNOWN_NOT_OVERTAKEN N=3 L=1", Want: mirror},
	{Name: "a negative entry outlives an issue", File: "complete", Flags: "M_NEGATIVE_KEPT N=3 L=1", Want: mirror},
	{Name: "completeness outlives an eviction", File: "complete", Flags: "M_COMPLETE_KEPT N=3 L=1", Want: mirror},
	{Name: "completeness ends after the eviction", File: "complete", Flags: "M_EVICT_FIRST N=3 L=1", Want: mirror},
	{Name: "completeness outlives the eviction of a mark", File: "complete", Flags: "M_MARK_EVICTED N=3 L=1", Want: mirror},
	{Name: "absence answers without a lease", File: "complete", Flags: "M_ABSENCE_WITHOUT_LEASE N=3 L=1", Want: mirror},

	// Mutants of coming back.
	{Name: "an ended history is not warmed again", File: "liveness", Flags: "M_NO_WARM", LTL: "returns", Want: cycle},
	{Name: "a void fence leads to no new registration", File: "liveness", Flags: "M_NO_REGISTER", LTL: "returns", Want: cycle},
	{Name: "a lost fence is the last", File: "liveness", Flags: "M_NO_FENCE_RETRY", LTL: "returns", Want: cycle},
	{Name: "the moved cursor is not reported", File: "liveness", Flags: "M_NO_SECOND_FENCE ONLY_REPORTS", LTL: "by_report", Want: cycle},
	{Name: "a waiter counts on reports alone", File: "liveness", Flags: "M_ENDLESS_WAIT", LTL: "completes", Want: cycle},
}
