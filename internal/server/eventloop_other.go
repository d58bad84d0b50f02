//go:build !linux

package server

// eventLoop is made of epoll, which only Linux has; elsewhere each connection keeps its
// goroutine.
type eventLoop struct {
	in, copy []byte
	answered []*conn
}

func newEventLoop() (*eventLoop, error) { return nil, nil } //nolint:nilnil // there is none

func (*eventLoop) run() error      { return nil }
func (*eventLoop) add(*conn) error { return nil }
func (*eventLoop) remove(*conn)    {}
func (*eventLoop) end()            {}
func (*eventLoop) close()          {}
