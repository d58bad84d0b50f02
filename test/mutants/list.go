package main

// mutant is one rule broken: in file, old is replaced by broken, and a test that
// matches test must fail.
type mutant struct{ name, file, old, broken, test string }

const keystore = "internal/keystore/"

var mutants = []mutant{
	{
		"no poison check: an overtaken fill inserts", keystore + "fill.go",
		"case !registered:", "case false:",
		"TestRevokedKeyEntersByAFillBegunBefore|TestUnknownResultEntersAfterAnIssue",
	},
	{
		"an event does not overtake the fill under way", keystore + "cache.go",
		"delete(sh.flights, keyID) // its callers keep what it reads; it will not insert", "_ = 0",
		"TestRevokedKeyEntersByAFillBegunBefore",
	},
	{
		"an owner's event does not overtake fills", keystore + "cache.go",
		"m.shards[i].overtakeAll()", "_ = i",
		"TestOwnerEventDuringAFillIsLost",
	},
	{
		"a fill is inserted without asking for the cursor", keystore + "fill.go",
		"f.clean = got.Clean && got.Timeline == m.timeline", "f.clean = true",
		"TestFillFromALostTailStays",
	},
	{
		"a look-up stays in a memory that was replaced", keystore + "lookup.go",
		"if s.mem.Load() != m && s.clock.Now().Before(deadline) {", "if false {",
		"TestFillAcrossARewarmEntersTheNewMemory",
	},
	{
		"a warm grants a lease without a fence", keystore + "warm.go",
		"	s.mem.Load().lease.Store(nil)\n", "	m.lease.Store(&lease{until: s.clock.Now().Add(s.term)})\n",
		"TestWarmServesAKeyRevokedSinceItsSnapshot",
	},
	{
		"a fence's event leaves no mark in a complete memory", keystore + "cache.go",
		"case fenced && m.complete.Load():", "case false:",
		"TestIssueIsHiddenByCompleteness",
	},
	{
		"a mark is answered as unknown", keystore + "cache.go",
		"return entry{}, foundMark\n\t}\n\treturn e, foundEntry", "return entry{}, foundAbsent\n\t}\n\treturn e, foundEntry",
		"TestIssueIsHiddenByCompleteness|TestRevocationByMessageIsNotSeenAtOnce",
	},
	{
		"completeness outlives an eviction", keystore + "cache.go",
		"m.complete.Store(false) // before the eviction, see get", "_ = 0",
		"TestEvictionLetsAbsenceAnswer",
	},
	{
		"a negative entry outlives an issue", keystore + "cache.go",
		"sh.absent.Remove(keyID)", "_ = 0",
		"TestNegativeEntrySurvivesAnIssue",
	},
	{
		"the lease counts from the answer", keystore + "fence.go",
		"until := asked.Add(s.term)", "until := answered.Add(s.term)",
		"TestLeaseIsAnchoredAtTheAnswer",
	},
	{
		"a full page renews the lease", keystore + "fence.go",
		"case page.Full:", "case false:",
		"TestFullPageRenewsTheLease",
	},
	{
		"the cursor's identity is ignored", keystore + "postgres.go",
		"page.Known = e.Seq == at.Seq && e.ID == at.ID", "page.Known = e.Seq == at.Seq",
		"TestSourcesDisagreeWithTheirContract",
	},
	{
		"a changed timeline is ignored", keystore + "fence.go",
		"case !page.Known, page.Timeline != m.timeline:", "case !page.Known:",
		"TestRewrittenHistoryIsServed",
	},
	{
		"the capture check is removed", keystore + "fence.go",
		"case !page.CaptureIntact:", "case false:",
		"TestStandbyOrLostCaptureRenewsTheLease",
	},
	{
		"answers outlive the lease", keystore + "lease.go",
		"return l != nil && now.Before(l.until) && !l.asked.Before(notBefore)", "return l != nil && !l.asked.Before(notBefore)",
		"TestAnswersOutliveTheLease",
	},
	{
		"CLOCK_MONOTONIC instead of CLOCK_BOOTTIME", "internal/clock/clock.go",
		"d > driftTolerance || d < -driftTolerance", "d > driftTolerance && d < -driftTolerance",
		"TestSuspendIsNotCounted",
	},
	{
		"a fill is answered later than L after its question", keystore + "fill.go",
		"if age >= s.term ||", "if false ||",
		"TestFillAnswersLongAfterItsQuestion",
	},
	{
		"a message moves the cursor", keystore + "store.go",
		"	s.metrics.applied(pathQueue, 1)\n", "	s.metrics.applied(pathQueue, 1)\n	s.mem.Load().cursor.Store(&Cursor{Seq: e.Seq, ID: e.ID})\n",
		"TestGenuineMessageWithAnotherKeysNameHidesARevocation|TestForgedMessageAddsTrust",
	},
	{
		"no-cache is answered from before the request", keystore + "lookup.go",
		"	case b.NoCache || (b.HasMaxAge && b.MaxAge <= 0):\n		return now\n", "",
		"TestBoundsAreIgnored",
	},
	{
		"a stale answer under the caller's own bound", keystore + "lookup.go",
		"s.opts.StaleLimit == 0 || b.NoCache || b.HasMaxAge ||", "s.opts.StaleLimit == 0 ||",
		"TestStaleAnswersAreUnmarkedOrUnlimited",
	},
}
