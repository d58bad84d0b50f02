/* Absence as an answer: a memory that holds every key answers "unknown" by itself.
 * One key is issued, revoked, deleted and issued again; entries are evicted, and
 * unknown keys remembered for a while. Beside S1 its mirror holds: a request sent
 * later than L after the key was issued is never told that it is unknown or revoked.
 *
 * Steps, ages and flags are as in sidecar.pml: M_ plants a mistake, N and L size it.
 */
#ifndef N
#define N 3
#endif
#ifndef L
#define L 2
#endif
#define NOTHING 0
#define ACTIVE  1
#define REVOKED 2
#define UNKNOWN 3      /* Postgres: no such key; memory: remembered as such */
#define MARK    4      /* memory: changed since, ask Postgres */

byte head; byte truth = UNKNOWN; byte since;      /* since: age of the present truth */
byte mem; bit complete = 1; byte cur; byte lease = L;
byte fence; byte fage; bit fhits; byte fhead;     /* 1 asked, 2 answered, 3 applied */
byte fill; byte flage; byte flres; bit flclean;   /* 1 asked, 2 read */
byte req; bit deny; bit serve; byte rres; byte rage;
bit evicting;                                     /* between the two steps of an eviction */

#define OLDER(x)    if :: x<L -> x++ :: else fi
#define END_FENCE   fence=0; fage=0; fhits=0; fhead=0
#define END_FILL    fill=0; flage=0; flres=0; flclean=0
#define END_REQUEST req=0; deny=0; serve=0; rres=0; rage=0

inline overtake() {
	if
	:: fill!=0 ->
		if :: req==4 && fill==1 -> req=5; rage=flage :: req==4 && fill==2 -> req=6; rres=flres; rage=flage :: else fi;
		END_FILL
	:: else
	fi
}
/* An event of a fence leaves a mark, also for a key that is not here if absence
 * would be an answer; one of a message only for what is here. */
inline apply(fenced) {
	if
#ifdef M_NEGATIVE_KEPT
	:: mem==UNKNOWN -> skip
#endif
#ifdef M_NO_MARK
	:: else -> mem=NOTHING
#else
	:: else -> if :: (fenced && complete) || mem==ACTIVE || mem==REVOKED || mem==MARK -> mem=MARK :: else -> mem=NOTHING fi
#endif
	fi;
#ifdef M_UNKNOWN_NOT_OVERTAKEN
	if :: fill==2 && flres==UNKNOWN :: else -> overtake() fi
#else
	overtake()
#endif
}
inline answer(v) {
	if :: v==ACTIVE -> assert(!deny) :: else -> assert(!serve) fi;
	END_REQUEST
}
#define COMMIT(t) head++; truth=t; since=0; deny=0; serve=0

active proctype World() { do
:: d_step { 1 -> OLDER(lease); OLDER(since); if :: fence -> OLDER(fage) :: else fi; if :: fill -> OLDER(flage) :: else fi; \
	if :: req==5 || req==6 -> OLDER(rage) :: else fi } /*@ tick */
:: d_step { head<N && truth!=ACTIVE -> COMMIT(ACTIVE) } /*@ issued */
:: d_step { head<N && truth==ACTIVE -> COMMIT(REVOKED) } /*@ revoked */
:: d_step { head<N && truth!=UNKNOWN -> COMMIT(UNKNOWN) } /*@ deleted */
:: d_step { 1 -> apply(0) } /*@ message */
:: d_step { fence==0 -> fence=1; fage=0 } /*@ fence asks */
:: d_step { fence==1 -> fhits=(cur<head); fhead=head; fence=2 } /*@ fence reads */
:: d_step { fence==2 -> if :: fhits -> apply(1) :: else fi; fence=3 } /*@ fence applied */
:: d_step { fence==3 -> cur=fhead; lease=fage; END_FENCE } /*@ cursor and lease */
:: d_step { fence!=0 -> END_FENCE } /*@ fence lost */
:: d_step { fill==0 -> fill=1; flage=0; if :: req==3 -> req=4 :: else fi } /*@ fill asks */
:: d_step { fill==1 -> flres=truth; flclean=(cur==head); fill=2 } /*@ fill reads */
:: d_step { fill==2 -> /*@ fill lands; the source without the key leaves absence an answer */
	if :: flclean -> if :: flres==UNKNOWN && complete -> mem=NOTHING :: else -> mem=flres fi :: else fi;
	if :: req==4 -> req=6; rres=flres; rage=flage :: else fi; END_FILL }
:: d_step { fill!=0 -> END_FILL; if :: req==4 -> END_REQUEST :: else fi } /*@ fill failed */
#if defined(M_COMPLETE_KEPT)
:: d_step { mem!=NOTHING -> mem=NOTHING } /*@ evicted, absence still an answer */
#elif defined(M_EVICT_FIRST)
:: d_step { mem!=NOTHING && !evicting -> mem=NOTHING; evicting=1 } /*@ evicted */
:: d_step { evicting -> complete=0; evicting=0 } /*@ then no longer complete */
#elif defined(M_MARK_EVICTED)
:: d_step { mem!=NOTHING -> if :: mem!=MARK -> complete=0 :: else fi; mem=NOTHING } /*@ evicted; a mark is thought nothing */
#else
:: d_step { mem!=NOTHING && !evicting -> complete=0; evicting=1 } /*@ no longer complete */
:: d_step { evicting -> mem=NOTHING; evicting=0 } /*@ then evicted */
#endif
:: d_step { req==0 -> req=1; deny=(truth!=ACTIVE && since>=L); serve=(truth==ACTIVE && since>=L) } /*@ request sent */
#ifdef M_ABSENCE_WITHOUT_LEASE
:: d_step { req==1 && mem==NOTHING && complete -> answer(UNKNOWN) } /*@ absent, the lease not asked */
#endif
:: d_step { req==1 -> req=(lease<L -> 2 : 3) } /*@ request checks the lease */
#ifdef M_MARK_IS_UNKNOWN
:: d_step { req==2 && mem==MARK -> answer(UNKNOWN) } /*@ a mark taken for absence */
#endif
:: d_step { req==2 -> /*@ request reads the entry */
	if :: mem==ACTIVE -> answer(ACTIVE) :: mem==REVOKED || mem==UNKNOWN -> answer(REVOKED) :: mem==NOTHING && complete -> answer(UNKNOWN)
	   :: else -> req=3 fi }
:: d_step { req==3 && fill!=0 -> req=4 } /*@ joins the fill */
:: d_step { req==5 -> rres=truth; req=6 } /*@ overtaken fill reads */
:: d_step { req==6 -> if :: rage<L -> answer(rres) :: else -> END_REQUEST fi } /*@ answers from the fill */
:: d_step { req>=3 -> END_REQUEST } /*@ cannot tell */
od }
