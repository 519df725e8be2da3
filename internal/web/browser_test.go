package web_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a Chromium with one page.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu     sync.Mutex
	thrown []string
}

// openBrowser opens a page in a browser that knows nothing and asks nobody, until the test ends.
func openBrowser(t *testing.T, page string) *browser {
	t.Helper()
	options := []chromedp.ExecAllocatorOption{
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WSURLReadTimeout(limit), // a busy machine starts it slowly
	}
	if path := os.Getenv("CHROMIUM"); path != "" {
		options = append(options, chromedp.ExecPath(path))
	}
	allocator, end := chromedp.NewExecAllocator(t.Context(), options...)
	ctx, closePage := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		closePage()
		end()
	})
	b := &browser{t: t, ctx: ctx}
	chromedp.ListenTarget(ctx, func(event any) {
		if e, ok := event.(*runtime.EventExceptionThrown); ok {
			b.mu.Lock()
			b.thrown = append(b.thrown, e.ExceptionDetails.Error())
			b.mu.Unlock()
		}
	})
	if err := chromedp.Run(ctx, chromedp.Navigate(page)); err != nil {
		t.Fatal("Chromium (.ci/setup chromium installs it): ", err)
	}
	return b
}

// texts are those of the elements that a selector finds.
func (b *browser) texts(selector string) []string {
	ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
	defer cancel()
	var texts []string
	script := fmt.Sprintf(`[...document.querySelectorAll(%q)].map(e => e.textContent)`, selector)
	if err := chromedp.Run(ctx, chromedp.Evaluate(script, &texts)); err != nil {
		return []string{err.Error()}
	}
	return texts
}

func (b *browser) messages() []string { return b.texts("#messages li") }

// await waits until the page's status has that text.
func (b *browser) await(text string) {
	b.t.Helper()
	eventually(b.t, func() error {
		status := strings.Join(b.texts("#status"), "")
		if !strings.Contains(status, text) {
			return fmt.Errorf("the status is %q, not %q; thrown: %q", status, text, b.complaints())
		}
		return nil
	})
}

// complaints are the exceptions that nobody caught.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.thrown...)
}
