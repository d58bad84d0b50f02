/* What comes back by itself. Each part is a process of its own here, so that weak
 * fairness means that none of them stops for ever. The faults: fences are lost, the
 * history ends, the row is marked and pruned. They stop at a moment of the search's
 * choosing (healed), or never. After it the network answers within the lease and
 * the next question is asked at once: otherwise time could run past every lease.
 *
 *   returns     once healed, the lease is there again and again
 *   settles     once healed, a revocation is in the end known, for ever
 *   completes   a receipt that is waited for completes, faults or none
 *   by_report   once healed, it completes by reports alone (with ONLY_REPORTS)
 *
 * M_ plants a mistake: NO_WARM (an ended history is not warmed again), NO_REGISTER
 * (a void fence does not lead to a new registration), NO_SECOND_FENCE (a fence that
 * moved the cursor is not followed by one that reports it), NO_FENCE_RETRY (one lost
 * fence is the last), ENDLESS_WAIT (the waiter counts on reports alone).
 */
#ifndef L
#define L 3
#endif
bit healed; bit n;                 /* n: the revocation is committed */
bit mem = 1; bit knows;            /* memory holds the key as active; n is applied */
byte lease = L; byte fence; byte fage; bit fn; bit fok; bit stop;
bit over; byte row = 1; bit ack; byte markage; byte rcp; byte wait;

#define OLDER(x) if :: x<L -> x++ :: else fi
active proctype Time() { do
	:: d_step { !(healed && fence!=0 && fage>=L-1) && !(healed && fence==0) ->
		OLDER(lease); if :: fence -> OLDER(fage) :: else fi; if :: rcp==1 -> OLDER(wait) :: else fi; if :: row==2 -> OLDER(markage) :: else fi }
	:: d_step { healed && fence==0 && (over || row!=1 || stop) ->       /* nothing is asked: time goes on */
		OLDER(lease); if :: rcp==1 -> OLDER(wait) :: else fi; if :: row==2 -> OLDER(markage) :: else fi }
	od }
active proctype Faults() { do
	:: d_step { !healed && fence!=0 -> fence=0; fage=0
#ifdef M_NO_FENCE_RETRY
	; stop=1
#endif
	   }
	:: d_step { !healed -> over=1; lease=L }
	:: d_step { !healed && row==1 -> row=2; markage=0 }
	:: d_step { !healed && row==2 && markage>=L -> row=0; ack=0 }
	:: d_step { healed==0 -> healed=1 } -> break
	od }
active proctype Revoker() { d_step { !n -> n=1 } }
active proctype Fencer() { do
	:: d_step { fence==0 && !over && row==1 && !stop -> fence=1; fage=0 }
	:: d_step { fence==1 -> fn=n; fok=(row==1);
#ifdef M_NO_SECOND_FENCE
		skip;
#else
		if :: fok && knows -> ack=1 :: else fi;
#endif
		fence=2 }
	:: d_step { fence==2 -> if :: fok -> if :: fn && !knows -> mem=0; knows=1 :: else fi; lease=fage :: else fi; fence=0; fage=0; fn=0; fok=0 }
#ifndef M_NO_WARM
	:: d_step { over && fence==0 -> mem=!n; knows=n; over=0; lease=L }
#endif
#ifndef M_NO_REGISTER
	:: d_step { row!=1 && fence==0 -> row=1; ack=0; markage=0 }
#endif
	od }
active proctype Waiter() {
	d_step { n -> rcp=1 };
#if defined(ONLY_REPORTS) || defined(M_ENDLESS_WAIT)
	d_step { ack && row==1 -> rcp=2 }
#else
	d_step { (ack && row==1) || wait>=L -> rcp=2 }
#endif
}
#define fresh (lease<L)
ltl returns { [] (healed -> <> fresh) }
ltl settles { [] ((healed && n) -> <> [] (mem==0 && knows)) }
ltl completes { <> (rcp==2) }
ltl by_report { [] (healed -> <> (rcp==2)) }
