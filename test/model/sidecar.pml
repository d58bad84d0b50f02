/* One sidecar in full: capture, queue, fence, lease, fill, warm; and, with
 * RECEIPTS, its registration, its reports, pruning and one waiter for a receipt.
 *
 * Without M_ flags this is the protocol. A flag that begins with M_ plants one
 * mistake (a mutant). The other flags choose how much of the world a run has:
 *
 *   N=1..3     events a history may hold          L=1..3   max_staleness in ticks
 *   S=n        serve_stale with this stale_limit
 *   PAGES      a fence may be answered by a full page of one event
 *   FAILOVER   one promotion, which may lose the unacknowledged tail
 *   REWRITE    the same, without a new timeline (a log rewritten in place)
 *   WARM       warms, also of a healthy sidecar
 *   BESIDE     warms run beside the fences, not between them
 *   MODES      a request may ask for no-cache or max-age=1
 *   RECEIPTS   the registry and a waiter
 *   LOSSY      with FAILOVER: a promotion may also lose the registration or its mark
 *   NO_FILLS, NO_MESSAGES, NO_EVICTION, NO_PRUNING   leave that out, so that a mutant
 *              which does not need it is found sooner
 *
 * The world is one process with guarded commands. Each is one indivisible step of
 * some goroutine, of Postgres, of the broker or of time, and any may come next: so
 * each part may stop for any time between any two of its steps. One key is
 * watched; what happens to other keys appears as OTHER events, which only count.
 *
 * Time is kept as ages, in ticks, which stop growing at the longest bound that
 * anything compares them with. So a run may take for ever in a finite search.
 */
#ifndef N
#define N 2
#endif
#ifndef L
#define L 2
#endif
#ifdef S
#define TOP S                 /* the longest an answer may live: max(L, stale_limit) */
#else
#define TOP L
#endif
#ifdef REWRITE
#define FAILOVER
#endif

/* What a key is, and what memory says of it. NOTHING: not in memory, or marked. */
#define NOTHING 0
#define ACTIVE  1
#define REVOKED 2
/* Kinds of events. */
#define REVOKE 1
#define ISSUE  2
#define OTHER  3

/* ------------------------------ Postgres ------------------------------------ */
byte head;            /* number of the newest event; 0 is the genesis event */
byte acked;           /* newest event whose commit was acknowledged */
byte kind[4];         /* kind[i]: event i */
bit  line[4];         /* line[i]: which history wrote event i (stands for its event_id) */
bit  timeline;        /* Postgres's own */
bit  promoted;
byte truth = ACTIVE;  /* the key at head */
byte since;           /* age of its present revocation, from when it was visible */

#define TOUCHES(i)   (kind[i]==REVOKE || kind[i]==ISSUE)
#define AFTER(c)     (((c)<1 && TOUCHES(1)) || ((c)<2 && TOUCHES(2)) || ((c)<3 && TOUCHES(3)))
#define BETWEEN(c,h) (((c)<1 && (h)>=1 && TOUCHES(1)) || ((c)<2 && (h)>=2 && TOUCHES(2)) || ((c)<3 && (h)>=3 && TOUCHES(3)))
#define HOLDS(s,l)   ((s)<=head && line[s]==(l))
#define LAST_REVOKE  (kind[3]==REVOKE -> 3 : (kind[2]==REVOKE -> 2 : (kind[1]==REVOKE -> 1 : 0)))

/* ------------------------------- the sidecar -------------------------------- */
byte mem = ACTIVE;    /* memory's entry of the key */
byte cur; bit curl;   /* the cursor: number and history */
bit  own;             /* the timeline its memory was warmed under */
bit  over;            /* its history is over: nothing but a warm helps */
byte lease = TOP;     /* age of the question behind the lease; L and more: none */

/* The fence under way: 0 none, 1 asked, 4 read but its report not yet written,
 * 2 answered, 3 events applied, cursor and lease not yet. */
byte fence; byte fage;
byte fhead; bit fline; bit ftl;   /* what its snapshot held: last event of the page, timeline */
bit  fknown; bit fhits; bit ffull; bit freg; bit frep;
bit  fnew;                        /* asked after the no-cache request arrived */

/* The fill under way: 0 none, 1 asked, 2 read, 3 landed but not inserted: lingers. */
byte fill; byte flage; byte flres; bit flclean;
bit  flpoison; bit flghost;       /* mutants only; an event was applied meanwhile (ghost for S3) */
bit  flnew;

/* The warm under way: 0 none, 1 asked, 2 read. */
byte warm; byte whead; bit wline; bit wtl; byte wres;

/* The watched request: 0 none, 1 arrived, 2 lease checked, 3 needs a fill,
 * 4 waits for the shared fill, 5 and 6 waits for, has, an answer of a fill that
 * nobody can join any more, 7 no fill: stale?, 8 lease checked in a memory that
 * was replaced since. */
byte req; byte rres; byte rage; byte rmode;
bit  leasenew;                    /* the lease's question came after this request */
bit  deny;                        /* S1 forbids a valid answer */
bit  receipted;                   /* a receipt forbids one */

/* --------------------- registry, pruning, the waiter ------------------------ */
byte row;             /* in Postgres: 0 absent, 1 present, 2 marked */
byte rep; bit reptl;  /* the reported cursor, and the timeline it was reported under */
byte markage;         /* since the relay marked */
bit  waiting;         /* the relay holds a mark of its own against the row */
byte reg;             /* the sidecar: 0 unregistered, 1 asked, 2 committed, 3 acknowledged */
byte rcp;             /* the waiter: 0 none, 1 waits, 2 complete */
byte want; bit wanttl; byte wait;  /* for which event, since when, first seen under which timeline */
bit  ident;           /* the timeline that settings state for the registry */
bit  seen; byte seenage;          /* the relay has seen another one, that long ago */
byte h;               /* scratch */

#define OLDER(x)     if :: x<TOP -> x++ :: else fi
#define END_FENCE    fence=0; fage=0; fhead=0; fline=0; ftl=0; fknown=0; fhits=0; ffull=0; freg=0; frep=0; fnew=0
#define END_FILL     fill=0; flage=0; flres=0; flclean=0; flpoison=0; flghost=0; flnew=0
#define END_WARM     warm=0; whead=0; wline=0; wtl=0; wres=0
#define END_REQUEST  req=0; rres=0; rage=0; rmode=0; deny=0; receipted=0; leasenew=0; fnew=0; flnew=0

/* Nobody may join the fill any more, nor may it insert; who joined keeps it. */
inline overtake() {
#if defined(M_NO_POISON) || defined(M_NO_POISON_S1)
	skip
#elif defined(M_JOIN_AFTER_EVENT)
	if :: fill!=0 -> flpoison=1 :: else fi
#else
	if
	:: fill!=0 ->
		if
		:: req==4 && fill==1 -> req=5; rage=flage; if :: rmode==2 && !flnew -> req=7 :: else fi
		:: req==4 && fill>=2 -> req=6; rres=flres; rage=flage
		:: else
		fi;
		END_FILL
	:: else
	fi
#endif
}
inline apply() {
	mem=NOTHING;
	#ifndef M_NO_POISON_S1
	if :: fill!=0 && fill!=3 -> flghost=1 :: else fi;
#endif
	overtake()
}
inline valid() {
	assert(!deny);          /* S1 */
	assert(!receipted);     /* a receipt keeps its word */
	END_REQUEST
}

#ifdef RECEIPTS
#define REGISTERED (reg==3)
#define MARKED_OUT (row!=1)
#else
#define REGISTERED 1
#define MARKED_OUT 0
#endif
#ifdef M_FENCE_BEFORE_REGISTRATION
#define MAY_FENCE 1
#define FENCE_HELD (PRESENT || reg!=3)   /* it has no id to ask for */
#else
#define MAY_FENCE REGISTERED
#define FENCE_HELD PRESENT
#endif
#ifdef M_FILL_BEFORE_REGISTRATION
#define MAY_FILL 1
#define FILL_VOID (row!=1 && reg==3)
#else
#define MAY_FILL REGISTERED
#define FILL_VOID MARKED_OUT
#endif
/* Is the very row there, and unmarked? */
#if defined(M_MARK_IGNORED)
#define PRESENT (row!=0)
#else
#define PRESENT (row==1)
#endif
/* One goroutine fences and warms, unless the run says otherwise. */
#if defined(BESIDE) || defined(M_WARM_BESIDE)
#define NO_WARM 1
#define NO_FENCE 1
#else
#define NO_WARM (warm==0)
#define NO_FENCE (fence==0)
#endif
#ifdef M_IDENTITY_IGNORED
#define RECOGNISED(s,l) ((s)<=head)
#else
#define RECOGNISED(s,l) HOLDS(s,l)
#endif

/* The snapshot of the fence's statement. h: the last event of its page. */
inline snapshot() {
	fknown=RECOGNISED(cur,curl); fhits=BETWEEN(cur,h); fhead=h; fline=line[h]; ftl=timeline; h=0;
#ifdef RECEIPTS
	freg=FENCE_HELD;
#ifdef M_REPORT_UNRECOGNISED
	frep=PRESENT;
#else
	frep=(PRESENT && HOLDS(cur,curl) && own==timeline);
#endif
#else
	freg=1;
#endif
	fence=4
}
/* The same statement's write: visible a little after the snapshot. */
inline report() {
#ifdef M_NO_REGISTRATION_ID
	freg=(row==1);          /* any row of that name will do */
#endif
#ifdef M_UPSERT
	if :: row==0 -> row=1; rep=0; freg=1; frep=1 :: else fi;
#endif
	if
	:: frep && row!=0 ->
#ifdef M_REPORT_HEAD
		rep=fhead;
#else
		rep=cur;
#endif
#ifdef M_PRUNE_ONE_STEP
		waiting=0; markage=0;
#endif
		reptl=timeline
	:: else
	fi;
	frep=0; fence=2
}
inline end_memory() {
	over=1; lease=TOP; leasenew=0
}
inline grant() {
#ifndef M_CURSOR_FIRST
	cur=fhead; curl=fline;
#endif
	if
#ifndef M_FULL_PAGE_RENEWS
	:: ffull -> skip
#endif
	:: else ->
#ifdef M_LEASE_AT_ARRIVAL
		lease=0;
#else
		lease=fage;
#endif
		leasenew=fnew
	fi;
	END_FENCE;
	if :: fill==3 -> overtake() :: else fi    /* what lingers ends with the round */
}
/* A new memory takes the old one's place, with its cursor and without a lease. A
 * look-up that has checked the old lease goes on in the old memory. */
inline adopt() {
	if :: req==2 && mem==ACTIVE -> req=8 :: req==2 && mem==REVOKED -> END_REQUEST :: req==2 && mem==NOTHING -> req=3 :: else fi;
	mem=wres; cur=whead; curl=wline; own=wtl; over=0;
#ifndef M_WARM_BESIDE
	END_FENCE;
	lease=TOP; leasenew=0;
#endif
#ifndef M_WARM_KEEPS_FILLS
	overtake();
#endif
	END_WARM
}

active proctype World() {
do
/* ------------------------------ time ---------------------------------------- */
:: d_step { 1 -> /*@ tick */
	OLDER(lease);
	if :: truth==REVOKED -> OLDER(since) :: else fi;
	if :: fence!=0 -> OLDER(fage) :: else fi;
	if :: fill!=0 -> OLDER(flage) :: else fi;
	if :: req==5 || req==6 -> OLDER(rage) :: else fi;
#ifdef RECEIPTS
	if :: rcp==1 -> OLDER(wait) :: else fi;
	if :: waiting -> OLDER(markage) :: else fi;
	if :: seen -> OLDER(seenage) :: else fi
#endif
   }
/* ------------------------------ commits ------------------------------------- */
:: d_step { head<N && truth==ACTIVE -> /*@ the key is revoked */
	head++; kind[head]=REVOKE; line[head]=promoted; truth=REVOKED; since=0 }
:: d_step { head<N && truth==REVOKED -> /*@ the key is issued again */
	head++; kind[head]=ISSUE; line[head]=promoted; truth=ACTIVE; since=0; deny=0; receipted=0;
	if :: rcp==2 -> rcp=0; want=0; wanttl=0 :: else fi }
:: d_step { head<N -> /*@ another key changes */
	head++; kind[head]=OTHER; line[head]=promoted }
#ifdef FAILOVER
:: d_step { acked<head && !promoted -> acked=head } /*@ commits are acknowledged */
#ifdef REWRITE
#define NEW_TIMELINE skip
#else
#define NEW_TIMELINE timeline=1
#endif
#define PROMOTE(to) d_step { !promoted && (to)<=head && acked<=(to) -> \
	promoted=1; NEW_TIMELINE; acked=0; \
	do :: head>(to) -> kind[head]=0; line[head]=0; head-- :: else -> break od; \
	h=truth; truth=(TOUCHES(3) -> (kind[3]==REVOKE -> REVOKED : ACTIVE) : (TOUCHES(2) -> (kind[2]==REVOKE -> REVOKED : ACTIVE) : \
		(TOUCHES(1) -> (kind[1]==REVOKE -> REVOKED : ACTIVE) : ACTIVE))); \
	if :: truth==ACTIVE -> deny=0; receipted=0; since=0 :: truth==REVOKED && h==ACTIVE -> since=0 :: else fi; h=0; \
	if :: rcp!=0 && kind[want]!=REVOKE -> rcp=0; want=0; wait=0; wanttl=0; receipted=0 :: else fi; \
	if :: fence==4 -> END_FENCE :: else fi }
:: PROMOTE(0) /*@ a standby with no event is promoted */
#if N > 1
:: PROMOTE(1) /*@ a standby with 1 event is promoted */
#endif
#if N > 2
:: PROMOTE(2) /*@ a standby with 2 events is promoted */
#endif
#ifdef LOSSY
/* What the registry lost, it lost by the promotion: no step comes between. */
#define PROMOTE_LOSSY(to) d_step { !promoted && (to)<=head && acked<=(to) && row!=0 -> \
	row=(row==2 -> 1 : 0); if :: row==0 -> rep=0; reptl=0 :: else fi; \
	promoted=1; NEW_TIMELINE; acked=0; \
	do :: head>(to) -> kind[head]=0; line[head]=0; head-- :: else -> break od; \
	h=truth; truth=(TOUCHES(3) -> (kind[3]==REVOKE -> REVOKED : ACTIVE) : (TOUCHES(2) -> (kind[2]==REVOKE -> REVOKED : ACTIVE) : \
		(TOUCHES(1) -> (kind[1]==REVOKE -> REVOKED : ACTIVE) : ACTIVE))); \
	if :: truth==ACTIVE -> deny=0; receipted=0; since=0 :: truth==REVOKED && h==ACTIVE -> since=0 :: else fi; h=0; \
	if :: rcp!=0 && kind[want]!=REVOKE -> rcp=0; want=0; wait=0; wanttl=0; receipted=0 :: else fi; \
	if :: fence==4 -> END_FENCE :: else fi }
:: PROMOTE_LOSSY(0) /*@ a standby with no event and an older registry is promoted */
#if N > 1
:: PROMOTE_LOSSY(1) /*@ a standby with 1 event and an older registry is promoted */
#endif
#endif
#endif
/* ------------------------------ the queue ----------------------------------- */
/* A message may name any key at any time: genuine, repeated, late or forged makes
 * no difference, for all it can do is to leave a mark. A lost one does nothing. */
#ifndef NO_MESSAGES
:: d_step { 1 -> apply() } /*@ message for the key */
#endif
#ifdef M_MESSAGE_MOVES_CURSOR
:: d_step { cur<head -> cur++; curl=line[cur] } /*@ forged message, a real number and another key, moves the cursor */
#endif
#ifdef M_MESSAGE_RENEWS
:: d_step { 1 -> lease=0 } /*@ message for another key renews the lease */
#endif
/* ------------------------------ fences -------------------------------------- */
:: d_step { fence==0 && !over && NO_WARM && MAY_FENCE -> fence=1; fage=0; fnew=(rmode==2) } /*@ fence asks (t0) */
:: d_step { fence==1 -> h=head; snapshot() } /*@ fence reads to the head */
#ifdef PAGES
:: d_step { fence==1 && cur<head -> h=cur+1; ffull=1; snapshot() } /*@ fence reads a full page */
#endif
:: d_step { fence==4 -> report() } /*@ fence's report commits, fence answered */
:: d_step { fence!=0 -> END_FENCE } /*@ fence lost, or its application cut short */
:: d_step { fence==2 -> /*@ fence's events applied */
	if
#ifndef M_VOID_RENEWS
	:: !freg -> reg=0; END_FENCE                 /* void: register anew first */
#endif
	:: else ->
		if
		:: !fknown -> end_memory(); END_FENCE
#ifdef M_TIMELINE_IGNORED
		:: fknown && ftl!=own -> own=ftl; END_FENCE
#else
		:: fknown && ftl!=own -> end_memory(); END_FENCE
#endif
		:: else ->
#if defined(M_CURSOR_FIRST)
			cur=fhead; curl=fline;
#elif defined(M_LEASE_FIRST)
			lease=fage;
#else
			if :: fhits -> apply() :: else fi;
#endif
			fence=3
		fi
	fi }
:: d_step { fence==3 -> /*@ fence moves the cursor, grants the lease */
#if defined(M_CURSOR_FIRST) || defined(M_LEASE_FIRST)
	if :: fhits -> apply() :: else fi;
#endif
	grant() }
/* ------------------------------ the shared fill ----------------------------- */
#ifndef NO_FILLS
:: d_step { fill==0 && MAY_FILL -> /*@ fill asks (t1) */
	fill=1; flage=0; flnew=(rmode==2); if :: req==3 -> req=4 :: else fi }
:: d_step { fill==1 -> /*@ fill reads */
	if
	:: FILL_VOID -> reg=0; END_FILL; if :: req==4 -> req=7 :: else fi
	:: else ->
#ifdef M_FILL_WITHOUT_CURSOR
		flclean=1;
#else
		flclean=(RECOGNISED(cur,curl) && !AFTER(cur) && own==timeline);
#endif
		flres=truth; fill=2
	fi }
:: d_step { fill==2 -> /*@ fill lands */
	if
	:: flclean && !flpoison -> assert(!flghost) /* S3 */; mem=flres;
		if :: req==4 -> req=6; rres=flres; rage=flage :: else fi; END_FILL
	:: else -> fill=3; if :: req==4 -> req=6; rres=flres; rage=flage :: else fi
	fi }
:: d_step { fill==3 -> END_FILL } /*@ lingering fill swept */
:: d_step { fill==1 || fill==2 -> END_FILL; if :: req==4 -> req=7 :: else fi } /*@ fill failed */
#endif
#ifndef NO_EVICTION
:: d_step { mem!=NOTHING -> mem=NOTHING } /*@ evicted */
#endif
/* ------------------------------ warm ---------------------------------------- */
#ifdef WARM
:: d_step { warm==0 && NO_FENCE -> warm=1 } /*@ warm begins */
:: d_step { warm==1 -> whead=head; wline=line[head]; wtl=timeline; wres=truth; warm=2 } /*@ warm reads */
:: d_step { warm==2 -> adopt() } /*@ warm adopted */
:: d_step { warm!=0 -> END_WARM } /*@ warm failed */
#endif
/* ------------------------------ the watched request ------------------------- */
:: d_step { req==0 -> req=1; deny=(truth==REVOKED && since>=TOP); receipted=(rcp==2) } /*@ request sent */
#ifdef MODES
:: d_step { req==0 -> req=1; rmode=1; deny=(truth==REVOKED && since>=1); receipted=(rcp==2) } /*@ request max-age=1 sent */
:: d_step { req==0 -> req=1; rmode=2; deny=(truth==REVOKED); receipted=(rcp==2) } /*@ request no-cache sent */
#endif
#if defined(M_MAX_AGE_EXTENDS)
#define LIMIT (rmode==1 -> L+1 : L)
#else
#define LIMIT (rmode==1 -> 1 : L)
#endif
#ifdef M_NO_CACHE_JOINS
#define JOINABLE 1
#else
#define JOINABLE (rmode!=2 || flnew)
#endif
#if defined(M_NO_LEASE_CHECK)
#define COVERED 1
#else
#define COVERED (lease<LIMIT && (rmode!=2 || leasenew))
#endif
#ifdef M_ENTRY_BEFORE_LEASE
:: d_step { req==1 -> rres=mem; req=2 } /*@ request reads the entry */
:: d_step { req==2 -> /*@ request checks the lease, answers */
	if :: COVERED && rres==ACTIVE -> valid() :: COVERED && rres==REVOKED -> END_REQUEST :: else -> req=3; rres=0 fi }
#else
:: d_step { req==1 -> req=(COVERED -> 2 : 3) } /*@ request checks the lease */
:: d_step { req==2 -> /*@ request reads the entry, answers */
	if :: mem==ACTIVE -> valid() :: mem==REVOKED -> END_REQUEST :: else -> req=3 fi }
#endif
:: d_step { req==8 -> valid() } /*@ request reads the entry of the replaced memory, answers */
:: d_step { req==3 && (fill==1 || fill==2) && JOINABLE -> req=4 } /*@ request joins the fill */
:: d_step { req==3 && fill==3 && JOINABLE -> req=6; rres=flres; rage=flage } /*@ request joins the lingering fill */
:: d_step { req==5 -> /*@ overtaken fill reads */
	if :: FILL_VOID -> reg=0; req=7; rage=0 :: else -> rres=truth; req=6 fi }
#ifdef M_FILL_OLDER_THAN_L
#define YOUNG 1
#else
#define YOUNG (rage<LIMIT)
#endif
:: d_step { req==6 -> if :: rres==ACTIVE && YOUNG -> valid() :: else -> END_REQUEST fi } /*@ request has the fill's answer, answers */
:: d_step { req==3 || req==5 || req==6 -> req=7; rres=0; rage=0 } /*@ request waits in vain */
#ifdef S
:: d_step { req==7 -> if :: mem==ACTIVE && lease<S && !over && rmode==0 -> valid() :: else -> END_REQUEST fi } /*@ request answered stale, or not at all */
#else
:: d_step { req==7 -> END_REQUEST } /*@ request: cannot tell */
#endif
/* ------------------------------ registry ------------------------------------ */
#ifdef RECEIPTS
#ifdef M_NO_REGISTRATION_ID
#define OLD_QUESTIONS skip
#else
/* What was asked under the old id and not read yet finds no row of that id. */
#define OLD_QUESTIONS if :: fence==1 -> END_FENCE :: fence==4 -> frep=0 :: else fi; \
	if :: fill==1 -> END_FILL; if :: req==4 -> req=7 :: else fi :: else fi; if :: req==5 -> req=7; rage=0 :: else fi
#endif
:: d_step { reg==0 && row==0 -> reg=1; OLD_QUESTIONS } /*@ registration sent */
:: d_step { reg==1 -> row=1; rep=0; reptl=0; reg=2; waiting=0; markage=0 } /*@ registration commits */
:: d_step { reg==2 -> reg=3 } /*@ registration acknowledged */
:: d_step { reg==1 || reg==2 -> reg=0 } /*@ registration lost, or its answer */
#ifdef M_SIGN_OFF_EARLY
:: d_step { reg==3 -> row=0; rep=0; reptl=0; waiting=0; markage=0; reg=0 } /*@ signs off, still answering */
#else
:: d_step { reg==3 && req==0 -> /*@ signs off; a new process starts */
	lease=TOP; mem=NOTHING; END_FENCE; END_FILL; END_WARM; row=0; rep=0; reptl=0; waiting=0; markage=0; reg=0; over=1 }
#endif
#ifdef NO_PRUNING
#elif defined(M_PRUNE_ONE_STEP)
:: d_step { row!=0 && !waiting -> waiting=1; markage=0 } /*@ relay sees a row, and no report of it from now on */
:: d_step { waiting && markage>=TOP && row!=0 -> row=0; rep=0; reptl=0; waiting=0; markage=0 } /*@ relay deletes the row */
#else
:: d_step { row==1 && !waiting -> row=2; waiting=1; markage=0 } /*@ relay marks the row */
#ifdef M_PRUNE_AFTER_L
#define PRUNABLE (markage>=L)
#else
#define PRUNABLE (markage>=TOP)
#endif
#ifdef M_PRUNE_UNASKED
:: d_step { waiting && PRUNABLE -> row=0; rep=0; reptl=0; waiting=0; markage=0 } /*@ relay deletes the row, marked or not */
#else
:: d_step { waiting && PRUNABLE -> if :: row==2 -> row=0; rep=0; reptl=0 :: else fi; waiting=0; markage=0 } /*@ relay deletes the row if marked */
#endif
#endif
/* ------------------------------ after a promotion --------------------------- */
#ifdef FAILOVER
:: d_step { ident!=timeline && !seen -> seen=1; seenage=0 } /*@ relay sees a new timeline */
:: d_step { seen && seenage>=TOP -> ident=timeline; seen=0; seenage=0 } /*@ relay vouches for the registry again */
#endif
#ifdef M_IDENTITY_AT_ONCE
#define VOUCHED 1
#else
#define VOUCHED (ident==timeline)
#endif
/* ------------------------------ the waiter ---------------------------------- */
#ifdef M_REPORT_OF_LOST_HISTORY
#define REPORTED (rep>=want)
#else
#define REPORTED (rep>=want && reptl==timeline)
#endif
#ifdef M_WAITER_WAITS_L
#define LONGEST L
#else
#define LONGEST TOP
#endif
#ifdef M_WAITER_KEEPS_COUNTING
#define SAME_TIMELINE 1
#else
#define SAME_TIMELINE (wanttl==timeline)
#endif
:: d_step { rcp==0 && truth==REVOKED -> rcp=1; want=LAST_REVOKE; wanttl=timeline; wait=0 } /*@ waiter first sees the revocation */
:: d_step { rcp==1 && truth==ACTIVE -> rcp=0; want=0; wanttl=0; wait=0 } /*@ waiter: superseded */
:: d_step { rcp==1 && !SAME_TIMELINE -> wanttl=timeline; wait=0; want=LAST_REVOKE } /*@ waiter sees a new timeline, begins anew */
:: d_step { rcp==1 && truth==REVOKED && LAST_REVOKE==want && SAME_TIMELINE && /*@ receipt complete */
	((VOUCHED && (row==0 || REPORTED)) || wait>=LONGEST) -> rcp=2; wait=0; wanttl=0 }
#endif
od }

#ifdef S5
/* If Postgres holds the cursor and nothing later about the key, memory tells the truth. */
active proctype Gap_free() {
	atomic { (fence!=3 && HOLDS(cur,curl) && own==timeline && !over && !AFTER(cur) && mem!=NOTHING && mem!=truth) -> assert(0) }
}
#endif
