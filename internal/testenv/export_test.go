package testenv

// ProcessesIn returns the processes that work in dir.
func ProcessesIn(dir string) []int {
	pids, err := (&workspace{dir: dir}).pids()
	if err != nil {
		panic(err)
	}
	return pids
}
