package app

import "testing"

func TestTheProcessDoesNotTellItsVersionAndItsMemoryLimit(t *testing.T) {
	reg, err := newRegistry(Build{Version: "1.2.3", Revision: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	have := make(map[string]float64)
	for _, f := range families {
		have[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
	}
	if have["keysidecar_build_info"] != 1 {
		t.Error("the version is not told")
	}
	limit, _ := cgroupLimit(ownCgroup, cgroupRoot)
	if v, ok := have["keysidecar_memory_limit_bytes"]; !ok || v != float64(limit) {
		t.Errorf("the memory limit is told as %v, not %v", v, limit)
	}
}
