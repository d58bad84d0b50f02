package main

// mutant is one rule broken: in file, old is replaced by broken, and a test that
// matches test must fail: one of the package in, or of the file's own if that is
// empty.
type mutant struct{ name, file, old, broken, test, in string }

const (
	keystore = "internal/keystore/"
	receipts = "internal/schema/migrations/00007_receipts.sql"
	log      = "internal/schema/migrations/00002_log.sql"
)

var mutants = []mutant{
	{
		"no poison check: an overtaken fill inserts", keystore + "fill.go",
		"case !registered:", "case false:",
		"TestRevokedKeyEntersByAFillBegunBefore|TestUnknownResultEntersAfterAnIssue", "",
	},
	{
		"an event does not overtake the fill under way", keystore + "cache.go",
		"delete(sh.flights, keyID) // its callers keep what it reads; it will not insert", "_ = 0",
		"TestRevokedKeyEntersByAFillBegunBefore", "",
	},
	{
		"an owner's event does not overtake fills", keystore + "cache.go",
		"m.shards[i].overtakeAll()", "_ = i",
		"TestOwnerEventDuringAFillIsLost", "",
	},
	{
		"a fill is inserted without asking for the cursor", keystore + "fill.go",
		"f.clean = got.Clean && got.Timeline == m.timeline", "f.clean = true",
		"TestFillFromALostTailStays", "",
	},
	{
		"a look-up stays in a memory that was replaced", keystore + "lookup.go",
		"if s.mem.Load() != m && s.clock.Now().Before(deadline) {", "if false {",
		"TestFillAcrossARewarmEntersTheNewMemory", "",
	},
	{
		"a warm grants a lease without a fence", keystore + "warm.go",
		"	s.mem.Load().lease.Store(nil)\n", "	m.lease.Store(&lease{until: s.clock.Now().Add(s.term)})\n",
		"TestWarmServesAKeyRevokedSinceItsSnapshot", "",
	},
	{
		"a fence's event leaves no mark in a complete memory", keystore + "cache.go",
		"case fenced && m.complete.Load():", "case false:",
		"TestIssueIsHiddenByCompleteness", "",
	},
	{
		"a mark is answered as unknown", keystore + "cache.go",
		"return entry{}, foundMark\n\t}\n\treturn e, foundEntry", "return entry{}, foundAbsent\n\t}\n\treturn e, foundEntry",
		"TestIssueIsHiddenByCompleteness|TestRevocationByMessageIsNotSeenAtOnce", "",
	},
	{
		"completeness outlives an eviction", keystore + "cache.go",
		"m.complete.Store(false) // before the eviction, see get", "_ = 0",
		"TestEvictionLetsAbsenceAnswer", "",
	},
	{
		"a negative entry outlives an issue", keystore + "cache.go",
		"sh.absent.Remove(keyID)", "_ = 0",
		"TestNegativeEntrySurvivesAnIssue", "",
	},
	{
		"the lease counts from the answer", keystore + "fence.go",
		"until := asked.Add(s.term)", "until := answered.Add(s.term)",
		"TestLeaseIsAnchoredAtTheAnswer", "",
	},
	{
		"a full page renews the lease", keystore + "fence.go",
		"case page.Full:", "case false:",
		"TestFullPageRenewsTheLease", "",
	},
	{
		"the cursor's identity is ignored", keystore + "postgres.go",
		"page.Known = row.seq == at.Seq && row.id == at.ID", "page.Known = row.seq == at.Seq",
		"TestSourcesDisagreeWithTheirContract", "",
	},
	{
		"a changed timeline is ignored", keystore + "fence.go",
		"case page.Timeline != m.timeline:", "case false:",
		"TestRewrittenHistoryIsServed", "",
	},
	{
		"the capture check is removed", keystore + "fence.go",
		"case !page.CaptureIntact:", "case false:",
		"TestStandbyOrLostCaptureRenewsTheLease", "",
	},
	{
		"answers outlive the lease", keystore + "lease.go",
		"return l != nil && now.Before(l.until) && !l.asked.Before(notBefore)", "return l != nil && !l.asked.Before(notBefore)",
		"TestAnswersOutliveTheLease", "",
	},
	{
		"CLOCK_MONOTONIC instead of CLOCK_BOOTTIME", "internal/clock/clock.go",
		"d > driftTolerance || d < -driftTolerance", "d > driftTolerance && d < -driftTolerance",
		"TestSuspendIsNotCounted", "",
	},
	{
		"a fill is answered later than L after its question", keystore + "fill.go",
		"if age >= s.term ||", "if false ||",
		"TestFillAnswersLongAfterItsQuestion", "",
	},
	{
		"a message moves the cursor", keystore + "store.go",
		"	s.metrics.applied(pathQueue, 1)\n", "	s.metrics.applied(pathQueue, 1)\n	s.mem.Load().cursor.Store(&Cursor{Seq: e.Seq, ID: e.ID})\n",
		"TestGenuineMessageWithAnotherKeysNameHidesARevocation|TestForgedMessageAddsTrust", "",
	},
	{
		"no-cache is answered from before the request", keystore + "lookup.go",
		"	case b.NoCache || (b.HasMaxAge && b.MaxAge <= 0):\n		return now\n", "",
		"TestBoundsAreIgnored", "",
	},
	{
		"a stale answer under the caller's own bound", keystore + "lookup.go",
		"s.opts.StaleLimit == 0 || b.NoCache || b.HasMaxAge ||", "s.opts.StaleLimit == 0 ||",
		"TestStaleAnswersAreUnmarkedOrUnlimited", "",
	},
	{
		"the entry is read before the lease", keystore + "lookup.go",
		"	l := m.lease.Load()\n	if l.covers(now, notBefore(now, b)) {\n",
		"	early, was := m.get(keyID, now, int64(s.opts.MaxTTL))\n	s.hooks.beforeFill(keyID) // a pause\n	l := m.lease.Load()\n" +
			"	if was == foundEntry && l.covers(now, notBefore(now, b)) {\n		return Answer{Code: l.now.judge(early.rec, ownerActive, now), Record: early.rec}, nil\n	}\n" +
			"	if l.covers(now, notBefore(now, b)) {\n",
		"TestEntryOfAnOldLeaseIsAnsweredUnderANewOne", "",
	},
	{
		"a message renews the lease", keystore + "store.go",
		"	s.metrics.applied(pathQueue, 1)\n",
		"	s.metrics.applied(pathQueue, 1)\n	if l := s.mem.Load().lease.Load(); l != nil {\n		longer := *l\n		longer.asked = s.clock.Now()\n		longer.until = longer.asked.Add(s.term)\n		s.mem.Load().lease.Store(&longer)\n	}\n",
		"TestMessagesKeepTheLeaseAlive", "",
	},
	{
		"an event of a page is not applied", keystore + "fence.go",
		"		m.apply(events[i], true)\n", "		if i < len(events)-1 {\n			m.apply(events[i], true)\n		}\n",
		"TestRevocationWithoutMessageOutlivesTheFence", "",
	},
	{
		"the fence is two statements: events, then the head", keystore + "postgres.go",
		"	page.Full = len(page.Events) == q.Limit\n",
		"	if n := len(page.Events); n > 0 {\n		_ = conn.QueryRow(ctx, \"SELECT seq, event_id FROM keysidecar.events ORDER BY seq DESC LIMIT 1\").Scan(&page.Events[n-1].Seq, &page.Events[n-1].ID)\n	}\n	page.Full = len(page.Events) == q.Limit\n",
		"TestSequenceSeenByFencesHasGapsOrRepeats", "",
	},
	{
		"a fence believes a standby", keystore + "postgres.go",
		"		if standby || timeline == nil {\n			return Page{}, ErrStandby\n		}\n", "		if timeline == nil {\n			timeline = &q.Timeline\n		}\n",
		"TestAddressThatMovedToAStandbyIsBelieved", "",
	},
	{
		"a failed read is answered as unknown", keystore + "fill.go",
		"		return Answer{}, &UnavailableError{Reason: ReasonFillFailed, Err: f.err}\n", "		return Answer{Code: UnknownKey, Origin: FromDatabase}, nil\n",
		"TestMarkedSidecarRenewsItsLease|TestCallersStampedeTheSource|TestAbsenceAnswersAfterTheLease", "",
	},
	{
		"an error is answered by the last that was known", keystore + "lookup.go",
		"			return Answer{}, &UnavailableError{Reason: ReasonLeaseOver, Err: s.lastFenceError()}\n", "			a, _ := s.recall(m, l, keyID, now)\n			return a, nil\n",
		"TestAnswersOutliveTheLease", "",
	},
	{
		"an unreadable message is dropped without a fence", "internal/subscriber/life.go",
		"		store.RequestFence(\"unreadable\")\n", "",
		"TestFloodOfBadMessagesIsSurvivedAndForgotten", "",
	},
	{
		"changes are numbered before the commit", log,
		"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keysidecar.number_events()", "DEFERRABLE INITIALLY IMMEDIATE FOR EACH ROW EXECUTE FUNCTION keysidecar.number_events()",
		"TestChecksDeferredByTheApplicationComeBeforeTheGate|TestSetConstraintsImmediateLosesNothing", "internal/schema",
	},
	{
		"changes are numbered without the gate", log,
		"	LOCK TABLE keysidecar.gate IN EXCLUSIVE MODE;\n", "",
		"TestReadersSeeEveryEventOnceAndInOrder|TestSetConstraintsImmediateLosesNothing", "internal/schema",
	},
	{
		"a fill asks before the registration", keystore + "fill.go",
		"	if !ok {\n		return nil, tooMany(ReasonUnregistered)\n	}\n", "	_ = ok\n",
		"TestQuestionIsAskedBeforeTheRegistration", "",
	},
	{
		"a void fence renews the lease", keystore + "fence.go",
		"	case !page.Member:\n", "	case false:\n",
		"TestMarkedSidecarRenewsItsLease|TestSidecarThatDoesNotRegisterIsServedWithoutLeave", "",
	},
	{
		"a void fill is answered", keystore + "fill.go",
		"	if f.err == nil && !member {\n", "	if f.err == nil && !member && s == nil {\n",
		"TestMarkedSidecarRenewsItsLease|TestSidecarThatDoesNotRegisterIsServedWithoutLeave", "",
	},
	{
		"a question asks for no registration", keystore + "postgres_sql.go",
		"EXISTS (SELECT 1 FROM keysidecar.instances i WHERE i.registration = %s AND i.marked_at IS NULL)", "%s::uuid IS NOT NULL",
		"TestReportOfAnotherHistoryIsStored", "",
	},
	{
		"a cursor that the log does not know is reported", keystore + "postgres_sql.go",
		"		AND EXISTS (SELECT 1 FROM keysidecar.events c WHERE c.seq = $1 AND c.event_id = $5)\n", "",
		"TestReportOfAnotherHistoryIsStored", "",
	},
	{
		"a report under another timeline is stored", keystore + "postgres_sql.go",
		" AND $6 = (SELECT ` + timelineSQL + `)\n", " AND $6 <> (SELECT ` + timelineSQL + ` || 'x')\n",
		"TestReportOfAnotherHistoryIsStored", "",
	},
	{
		"a fence reports the head that it is told", keystore + "postgres_sql.go",
		"SET cursor_seq = $1,", "SET cursor_seq = (SELECT greatest($1, max(h.seq)) FROM keysidecar.events h),",
		"TestReportOfAnotherHistoryIsStored", "",
	},
	{
		"a sidecar signs off while it answers", keystore + "store.go",
		"	defer func() {\n		s.stop()\n", "	defer func() {\n		s.signOff()\n		s.stop()\n",
		"TestSignOffComesWhileAnswersAreGiven", "",
	},
	{
		"a sidecar is pruned in one step", "internal/relay/registry.go",
		"		if now.Sub(since) < millis(m.boundMS) {\n", "		if false {\n",
		"TestSidecarIsPrunedWhileItMayAnswer", "",
	},
	{
		"a sidecar with serve_stale is pruned after L", receipts[:len(receipts)-len("00007_receipts.sql")] + "00006_fleet.sql",
		"GENERATED ALWAYS AS (greatest(max_staleness_ms, stale_limit_ms)) STORED", "GENERATED ALWAYS AS (max_staleness_ms) STORED",
		"TestSidecarIsPrunedWhileItMayAnswer", "internal/relay",
	},
	{
		"a lost registry is believed", receipts,
		"CASE WHEN r.identity = at THEN 0 ELSE greatest(r.longest_ms, longest) END", "0",
		"TestLostRegistryIsTrusted", "internal/receipt",
	},
	{
		"a lost registry is believed at once by the relay", "internal/relay/registry.go",
		"		if k.identity.over(stored+\" \"+present, now, millis(longest)) {\n", "		if k.identity.over(stored+\" \"+present, now, 0) {\n",
		"TestLostRegistryIsTrustedBeforeTheLongestBound", "",
	},
	{
		"sidecars that do not register are not waited for", receipts,
		"receipt.wait_ms := greatest(r.unreported_ms, ", "receipt.wait_ms := greatest(0, ",
		"TestUnregisteredSidecarsAreNotWaitedFor", "internal/receipt",
	},
	{
		"less for sidecars that do not register counts at once", receipts,
		"SET unreported_ms = greatest(unreported_ms, longest)", "SET unreported_ms = longest",
		"TestUnregisteredSidecarsAreNotWaitedFor", "internal/receipt",
	},
	{
		"a report under a lost history counts", receipts,
		" AND i.timeline = split_part(at, '/', 1)", "",
		"TestUnacknowledgedRevocationHasAReceipt", "internal/receipt",
	},
	{
		"one row for two processes of a name", receipts,
		"		UPDATE keysidecar.instances i SET marked_at = clock_timestamp() WHERE i.instance = register.instance AND i.marked_at IS NULL;\n",
		"		DELETE FROM keysidecar.instances i WHERE i.instance = register.instance;\n",
		"TestUnacknowledgedRevocationHasAReceipt", "internal/receipt",
	},
	{
		"a receipt trusts wall clocks", "internal/receipt/waiter.go",
		"	return now\n}\n\nfunc (w *Waiter) read", "	return now.Add(-time.Since(s.OccurredAt))\n}\n\nfunc (w *Waiter) read",
		"TestWaiterCountsTimeItDidNotSee|TestReceiptCompletesBeforeTheBound", "",
	},
	{
		"a receipt takes a number for an event", "internal/receipt/waiter.go",
		"		case err == nil && fixed && s.EventID != first.EventID:\n", "		case err == nil && fixed && s.EventID != first.EventID && w == nil:\n",
		"TestWaiterFollowsTheKeyInsteadOfTheEvent", "",
	},
	{
		"a receipt counts what passed before a promotion", "internal/receipt/waiter.go",
		"			first, saw = s, now\n", "			first = s\n",
		"TestTimeBeforeAPromotionCounts", "",
	},
	{
		"a receipt ignores whom it waits for", "internal/receipt/receipt.go",
		"		r.Left = max(r.Left, a.Bound-elapsed)\n", "",
		"TestReceiptCompletesBeforeTheBound|TestWaiterCountsTimeItDidNotSee", "",
	},
	{
		"key sets: an overtaken read inserts", keystore + "keyset_fill.go",
		"	case !registered:\n", "	case false:\n",
		"TestRevokedKeyEntersByASetReadBefore", "",
	},
	{
		"key sets: an event does not overtake the read under way", keystore + "keyset_cache.go",
		"	delete(c.flights, e.OwnerID)\n", "",
		"TestRevokedKeyEntersByASetReadBefore", "",
	},
	{
		"key sets: a read that began before an event is joined", keystore + "keyset_fill.go",
		" && len(f.touched) == 0", "",
		"TestRevokedKeyEntersByASetReadBefore", "",
	},
	{
		"key sets: a read is kept though its key was named", keystore + "keyset_fill.go",
		"if f.keys.holds(keyID) {", "if f.keys.holds(keyID) && s == nil {",
		"TestKeyOfAReadUnderWayIsRevokedUnderAnotherName", "",
	},
	{
		"key sets: an event ends the owner's set only", keystore + "keyset_cache.go",
		"if o.holds(e.KeyID) {", "if false {",
		"TestSetInMemoryOutlivesAChange", "",
	},
	{
		"key sets: one is kept without asking for the cursor", keystore + "keyset_fill.go",
		"f.clean = got.Clean && got.Timeline == m.timeline", "f.clean = true",
		"TestSetFromALostTailStays", "",
	},
	{
		"key sets: the log is not asked for later events", keystore + "postgres_sql.go",
		"FROM later l WHERE l.owner_id = $1", "FROM later l WHERE false AND l.owner_id = $1",
		"TestSourcesReadOwnersDifferently", "",
	},
	{
		"key sets: memory answers without a lease", keystore + "keyset.go",
		"if l := m.lease.Load(); l.covers(now, since) {", "if l := m.lease.Load(); l != nil {",
		"TestSetIsAnsweredAfterItsLease", "",
	},
	{
		"key sets: a read is answered later than L after its question", keystore + "keyset_fill.go",
		"if age >= s.term || (b.HasMaxAge", "if age < 0 || (b.HasMaxAge",
		"TestSetReadAnswersLongAfterItsQuestion", "",
	},
	{
		"key sets: a request stays in a memory that was replaced", keystore + "keyset.go",
		"if s.mem.Load() != m && s.clock.Now().Before(deadline) {", "if false {",
		"TestSetAcrossARewarmEntersTheNewMemory", "",
	},
	{
		"key sets: a void read is answered", keystore + "keyset_fill.go",
		"	if !got.Member {\n", "	if !got.Member && s == nil {\n",
		"TestSetIsReadWithoutTheRightToAsk", "",
	},
	{
		"key sets: one that is too large is cut", keystore + "keyset.go",
		"		o.keys, o.tooLarge, o.bytes = nil, true, 0\n		return false\n	}\n	if row.check", "		return false\n	}\n	if row.check",
		"TestLargeSetIsCut", "",
	},
}
