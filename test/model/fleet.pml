/* The registry in full: two processes, each with rows of its own, a relay that
 * prunes, and a waiter. What sidecar.pml has in detail is reduced here to what a
 * receipt depends on: whether a process has applied the one revocation n, its
 * lease, one fence and one fill under way. Once the receipt is complete, no process
 * may be able to answer valid.
 *
 * Without M_ flags this is the protocol; a flag that begins with M_ plants one
 * mistake. The others choose the world:
 *
 *   L=1..2     max_staleness of process 0, and of process 1 too unless:
 *   S=n        process 1 serves stale for n ticks
 *   SILENT     process 1 has fleet.report=false, and max_staleness S (default L)
 *   PROMOTIONS=0..2   promotions, each of which may lose registrations, marks and
 *              deletions that were not acknowledged by a standby
 *   ALONE      process 1 only
 *   NO_FILLS, NO_PRUNING   leave those out
 *
 * A process start makes a row with a new id, and so does a process whose row is
 * gone or marked. Rows are told apart by process and by one bit: a process makes
 * another row only when its row before the last is gone, and a question asked under
 * an id that is used anew finds no row.
 */
#ifndef L
#define L 1
#endif
#ifdef S
#define TOP S
#else
#define TOP L
#endif
#ifndef PROMOTIONS
#define PROMOTIONS 0
#endif
/* How long an answer of process p may live after the question behind it was sent. */
#if defined(S)
#define BOUND(p) (p==1 -> S : L)
#else
#define BOUND(p) L
#endif
#ifdef SILENT
#define REPORTS(p) (p==0)
#else
#define REPORTS(p) 1
#endif
/* Row of process p with id bit i. */
#ifdef M_ROW_PER_NAME
#define ROW(p,i) 0
#else
#define ROW(p,i) (2*(p)+(i))
#endif
#define NOBODY 9

bit n;                      /* the revocation is visible */
byte timeline;

/* rows: 0 absent, 1 present, 2 marked */
byte row[4]; bit ack[4]; byte ackline[4];     /* reported n, under which timeline */
byte marked[4]; bit waits[4];                 /* the relay's own wait against a row */
bit markid[4]; bit waitid[4];                 /* each mark has an id of its own (one bit tells the last two apart) */

/* processes */
bit knows[2]; byte lease[2] = TOP; byte own[2];
byte reg[2];                /* 0 unregistered, 1 asked, 2 committed, 3 acknowledged */
bit id[2];                  /* its present registration */
byte fence[2]; byte fage[2]; byte frow[2]; bit fn[2]; bit fok[2]; bit fack[2]; byte ftl[2];
byte fill[2]; byte flage[2]; byte flrow[2]; bit fln[2];

/* the waiter, the relay's word for the registry */
byte rcp; byte wait; byte waitline;
byte ident; bit seen; byte seenage; byte seenline;

/* settings: the longest lease a silent sidecar may have (0: none may serve), and
 * how long receipts wait for such. The first is lowered by an operator, the second
 * by the relay, after it has waited. */
byte allow; byte grace; bit lowering; byte lowage; bit same;   /* same: it is still the lowering that the relay saw */

#define OLDER(x)   if :: x<TOP -> x++ :: else fi
#define END_FENCE(p) fence[p]=0; fage[p]=0; frow[p]=0; fn[p]=0; fok[p]=0; fack[p]=0; ftl[p]=0
#define END_FILL(p)  fill[p]=0; flage[p]=0; flrow[p]=0; fln[p]=0
#define CLEAR(r)   row[r]=0; ack[r]=0; ackline[r]=0
#define FORGET(r)  waits[r]=0; marked[r]=0; waitid[r]=0

/* May a question asked under row r be answered? */
#ifdef M_MARK_IGNORED
#define PRESENT(r) (row[r]!=0)
#else
#define PRESENT(r) (row[r]==1)
#endif
#ifdef M_SILENT_UNASKED
#define ALLOWED(p) 1
#else
#define ALLOWED(p) (allow>=BOUND(p))
#endif
#define HELD(p,r)  (REPORTS(p) -> ((r)!=NOBODY && PRESENT(((r)==NOBODY -> 0 : (r)))) : ALLOWED(p))
#define HOLDABLE(p) (REPORTS(p) -> reg[p]==3 : 1)

#define PROCESS(p) \
:: d_step { REPORTS(p) && reg[p]==0 && fence[p]==0 && row[ROW(p,1-id[p])]==0 -> \
	id[p]=1-id[p]; reg[p]=1; \
	if :: fill[p]==1 && flrow[p]==ROW(p,id[p]) -> flrow[p]=NOBODY :: else fi } \
:: d_step { reg[p]==1 -> \
	if :: row[ROW(p,id[p])]==0 -> row[ROW(p,id[p])]=1; ack[ROW(p,id[p])]=0; FORGET(ROW(p,id[p])) :: else fi; \
	reg[p]=2 } \
:: d_step { reg[p]==2 -> reg[p]=3 } \
:: d_step { reg[p]==1 || reg[p]==2 -> reg[p]=0 } \
:: d_step { fence[p]==0 && HOLDABLE(p) -> fence[p]=1; fage[p]=0; frow[p]=ROW(p,id[p]) } \
:: d_step { fence[p]==1 -> fok[p]=HELD(p,frow[p]); fn[p]=n; ftl[p]=timeline; \
	fack[p]=(REPORTS(p) && fok[p] && knows[p] && own[p]==timeline); fence[p]=2 } \
:: d_step { fence[p]==2 -> if :: fack[p] && row[frow[p]]!=0 -> ack[frow[p]]=1; ackline[frow[p]]=timeline :: else fi; fack[p]=0; fence[p]=3 } \
:: d_step { fence[p]==3 -> \
	if \
	:: !fok[p] -> reg[p]=0 \
	:: fok[p] && ftl[p]!=own[p] -> own[p]=ftl[p]; knows[p]=fn[p]; lease[p]=TOP; END_FILL(p) \
	:: else -> if :: fn[p] -> knows[p]=1; END_FILL(p) :: else fi; lease[p]=fage[p] \
	fi; END_FENCE(p) } \
:: d_step { fence[p]!=0 -> END_FENCE(p) } \
:: d_step { FILLS && fill[p]==0 && HOLDABLE(p) -> fill[p]=1; flage[p]=0; flrow[p]=ROW(p,id[p]) } \
:: d_step { fill[p]==1 -> if :: HELD(p,flrow[p]) -> fln[p]=n; fill[p]=2 :: else -> END_FILL(p); reg[p]=0 fi } \
:: d_step { fill[p]!=0 -> END_FILL(p) } \
:: d_step { rcp==2 && lease[p]<BOUND(p) && !knows[p] -> assert(0) } \
:: d_step { rcp==2 && fill[p]==2 && flage[p]<LEASE(p) && !fln[p] -> assert(0) }
#ifdef NO_FILLS
#define FILLS 0
#else
#define FILLS 1
#endif
/* A fill obeys L also under serve_stale. */
#if defined(S) && !defined(SILENT)
#define LEASE(p) L
#else
#define LEASE(p) BOUND(p)
#endif

/* How long the relay waits before it deletes a row, and a waiter for everyone. */
#ifdef M_PRUNE_AFTER_L
#define PATIENCE(r) L
#else
#define PATIENCE(r) BOUND((r)/2)
#endif
#ifdef M_DELETE_ANY_MARK
#define SAME_MARK(r) (row[r]==2)
#else
#define SAME_MARK(r) (row[r]==2 && markid[r]==waitid[r])
#endif
#define PRUNING(r) \
:: d_step { row[r]==1 && !waits[r] -> row[r]=2; markid[r]=1-markid[r]; waitid[r]=markid[r]; waits[r]=1; marked[r]=0 } \
:: d_step { OTHER_RELAY && row[r]==1 && waits[r] && marked[r]>0 -> row[r]=2; markid[r]=1-waitid[r] } \
:: d_step { row[r]==2 && !waits[r] -> markid[r]=1-markid[r]; waitid[r]=markid[r]; waits[r]=1; marked[r]=0 } \
:: d_step { waits[r] && marked[r]>=PATIENCE(r) -> if :: SAME_MARK(r) -> CLEAR(r); markid[r]=0 :: else fi; FORGET(r) }
#if PROMOTIONS > 0
#define OTHER_RELAY 1
#else
#define OTHER_RELAY 0
#endif

#ifdef M_LOST_HISTORY_COUNTS
#define ACKED(r) (row[r]==0 || ack[r])
#else
#define ACKED(r) (row[r]==0 || (ack[r] && ackline[r]==timeline))
#endif
#ifdef M_EXPIRES_AFTER_L
#define EXPIRED(r) (wait>=L)
#else
#define EXPIRED(r) (wait>=BOUND((r)/2))
#endif
#ifdef M_ROW_PER_NAME
#define EVERYBODY ((ACKED(0) || EXPIRED(0)) && (ACKED(0) || EXPIRED(0)))
#else
#define EVERYBODY ((ACKED(0)||EXPIRED(0)) && (ACKED(1)||EXPIRED(1)) && (ACKED(2)||EXPIRED(2)) && (ACKED(3)||EXPIRED(3)))
#endif
#ifdef M_SILENT_NOT_AWAITED
#define SILENT_OVER 1
#else
#define SILENT_OVER (wait>=grace)
#endif
#ifdef M_IDENTITY_AT_ONCE
#define VOUCHED 1
#else
#define VOUCHED (ident==timeline)
#endif
#ifdef M_LONGEST_IS_L
#define LONGEST L
#else
#define LONGEST TOP
#endif

active proctype World() {
#ifdef SILENT
	d_step { allow=TOP; grace=TOP }
#endif
do
:: d_step { 1 -> /*@ tick */
	OLDER(lease[0]); OLDER(lease[1]);
	if :: fence[0] -> OLDER(fage[0]) :: else fi; if :: fence[1] -> OLDER(fage[1]) :: else fi;
	if :: fill[0] -> OLDER(flage[0]) :: else fi; if :: fill[1] -> OLDER(flage[1]) :: else fi;
	if :: waits[0] -> OLDER(marked[0]) :: else fi; if :: waits[1] -> OLDER(marked[1]) :: else fi;
	if :: waits[2] -> OLDER(marked[2]) :: else fi; if :: waits[3] -> OLDER(marked[3]) :: else fi;
	if :: rcp==1 -> OLDER(wait) :: else fi; if :: seen -> OLDER(seenage) :: else fi;
	if :: lowering -> OLDER(lowage) :: else fi }
:: d_step { !n -> n=1 } /*@ the revocation commits */
#ifndef ALONE
PROCESS(0)
#endif
PROCESS(1)
#ifndef NO_PRUNING
#ifndef ALONE
PRUNING(0)
#ifndef M_ROW_PER_NAME
PRUNING(1)
#endif
#endif
#if !defined(SILENT) && !defined(M_ROW_PER_NAME)
PRUNING(2)
PRUNING(3)
#endif
#endif
:: d_step { n && rcp==0 -> rcp=1; wait=0; waitline=timeline } /*@ waiter first sees n */
:: d_step { rcp==1 && waitline!=timeline -> wait=0; waitline=timeline } /*@ waiter sees a new timeline, begins anew */
:: d_step { rcp==1 && waitline==timeline && ((VOUCHED && EVERYBODY && SILENT_OVER) || wait>=LONGEST) -> rcp=2; wait=0; waitline=0 } /*@ receipt complete */
#if PROMOTIONS > 0
/* A promotion: of each row, what was not replicated may be lost. An acknowledged
 * revocation is not lost; the registry may be, for sidecars must not wait for it. */
#define LOSE(r) if :: row[r]==1 -> CLEAR(r) :: row[r]==2 -> row[r]=1 :: else fi
:: d_step { timeline<PROMOTIONS -> timeline++ } /*@ promotion, nothing lost */
:: d_step { timeline<PROMOTIONS && row[2]!=0 -> timeline++; LOSE(2) } /*@ promotion, a row of process 1 older */
:: d_step { timeline<PROMOTIONS && row[3]!=0 -> timeline++; LOSE(3) } /*@ promotion, its other row older */
:: d_step { ident!=timeline && (!seen || seenline!=timeline) -> seen=1; seenage=0; seenline=timeline } /*@ relay sees a new timeline */
#ifdef M_IDENTITY_ANY_TIMELINE
:: d_step { seen && seenage>=LONGEST -> ident=timeline; seen=0; seenage=0; seenline=0 } /*@ relay vouches for whatever timeline there is */
#else
:: d_step { seen && seenage>=LONGEST && seenline==timeline -> ident=timeline; seen=0; seenage=0; seenline=0 } /*@ relay vouches for the registry */
#endif
#endif
#ifdef SILENT
/* The operator's setting. Raising takes effect for both at once, lowering for
 * receipts only after the relay has waited the old value. */
:: d_step { allow==TOP -> allow=0; same=0 } /*@ setting lowered */
:: d_step { allow==0 -> allow=TOP; grace=TOP; same=0 } /*@ setting raised */
#ifdef M_LOWERED_AT_ONCE
:: d_step { allow<grace -> grace=allow } /*@ receipts follow at once */
#else
:: d_step { allow<grace && !lowering -> lowering=1; lowage=0; same=1 } /*@ relay sees the lowered setting */
#ifdef M_LOWERED_ANY_VERSION
:: d_step { lowering && lowage>=TOP && allow<grace -> grace=allow; lowering=0; lowage=0; same=0 } /*@ relay lowers for receipts, whichever lowering it is */
#else
:: d_step { lowering && lowage>=TOP && same && allow<grace -> grace=allow; lowering=0; lowage=0; same=0 } /*@ relay lowers for receipts */
:: d_step { lowering && !same -> lowering=0; lowage=0 } /*@ relay sees that the setting changed */
#endif
#endif
#endif
od }
