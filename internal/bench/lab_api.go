package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"roombell/internal/auth"
)

const (
	apiChats    = 100_000
	apiMessages = 2_000_000
	apiUsers    = 20
	apiReaders  = 4  // who ask for lists, each as soon as he has the answer
	apiWriters  = 16 // who write messages: enough that commits are flushed together
	apiSettle   = 10 * time.Minute
)

// api: requests a second over HTTP and their p99, in an organization with a hundred thousand chats and two million messages.
func (l *Lab) api(ctx context.Context) (err error) {
	a := &apiRun{lab: l, chats: l.options.Chats, messages: l.options.Messages}
	if a.chats == 0 {
		a.chats = apiChats
	}
	if a.messages == 0 {
		a.messages = apiMessages
	}
	if err := l.databases.roombell.with(ctx, func(conn *pgx.Conn) error { return a.fill(ctx, conn) }); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	if a.side, err = l.startRoombell(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.side.stop()) }()
	if err := l.databases.roombell.with(ctx, func(conn *pgx.Conn) error { return a.settle(ctx, conn) }); err != nil {
		return fmt.Errorf("wait for the counters: %w", err)
	}
	a.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: apiWriters}}
	defer a.client.CloseIdleConnections()
	if err := a.sign(); err != nil {
		return err
	}
	if err := a.lists(ctx); err != nil {
		return fmt.Errorf("GET /chats: %w", err)
	}
	if err := a.posts(ctx); err != nil {
		return fmt.Errorf("POST message: %w", err)
	}
	return nil
}

// apiRun is the experiment on its way.
type apiRun struct {
	lab             *Lab
	chats, messages int
	organization    organization
	side            *side
	client          *http.Client
	tokens          []string // of the organization's users
}

// fill makes the organization before the server starts, and silently. One chat in fifty has an unread message, one in forty is open.
func (a *apiRun) fill(ctx context.Context, conn *pgx.Conn) error {
	a.lab.progress("api: %d chats, %d messages", a.chats, a.messages)
	made, err := seed(ctx, conn, "bench api", 1, apiUsers, 0)
	if err != nil {
		return err
	}
	a.organization = made[0]
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL roombell.notify = 'off'"); err != nil {
			return err
		}
		a.organization.chats, err = ids(ctx, tx, `INSERT INTO chats (organization_id, name, external_id, status, priority, assigned_user_id, tags)
			SELECT $1, 'customer ' || md5(n::text), '49' || n, CASE n % 40 WHEN 0 THEN 'open' ELSE 'closed' END, CASE n % 100 WHEN 0 THEN 'urgent' ELSE 'normal' END,
				($3::bigint[])[1 + n % $4::int], ARRAY['team-' || n % 7] FROM generate_series(1, $2::int) n RETURNING id`,
			a.organization.id, a.chats, a.organization.users, len(a.organization.users))
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `INSERT INTO messages (organization_id, chat_id, from_me, status, content, is_read_by_operator, timestamp)
			SELECT $1, ($2::bigint[])[1 + n % $3::int], n % 2 = 1, CASE n % 2 WHEN 1 THEN 'sent' ELSE 'received' END, 'message ' || n,
				n > $3::int OR n % 50 <> 0, now() - interval '1 second' * ($4::int - n) FROM generate_series(1, $4::int) n`,
			a.organization.id, a.organization.chats, len(a.organization.chats), a.messages)
		return err
	})
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "VACUUM ANALYZE")
	return err
}

// settle waits until the server has counted what fill wrote behind its back.
func (a *apiRun) settle(ctx context.Context, conn *pgx.Conn) error {
	a.lab.progress("api: the counters of %d chats", a.chats)
	ctx, cancel := context.WithTimeout(ctx, apiSettle)
	defer cancel()
	for counted := -1; ; {
		var now int
		err := conn.QueryRow(ctx, `SELECT count(*) FROM chats WHERE organization_id = $1 AND last_message_at IS NOT NULL`, a.organization.id).Scan(&now)
		if err != nil {
			return err
		}
		if now == counted && now >= min(a.chats, a.messages) {
			_, err := conn.Exec(ctx, "VACUUM ANALYZE chats") // as autovacuum had done by then
			return err
		}
		counted = now
		if err := sleep(ctx, time.Second); err != nil {
			return fmt.Errorf("%d of %d are counted: %w", now, a.chats, err)
		}
	}
}

func (a *apiRun) sign() error {
	for _, user := range a.organization.users {
		token, _, err := a.lab.tokens.Issue(auth.Identity{UserID: user, OrganizationID: a.organization.id}, tokenTTL)
		if err != nil {
			return err
		}
		a.tokens = append(a.tokens, token)
	}
	return nil
}

// apiKind is a way to ask for chats; what it is asked with may differ each time.
type apiKind struct {
	name  string
	query func() string
}

func (a *apiRun) kinds(cursors []string) []apiKind {
	fixed := func(query string) func() string { return func() string { return query } }
	return []apiKind{
		{"first page", fixed("")},
		{"deep page", func() string { return "cursor=" + url.QueryEscape(cursors[rand.IntN(len(cursors))]) }},
		{"status", fixed("status=open")},
		{"priority", fixed("priority=urgent")},
		{"assigned", func() string { return fmt.Sprint("assignedUserId=", a.organization.users[rand.IntN(apiUsers)]) }},
		{"unread", fixed("unread=true")},
		{"q", func() string { return fmt.Sprint("q=49", 1+rand.IntN(a.chats)) }},
		{apiCommon, fixed("q=team+3")},
	}
}

// apiCommon is no part of the turns: a search whose words are in every fourth chat reads them all before it knows which are the newest.
const apiCommon = "q with words of every fourth chat"

// lists measures each way to ask by itself, then the usual ones in turns.
func (a *apiRun) lists(ctx context.Context) error {
	cursors, err := a.cursors(ctx)
	if err != nil {
		return err
	}
	kinds := a.kinds(cursors)
	var single []string
	for _, k := range kinds {
		a.lab.progress("api: GET /chats, %s", k.name)
		r, err := a.drive(ctx, apiReaders, a.lab.window/4, func(ctx context.Context, token string) error { return a.get(ctx, token, k.query(), nil) })
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		single = append(single, fmt.Sprintf("%s %.0f/s %.1f", k.name, r.rate, ms(r.delays.Quantile(0.99))))
	}
	kinds = slices.DeleteFunc(kinds, func(k apiKind) bool { return k.name == apiCommon })
	a.lab.progress("api: GET /chats, in turns")
	r, err := a.drive(ctx, apiReaders, a.lab.window, func(ctx context.Context, token string) error {
		return a.get(ctx, token, kinds[rand.IntN(len(kinds))].query(), nil)
	})
	if err != nil {
		return err
	}
	a.report("GET /chats", apiReaders, r, nil, atMost(20), "rate and p99 by kind: "+strings.Join(single, ", "))
	return nil
}

// posts measures incoming work: messages to random chats.
func (a *apiRun) posts(ctx context.Context) error {
	a.lab.progress("api: POST message")
	post := func(ctx context.Context, token string) error {
		chat := a.organization.chats[rand.IntN(len(a.organization.chats))]
		return a.do(ctx, token, http.MethodPost, fmt.Sprintf("/chats/%d/messages", chat), `{"type":"text","content":"It left our warehouse this morning."}`,
			http.StatusAccepted, nil)
	}
	if _, err := a.drive(ctx, apiWriters, a.lab.window/4, post); err != nil { // statements are prepared, pages are read
		return err
	}
	r, err := a.drive(ctx, apiWriters, a.lab.window, post)
	if err != nil {
		return err
	}
	a.report("POST message", apiWriters, r, atLeast(1000), atMost(50), "")
	return nil
}

func (a *apiRun) report(name string, clients int, r driven, rate, p99 *Target, note string) {
	perSecond, slow := r.rate, ms(r.delays.Quantile(0.99))
	name = fmt.Sprintf("%s, %d chats, %d messages, %d clients", name, a.chats, a.messages, clients)
	a.lab.report.add(Figure{Experiment: "api", Name: name, Unit: "/s", Roombell: &perSecond, Measured: &perSecond, As: "/s", Target: rate})
	a.lab.report.add(Figure{Experiment: "api", Name: name + ", p99", Unit: "ms", Roombell: &slow, Measured: &slow, As: "ms", Target: p99,
		Note: notes(fmt.Sprintf("p50 %.1f, worst %.0f", ms(r.delays.Quantile(0.5)), ms(r.delays.Max())), note)})
}

// driven is what requests took.
type driven struct {
	rate   float64 // a second
	delays Samples
}

// drive lets clients ask one after the other, each with the token of another user, for a time. An answer that is no success ends it.
func (a *apiRun) drive(ctx context.Context, clients int, window time.Duration, ask func(ctx context.Context, token string) error) (driven, error) {
	all := make([]Samples, clients)
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for c := range clients {
		g.Go(func() error {
			for time.Since(start) < window {
				began := time.Now()
				if err := ask(ctx, a.tokens[c%len(a.tokens)]); err != nil {
					return err
				}
				all[c].Add(time.Since(began))
			}
			return nil
		})
	}
	err := g.Wait()
	took := time.Since(start)
	var d driven
	for _, s := range all {
		d.delays = append(d.delays, s...)
	}
	d.delays.Sort()
	d.rate = float64(len(d.delays)) / took.Seconds()
	return d, err
}

// apiList is what the bench reads of a list.
type apiList struct {
	Items      []struct{} `json:"items"`
	NextCursor *string    `json:"nextCursor"`
}

// cursors pages through the list, coarsely: they are the API's own, and nobody else makes them.
func (a *apiRun) cursors(ctx context.Context) ([]string, error) {
	var cursors []string
	for query := "limit=200"; ; {
		var l apiList
		if err := a.get(ctx, a.tokens[0], query, &l); err != nil {
			return nil, err
		}
		if l.NextCursor == nil {
			break
		}
		cursors = append(cursors, *l.NextCursor)
		query = "limit=200&cursor=" + url.QueryEscape(*l.NextCursor)
	}
	if len(cursors) == 0 {
		return nil, errors.New("there is one page only: more chats are needed")
	}
	return cursors, nil
}

func (a *apiRun) get(ctx context.Context, token, query string, into any) error {
	return a.do(ctx, token, http.MethodGet, "/chats?"+query, "", http.StatusOK, into)
}

// do asks, reads the whole answer, and decodes it when into is not nil.
func (a *apiRun) do(ctx context.Context, token, method, path, body string, status int, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+a.side.addr+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != status {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
