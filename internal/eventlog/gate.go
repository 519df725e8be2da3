package eventlog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"roombell/internal/eventlog/internal/fault"
)

// The advisory locks are (7461, 0), the gate, and (7461, 1), held by the ringer for its connection's life.
const (
	lockGate    = `SELECT pg_try_advisory_lock(7461, 0)`
	unlockGate  = `SELECT pg_advisory_unlock(7461, 0)`
	tryToLead   = `SELECT pg_try_advisory_lock(7461, 1)`
	ring        = `SELECT pg_notify('roombell', '')`
	fenceLeader = `
		SELECT count(pg_terminate_backend(l.pid)) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.classid = 7461 AND l.objid = 1 AND l.objsubid = 2 AND l.granted
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND (a.state = 'idle' OR a.wait_event = 'ClientWrite') AND a.state_change < clock_timestamp() - $1::double precision * interval '1 second'`
)

const (
	// followerSafety is how long a follower hears nothing before it reads, and how often it tries to become the ringer.
	followerSafety = 250 * time.Millisecond
	// armedSafety is the same for the sleeping ringer; writers that do not ring (two-phase commit, a full queue) are found by it.
	armedSafety = time.Second
	// A ringer that has sent nothing for silentRinger while events came that nobody rang for, or for deadRinger in any case, is frozen or its host
	// is gone; or it was stopped in the middle of an answer, and its backend waits for it to take the rest (ClientWrite). Asleep it sends a
	// read each second; while it holds the gate every writer rings, which is right but slow.
	silentRinger = 500 * time.Millisecond
	deadRinger   = 3 * time.Second
	// straysFor is how long the sleeping ringer reads as often as a follower after it found something that nobody rang for.
	straysFor = 5 * time.Second

	// pollEvery is the awake ringer's pace; quietPoll and idlePoll are it where nothing comes, but a silent writer is still open.
	pollEvery = 4 * time.Millisecond
	quietPoll = 10 * time.Millisecond
	idlePoll  = 25 * time.Millisecond
	quietFor  = time.Second
	idleFor   = 10 * time.Second

	// The ringer looks every window at how many transactions came. Up to 150 a second ringing costs writers little and is heard at once; over
	// 250 a second they would queue for the commit lock. Between, it stays as it is: traffic of 100 to 200 a second must not flap.
	window     = 100 * time.Millisecond
	armBelow   = 15
	disarmOver = 25
)

func (s *session) setRole(ringer, armed bool) {
	s.ringer, s.armed = ringer, armed
	s.t.setStatus(func(st *Status) { st.Ringer, st.Armed = ringer, armed })
	boolGauge(s.t.metrics.ringer, ringer)
	boolGauge(s.t.metrics.armed, armed)
	if !ringer {
		s.t.metrics.overdue.Set(0) // the ringer's to say
	}
}

// follow reads when somebody rings, and tries to become the ringer. When nobody has rung for a while it reads all the same: a ringer that
// stands still must not make us deaf.
func (s *session) follow(ctx context.Context) error {
	tried, looked, strays := time.Time{}, time.Now(), 0
	for {
		rung := s.rung
		w, err := s.listen(ctx, s.nextSafety(tried))
		if err != nil {
			return err
		}
		mode := readMode{cause: w.cause(), gap: time.Since(s.lastRead) > gapAfter, lead: time.Since(tried) >= followerSafety}
		f, err := s.follower(ctx, w, mode)
		switch {
		case err != nil:
			return err
		case f.leader:
			return s.lead(ctx)
		case mode.lead:
			tried = time.Now()
		}
		if strays++; w != wakeTime || s.rung != rung || f.events == 0 {
			strays = 0
		}
		if strays < 2 && time.Since(looked) < deadRinger {
			continue
		}
		ended, err := s.watch(ctx, strays)
		if err != nil {
			return err
		}
		if looked, strays = time.Now(), 0; ended {
			tried = time.Time{}
		}
	}
}

// watch looks after the ringer: reads of ours that found what nobody had rung for make it suspicious.
func (s *session) watch(ctx context.Context, strays int) (bool, error) {
	if strays >= 2 {
		return s.fence(ctx, silentRinger)
	}
	return s.fence(ctx, deadRinger)
}

func (s *session) nextSafety(tried time.Time) time.Time {
	if s.t.omit == fault.Ring() || tried.IsZero() {
		return tried.Add(followerSafety)
	}
	return s.lastRead.Add(followerSafety)
}

// follower does one read of a follower; the ringer's lock is tried in the same round trip.
func (s *session) follower(ctx context.Context, w wake, mode readMode) (found, error) {
	if s.t.omit == fault.Ring() && w == wakeTime {
		leader, err := s.ask(ctx, tryToLead)
		return found{leader: leader}, err
	}
	return s.steady(s.read(ctx, mode))
}

// steady turns a position that retention has passed into an error: the next connection starts afresh.
func (s *session) steady(f found, err error) (found, error) {
	if err == nil && f.tooOld {
		err = errTooOld
	}
	return f, err
}

func (w wake) cause() string {
	switch w {
	case wakeBell:
		return causeNotify
	case wakeCall:
		return causeRequest
	}
	return causeSafety
}

// fence ends the ringer's connection, and with it its locks, when it has sent nothing for that long.
func (s *session) fence(ctx context.Context, idle time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	var ended int
	err := s.conn.QueryRow(ctx, fenceLeader, idle.Seconds()).Scan(&ended)
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused): // another role's: we go on reading for ourselves
		s.t.metrics.errors.WithLabelValues(errorSession).Inc()
		s.t.log.Warn("a ringer that stands still cannot be ended", "err", err)
		return false, nil
	case err != nil:
		return false, fmt.Errorf("end a silent ringer: %w", err)
	}
	if ended > 0 {
		s.t.metrics.fenced.Add(float64(ended))
		s.t.log.Warn("ended the connection of a ringer that stood still", "idle", idle)
	}
	return ended > 0, nil
}

// lead is the ringer's life.
func (s *session) lead(ctx context.Context) error {
	s.setRole(true, false)
	s.t.metrics.takeOvers.Inc()
	s.t.log.Info("this node rings")
	// Nobody rang since the last ringer ended: read, and ring whatever was found.
	if _, err := s.steady(s.read(ctx, readMode{cause: causeResume})); err != nil {
		return err
	}
	if err := s.exec(ctx, ring); err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	for first := true; ; first = false {
		if err := s.awake(ctx, first); err != nil {
			return err
		}
		if err := s.asleep(ctx); err != nil {
			return err
		}
	}
}

// awake reads every few milliseconds and rings for the others, until it could arm the gate.
func (s *session) awake(ctx context.Context, armAtOnce bool) error {
	began, busy := time.Now(), time.Now()
	if armAtOnce {
		began = began.Add(-window)
	}
	transactions := 0
	for {
		if now := time.Now(); now.Sub(began) >= window {
			if transactions < armBelow {
				armed, err := s.arm(ctx)
				if err != nil || armed {
					return err
				}
			}
			began, transactions = now, 0
			if err := s.cleanUp(ctx); err != nil {
				return err
			}
		}
		w, err := s.sleep(ctx, pace(time.Since(busy)))
		if err != nil {
			return err
		}
		f, err := s.poll(ctx, w)
		if err != nil {
			return err
		}
		if transactions += f.transactions; f.events > 0 {
			busy = time.Now()
		}
	}
}

// pace is how long the awake ringer sleeps when nothing has come for a time.
func pace(quiet time.Duration) time.Duration {
	switch {
	case quiet > idleFor:
		return idlePoll
	case quiet > quietFor:
		return quietPoll
	}
	return pollEvery
}

// poll is a read of the ringer that has to ring for what it finds.
func (s *session) poll(ctx context.Context, w wake) (found, error) {
	mode := readMode{cause: causePoll, ring: s.t.omit != fault.Ring(), gap: time.Since(s.lastRead) > gapAfter}
	if w == wakeCall {
		mode.cause = causeRequest
	}
	return s.steady(s.read(ctx, mode))
}

// arm takes the gate if no silent writer is open. Those that were have committed before we got it, so one more read finds them; those that
// come will ring.
func (s *session) arm(ctx context.Context) (bool, error) {
	armed, err := s.ask(ctx, lockGate)
	if err != nil {
		return false, fmt.Errorf("arm the gate: %w", err)
	}
	if !armed {
		return false, nil
	}
	s.setRole(true, true)
	s.t.metrics.arms.Inc()
	_, err = s.poll(ctx, wakeTime)
	return err == nil, err
}

// asleep reads when a writer rings, who rang for everybody, until many do; then it opens the gate.
func (s *session) asleep(ctx context.Context) error {
	began, transactions := time.Now(), 0
	safety, stray := armedSafety, time.Time{}
	for {
		w, err := s.listen(ctx, s.lastRead.Add(safety))
		if err != nil {
			return err
		}
		now := time.Now()
		if now.Sub(began) > window {
			began, transactions = now, 0
		}
		f, err := s.steady(s.read(ctx, readMode{cause: w.cause(), ring: w == wakeTime && s.t.omit != fault.Ring(), gap: now.Sub(s.lastRead) > gapAfter}))
		if err != nil {
			return err
		}
		if w == wakeTime && f.events > 0 {
			stray = now
		}
		safety = armedSafety
		if !stray.IsZero() && now.Sub(stray) < straysFor {
			safety = followerSafety
		}
		if transactions += f.transactions; transactions > disarmOver {
			return s.disarm(ctx)
		}
		if err := s.cleanUp(ctx); err != nil {
			return err
		}
	}
}

func (s *session) disarm(ctx context.Context) error {
	if err := s.exec(ctx, unlockGate); err != nil {
		return fmt.Errorf("open the gate: %w", err)
	}
	s.setRole(true, false)
	return nil
}
