package keystore

import (
	"syscall"
	"time"
)

// changeTime is when the file's content, owner or mode last changed.
func changeTime(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }
