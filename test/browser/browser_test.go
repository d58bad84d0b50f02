package browser

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// startBrowser runs Chromium until the test ends. It speaks to nobody but the pages.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium()), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true),
	)
	allocated, end := chromedp.NewExecAllocator(context.Background(), options...)
	browser, closeBrowser := chromedp.NewContext(allocated)
	t.Cleanup(func() {
		closeBrowser()
		end()
	})
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("start chromium (make deps installs it): %v", err)
	}
	return browser
}

// chromium is the browser's name: Debian's, or that of its sister.
func chromium() string {
	if _, err := exec.LookPath("chromium"); err != nil {
		return "google-chrome"
	}
	return "chromium"
}

// tab is one page that is open, and everything that the browser complained of.
type tab struct {
	t   *testing.T
	ctx context.Context
	url string

	mu         sync.Mutex
	complaints []string
	// deaf: the server is gone on purpose, and the browser says so.
	deaf bool
}

// open opens a page in a window of a width, in light or dark.
func open(t *testing.T, browser context.Context, url string, width int64, scheme string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	p := &tab{t: t, ctx: ctx, url: url}
	// This makes the tab, which lives as long as the context it is made with. The console
	// is heard from then on.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		t.Fatal(err)
	}
	call(p, audits.Enable, cdp.Empty{})
	p.resize(width)
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	p.do(chromedp.Navigate(url))
	return p
}

func (p *tab) resize(width int64) {
	p.t.Helper()
	call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: 800, DeviceScaleFactor: 1, Mobile: width < 600})
}

func (p *tab) close() { _ = chromedp.Cancel(p.ctx) }

// hear notes what the browser complains of.
func (p *tab) hear(ev any) {
	complaint := ""
	switch e := ev.(type) {
	case *runtime.EventConsoleAPICalled:
		switch e.Type {
		case runtime.ConsoleAPICalledTypeError, runtime.ConsoleAPICalledTypeWarning, runtime.ConsoleAPICalledTypeAssert:
			for _, arg := range e.Args {
				complaint += " " + string(arg.Value) + arg.Description
			}
		}
	case *runtime.EventExceptionThrown:
		complaint = e.ExceptionDetails.Text
	case *log.EventEntryAdded:
		complaint = fmt.Sprintf("%s: %s", e.Entry.Level, e.Entry.Text)
	case *audits.EventIssueAdded:
		complaint = string(e.Issue.Code)
		if d := e.Issue.Details; d != nil && d.ContentSecurityPolicyIssueDetails != nil {
			complaint += ": " + d.ContentSecurityPolicyIssueDetails.ViolatedDirective
		}
	}
	if complaint == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.deaf {
		p.complaints = append(p.complaints, complaint)
	}
}

// content fails the test if the browser had anything to complain of.
func (p *tab) content() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.complaints {
		p.t.Errorf("%s: the browser complains: %s", p.url, c)
	}
	p.complaints = nil
}

func (p *tab) ignoreFromNow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
}

// do has the browser do something.
func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("%s: %v", p.url, err)
	}
}

// call sends one command of the protocol.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	if _, err := chromedp.Call(ctx, command, params); err != nil {
		p.t.Fatalf("%s: %v", p.url, err)
	}
}

// get returns what the browser knows.
func get[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		p.t.Fatalf("%s: %v", p.url, err)
	}
	return v
}

// eval returns the value of an expression in the page.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	return get(p, chromedp.Evaluate[T](expression))
}

// until waits until the text of the element id contains want, without loading the page
// again by hand.
func (p *tab) until(id, want string) {
	p.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		have := strings.Join(strings.Fields(eval[string](p, fmt.Sprintf("document.getElementById(%q).textContent", id))), " ")
		if strings.Contains(have, want) {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s: #%s never says %q; it says: %s", p.url, id, want, have)
		}
		<-tick.C
	}
}

// fits fails the test if the page is wider than its window, or if a part of it is cut.
func (p *tab) fits() {
	p.t.Helper()
	if over := eval[float64](p, "document.documentElement.scrollWidth - window.innerWidth"); over > 0 {
		widest := eval[string](p, `[...document.querySelectorAll("main *")].filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.tagName + "." + e.className + "#" + e.id).slice(0, 5).join(" ")`)
		p.t.Errorf("%s: %v px wider than its window: %s", p.url, over, widest)
	}
}
