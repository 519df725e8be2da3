package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/internal/doctor"
	"roombell/internal/eventlog"
)

const (
	checkTimeout = 3 * time.Second
	// Each look sends a NOTIFY and asks the catalogue: strangers who ask for /readyz in a loop get the last answer.
	checkEvery = time.Second
	watchReady = 10 * time.Second
)

// health answers /healthz and /readyz.
type health struct {
	pool     *pgxpool.Pool
	tail     *eventlog.Tail
	log      *slog.Logger
	draining atomic.Bool
	up       chan struct{} // closed when the service is ready for the first time
	first    sync.Once

	mu      sync.Mutex // held while checking: those who ask meanwhile get the same answer
	checked time.Time
	report  report
}

// report is the body of /readyz. A check is "ok" or a sentence that says why not.
type report struct {
	Status string            `json:"status"` // ok, unavailable or draining
	Checks map[string]string `json:"checks"`

	reason  string            // of the first check that keeps the service from being ready
	details map[string]string // for the admin address: the errors behind the sentences
}

const ok = "ok"

func newHealth(pool *pgxpool.Pool, tail *eventlog.Tail, log *slog.Logger) *health {
	return &health{pool: pool, tail: tail, log: log, up: make(chan struct{})}
}

// drain turns /readyz to 503 for good, so that no new clients are sent here.
func (h *health) drain() { h.draining.Store(true) }

func (h *health) register(mux *http.ServeMux, details bool) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": ok})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		status, body := h.ready(r.Context())
		answer := map[string]any{"status": body.Status, "checks": body.Checks}
		if details && len(body.details) > 0 {
			answer["details"] = body.details
		}
		writeJSON(w, status, answer)
	})
}

func (h *health) ready(ctx context.Context) (int, report) {
	if h.draining.Load() {
		return http.StatusServiceUnavailable, report{Status: "draining", Checks: map[string]string{"draining": "this process is stopping"}}
	}
	r := h.check(ctx)
	if r.Status != ok {
		return http.StatusServiceUnavailable, r
	}
	return http.StatusOK, r
}

// check looks at everything, or returns what it found within the last second. It does not end with whoever asks first:
// others wait for the same answer.
func (h *health) check(ctx context.Context) report {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.checked) < checkEvery {
		return h.report
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout)
	defer cancel()
	h.report = h.look(ctx)
	h.checked = time.Now()
	return h.report
}

// look makes those of the doctor's checks that are cheap.
func (h *health) look(ctx context.Context) report {
	r := report{Status: ok, Checks: map[string]string{}, details: map[string]string{}}
	for _, f := range doctor.Ready(ctx, h.pool, h.tail.RoundTrip) {
		r.add(f)
	}
	return r
}

// add notes a finding. A warning is told, and no reason to send clients elsewhere: all nodes have the same database.
func (r *report) add(f doctor.Finding) {
	if f.Err != nil {
		r.details[f.Check] = f.Err.Error()
	}
	if f.Level < doctor.Warning {
		if r.Checks[f.Check] == "" {
			r.Checks[f.Check] = ok
		}
		return
	}
	sentence := f.Title
	if strings.HasPrefix(f.Command, "roombell ") {
		sentence += ": run " + f.Command
	} else if f.Command != "" {
		sentence += ": roombell doctor says how to mend it"
	}
	if before := r.Checks[f.Check]; before != "" && before != ok {
		sentence = before + "; " + sentence
	}
	r.Checks[f.Check] = sentence
	if f.Level == doctor.Broken {
		r.Status = "unavailable"
		if r.reason == "" {
			r.reason = sentence
		}
	}
}

// watch logs when the service becomes ready and when it ceases to be, and a retention that differs from the setting.
func (h *health) watch(ctx context.Context, retention time.Duration) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last, told := "", false
	for {
		r := h.check(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if why := r.reason; why != last || !told {
			h.tell(why, r)
			last, told = why, true
			if why == "" {
				h.compareRetention(ctx, retention)
				h.first.Do(func() { close(h.up) })
			}
		}
		timer.Reset(watchReady)
		if last != "" {
			timer.Reset(checkEvery)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
}

func (h *health) tell(why string, r report) {
	if why == "" {
		h.log.Info("ready")
		return
	}
	h.log.Warn("not ready", "reason", why, "err", r.details)
}

// compareRetention reports a setting that the database does not follow: migrate would write it there.
func (h *health) compareRetention(ctx context.Context, retention time.Duration) {
	var seconds float64
	err := h.pool.QueryRow(ctx, `SELECT extract(epoch FROM retention)::float8 FROM roombell_settings`).Scan(&seconds)
	if err != nil {
		h.log.Warn("the retention in the database cannot be read", "err", err)
		return
	}
	if there := time.Duration(seconds * float64(time.Second)); there != retention {
		h.log.Warn("the database keeps events for another time than ROOMBELL_RETENTION says; roombell migrate up with that setting changes it",
			"database", there, "setting", retention)
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // whoever asked may have left
}
