// Resume as the contract's section 3 promises it to a standard client. The house is resume_wire_test.go's: SUITE says which.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { Client, chat, control, organization, sql } from "./client.js";

const kinds = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };
// An engine.io-client whose WebSocket ends in the middle of its upgrade notices by the ping alone, after 45 s.
const patience = 90_000;

// Keeper is a client with the contract's three lines. It writes down all it hears; verify reads that.
class Keeper extends Client {
  cursor;
  sent; // the cursor of the latest handshake
  journal = [];
  ids = new Set();

  constructor(t, user, { cursor, transports = kinds.websocket } = {}) {
    // A client whose connection ends before the engine's first packet notices by its own time-out alone, 20 s by default.
    super(t, (answer) => answer({ token: user.token, cursor: (this.sent = this.cursor) }), { transports, timeout: 2000 });
    this.user = user;
    this.cursor = cursor;
    this.socket.onAny((name, body) => {
      this.journal.push({ name, body, sent: this.sent });
      if (body?.eventId) this.ids.add(body.eventId);
      if (body?.cursor) this.cursor = body.cursor;
      for (const look of [...this.waiting]) look();
    });
  }

  static async live(t, user, options) {
    const keeper = new Keeper(t, user, options);
    keeper.began = (await keeper.next("connected")).cursor;
    return keeper;
  }

  // fleet is one of each transport.
  static fleet(t, user) {
    return Promise.all(Object.values(kinds).map((transports) => Keeper.live(t, user, { transports })));
  }

  // next is the first that fits, as Client's, with more patience.
  async next(name, fits) {
    let found;
    await this.until(() => (found = this.take(name, fits)), () => name);
    return found.body;
  }

  // until waits for something to be true of what was heard.
  until(ok, what) {
    return new Promise((resolve, reject) => {
      const look = () => {
        if (!ok()) return;
        this.waiting.splice(this.waiting.indexOf(look), 1);
        clearTimeout(timer);
        resolve();
      };
      const timer = setTimeout(() => reject(new Error(`never: ${what()}; heard last: ${this.last()}; ${JSON.stringify(this.heard.slice(-8)).slice(0, 1000)}`)), patience);
      this.waiting.push(look);
      look();
    });
  }

  last() {
    return this.journal.slice(-8).map(({ name, body }) => `${name} ${JSON.stringify(body).slice(0, 200)}`).join(", ");
  }

  // around is what was heard before each time of an event, for whoever has to find out why it came twice.
  around(id) {
    const short = ({ name, body, sent }) => [name, body.eventId, name === "message:new" ? undefined : body.cursor, name === "connected" ? sent : undefined].join(" ");
    return this.journal.flatMap((e, i) => (e.body?.eventId === id ? this.journal.slice(Math.max(0, i - 6), i + 1).map(short) : [])).join("\n");
  }

  contents(from = 0) {
    return this.journal.slice(from).filter(({ name }) => name === "message:new").map(({ body }) => body.content);
  }

  // exact waits until the log has nothing that is missing here, and finds nothing twice or out of order.
  async exact(began = this.began) {
    const due = await unseen(this.user, began);
    const lost = () => due.filter((id) => !this.ids.has(id));
    await this.until(() => lost().length === 0, () => `LOST ${lost().length} of ${due.length}: ${lost().slice(0, 5)}`);
    this.verify();
    return due.length;
  }

  // verify reads the journal: what comes after each connect, LOST 0 and DUP 0 between connected and sync:complete, ORDER 0.
  verify() {
    const heard = new Set();
    const newest = new Map();
    let replayed, reset;
    for (const { name, body, sent } of this.journal) {
      if (name === "connected") {
        assert.equal(body.resumed && !sent, false, "resumed without a cursor");
        if (body.resumed) assert.equal(body.cursor, sent, "a resume does not move the cursor");
        [replayed, reset] = body.resumed ? [0, false] : [undefined, Boolean(sent)];
      } else if (name === "sync:reset") {
        reset = false;
      } else if (name === "sync:complete") {
        assert.equal(body.replayed, replayed, "sync:complete counts what was replayed");
        assert.equal(typeof body.cursor, "string");
        replayed = undefined;
      }
      if (!body?.eventId) continue;
      assert.equal(reset, false, `${name} before sync:reset`);
      assert.ok(!heard.has(body.eventId), `DUP ${name} ${body.eventId}: ${this.around(body.eventId)}`);
      heard.add(body.eventId);
      if (replayed !== undefined) replayed++;
      if (name !== "message:new") continue;
      assert.ok(body.id > (newest.get(body.chatId) ?? 0), `ORDER message ${body.id} after ${newest.get(body.chatId)}`);
      newest.set(body.chatId, body.id);
    }
    assert.equal(replayed, undefined, "a replay has its sync:complete");
  }

  // resumed waits until this client is back after having been away, and returns what was replayed.
  async resumed() {
    const connected = await this.next("connected");
    assert.equal(connected.resumed, true, JSON.stringify(connected));
    return (await this.next("sync:complete")).replayed;
  }
}

// unseen asks the log for the ids of what the user has yet to be given after a position.
function unseen(user, cursor) {
  const ask = () => control("/unseen", JSON.stringify({ cursor, user: user.id, organizationId: user.organizationId }));
  return ask().catch(ask); // a connection that a crash has killed fails once
}

const write = (chatId, content) => sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, ${content})`;

async function writeAll(chatId, ...contents) {
  for (const content of contents) await write(chatId, content);
}

const numbered = (word, n) => Array.from({ length: n }, (_, i) => `${word} ${i}`);

// An event that is no row's: no counter follows it, so that what a client misses can be counted.
const announce = (user, i) => sql`SELECT broadcast_to_organization(${user.organizationId}, 'news', ${JSON.stringify({ i })})`;

// writing inserts messages all the time, one after the other, until it is stopped. Where the database goes away it tries again.
function writing(chatId) {
  let going = true, n = 0;
  const done = (async () => {
    for (; going; await pause(5)) {
      await write(chatId, `${n++}`).catch(() => pause(20));
    }
  })();
  return { stop: () => ((going = false), done) };
}

async function house(...roles) {
  const { id, users } = await organization("employee", ...roles);
  return { users, user: users[0], chatId: await chat(id), organizationId: id };
}

// outage has everybody miss messages while something happens behind a cable that is cut, and come back to them.
async function outage(t, happens, fleet = Keeper.fleet) {
  const { user, chatId } = await house();
  const keepers = await fleet(t, user);
  for (let round = 0; round < 2; round++) {
    const say = (word) => `${word} ${round}`;
    await write(chatId, say("before"));
    for (const k of keepers) await k.next("message:new", (m) => m.content === say("before"));
    await control("/hold");
    for (const k of keepers) await k.next("disconnect");
    const from = keepers.map((k) => k.journal.length);
    await happens(round, () => writeAll(chatId, ...numbered(say("missed"), 12)));
    for (const [i, k] of keepers.entries()) {
      assert.ok((await k.resumed()) >= 12);
      assert.deepEqual(k.contents(from[i]), numbered(say("missed"), 12));
    }
    await write(chatId, say("after"));
    for (const k of keepers) await k.next("message:new", (m) => m.content === say("after"));
  }
  for (const k of keepers) assert.ok((await k.exact()) >= 28);
}

// storm has something happen again and again while messages are written.
async function storm(t, happens) {
  const { user, chatId } = await house();
  const keepers = await Keeper.fleet(t, user);
  const writer = writing(chatId);
  for (let round = 0; round < 4; round++) {
    for (const k of keepers) k.heard = [];
    await happens(round, keepers);
    for (const k of keepers) {
      await k.resumed();
      const heard = k.ids.size;
      await k.until(() => k.ids.size > heard + 10, () => "10 more events");
    }
  }
  await writer.stop();
  for (const k of keepers) assert.ok((await k.exact()) > 40);
}

// cut cuts the cable so that everybody notices: between two polls there is nothing to be cut.
async function cut(keepers) {
  await control("/hold");
  for (const k of keepers) await k.next("disconnect");
  await control("/route?node=a");
}

const suites = {
  outages() {
    test("network loss", (t) => outage(t, async (_, missed) => {
      await missed();
      await control("/route?node=a");
    }));
    test("a server that stops and starts again", (t) => outage(t, async (_, missed) => {
      await control("/stop?node=a");
      await missed();
      await control("/start?node=a");
    }));
    test("a server that is killed", (t) => outage(t, async (_, missed) => {
      await control("/kill?node=a");
      await missed();
      await control("/start?node=a");
    }));
    test("another node", (t) => outage(t, async (round, missed) => {
      await missed();
      await control(round === 0 ? "/start?node=b" : "/route?node=a");
    }));
    test("cuts while messages are written", (t) => storm(t, (_, keepers) => cut(keepers)));
    test("kills while messages are written", (t) => storm(t, async () => {
      await control("/kill?node=a");
      await control("/start?node=a");
    }));
    test("from node to node while messages are written", (t) => storm(t, async (round) => {
      await control(round % 2 === 0 ? "/route?node=b" : "/route?node=a");
      await control("/cut");
    }));
  },

  splice() {
    for (const [name, transports] of Object.entries(kinds)) {
      test(`a new client hears everything from connected on, over ${name}`, async (t) => {
        const { user, chatId } = await house();
        const writer = writing(chatId);
        const keepers = await Promise.all(Array.from({ length: 15 }, async (_, i) => {
          await pause(i * 13);
          return Keeper.live(t, user, { transports, cursor: i % 2 ? "" : undefined });
        }));
        for (const k of keepers) await k.until(() => k.ids.size > 30, () => "30 events");
        await writer.stop();
        for (const k of keepers) {
          await k.exact();
          assert.equal(k.take("sync:reset") ?? k.take("sync:complete"), undefined);
        }
      });

      test(`nothing is missed or doubled around subscribe:chat, over ${name}`, async (t) => {
        const { user, chatId, organizationId } = await house();
        const secret = await chat(organizationId, true);
        await sql`INSERT INTO chat_members (chat_id, user_id) VALUES (${secret}, ${user.id})`;
        const keeper = await Keeper.live(t, user, { transports });
        const writers = [writing(chatId), writing(secret)];
        for (let i = 0; i < 8; i++) {
          for (const id of [chatId, secret]) {
            assert.equal((await keeper.ask(i % 2 ? "unsubscribe:chat" : "subscribe:chat", id)).ok, true);
            await keeper.next("message:new", (m) => m.chatId === id);
          }
        }
        for (const w of writers) await w.stop();
        assert.ok((await keeper.exact()) > 16);
      });

      test(`a cut at every byte range of a replay, over ${name}`, async (t) => {
        const { user, chatId } = await house();
        const first = await Keeper.live(t, user);
        await writeAll(chatId, ...numbered("missed", 30));
        await first.exact();
        first.socket.disconnect();
        const writer = writing(chatId);
        let cut = 0;
        for (let bytes = 120; bytes < 24_000; bytes = Math.ceil(bytes * 1.1)) {
          await control(`/cut-after?bytes=${bytes}`);
          const keeper = new Keeper(t, user, { cursor: first.began, transports });
          await keeper.next("sync:complete");
          await keeper.exact(first.began);
          if (keeper.take("disconnect")) cut++;
          keeper.socket.disconnect();
        }
        await writer.stop();
        assert.ok(cut > 10, `only ${cut} were cut after they had connected`);
      });
    }

    test("a cut after every packet of a replay", async (t) => {
      const { user, chatId } = await house();
      const first = await Keeper.live(t, user);
      await writeAll(chatId, ...numbered("missed", 30));
      const missed = await first.exact();
      first.socket.disconnect();
      const writer = writing(chatId);
      for (let n = 0; n <= missed + 4; n++) {
        const dead = new Keeper(t, user, { cursor: first.began });
        await dies(dead, n);
        const heir = new Keeper(t, user, { cursor: dead.cursor });
        heir.journal = dead.journal;
        heir.ids = dead.ids;
        await heir.next("sync:complete");
        await heir.exact(first.began);
        heir.socket.disconnect();
      }
      await writer.stop();
    });

    test("a client that does not read for seconds is not cut from its replay", async (t) => {
      const { user, chatId } = await house();
      const keeper = await Keeper.live(t, user);
      await control("/hold");
      await keeper.next("disconnect");
      await sql`INSERT INTO messages (chat_id, content) SELECT ${chatId}, repeat('x', 200000) || i FROM generate_series(1, 150) i`;
      await control("/route?node=a");
      await keeper.next("message:new");
      const { ws } = keeper.socket.io.engine.transport;
      ws.pause();
      await writeAll(chatId, ...numbered("live", 5));
      await pause(6000);
      assert.ok(keeper.ids.size < 150, "the replay fits into the sockets' buffers: it proves nothing");
      ws.resume();
      await keeper.exact();
      assert.equal(keeper.take("disconnect"), undefined);
      assert.deepEqual(keeper.contents().slice(150), numbered("live", 5));
    });

    test("nobody sees more by a cursor than by his rights of today", async (t) => {
      const { user, users: [, other], chatId, organizationId } = await house("employee");
      const [lost, gained, closed, kept, foreign] = await Promise.all(Array.from({ length: 5 }, () => chat(organizationId, true)));
      for (const id of [lost, kept]) await sql`INSERT INTO chat_members (chat_id, user_id) VALUES (${id}, ${user.id})`;
      const keeper = await Keeper.live(t, user);
      await control("/hold");
      await keeper.next("disconnect");
      const from = keeper.journal.length;

      for (const id of [lost, gained, closed, kept, foreign, chatId]) await write(id, `early in ${id}`);
      await sql`DELETE FROM chat_members WHERE chat_id = ${lost}`;
      await sql`INSERT INTO chat_members (chat_id, user_id) VALUES (${gained}, ${user.id})`;
      await sql`UPDATE chats SET restricted = true WHERE id = ${chatId}`;
      await sql`UPDATE chats SET restricted = false WHERE id = ${closed}`;
      for (const id of [lost, gained, closed, kept, foreign, chatId]) await write(id, `late in ${id}`);
      for (const id of [kept, foreign]) await sql`DELETE FROM chats WHERE id = ${id}`;
      for (const who of [user, other]) await sql`SELECT notify_user(${who.id}, 'personal', ${JSON.stringify({ who: who.id })})`;
      await control("/route?node=a");
      await keeper.resumed();

      const replayed = keeper.journal.slice(from);
      const about = (name, chatId) => replayed.filter((e) => e.name === name && (e.body.chatId ?? e.body.id) === chatId).map((e) => e.body);
      for (const id of [lost, foreign, chatId]) assert.deepEqual(about("message:new", id), []);
      for (const id of [gained, closed, kept]) {
        assert.deepEqual(about("message:new", id).map((m) => m.content), [`early in ${id}`, `late in ${id}`]);
      }
      for (const id of [lost, chatId]) assert.equal(about("chat:deleted", id)[0]?.reason, "access");
      for (const id of [gained, closed]) assert.equal(about("chat:new", id).length, 1);
      assert.equal(about("chat:deleted", kept).length, 1);
      for (const name of ["chat:new", "chat:updated", "chat:deleted"]) assert.deepEqual(about(name, foreign), []);
      assert.deepEqual(replayed.filter((e) => e.name === "personal").map((e) => e.body.who), [user.id]);
      keeper.verify();
    });

    test("a truncate that was missed is told in its place", async (t) => {
      const { user, chatId } = await house();
      const keepers = await Keeper.fleet(t, user);
      await control("/hold");
      for (const k of keepers) await k.next("disconnect");
      await announce(user, 1);
      await sql`TRUNCATE messages`;
      await announce(user, 2);
      await control("/route?node=a");
      for (const k of keepers) {
        await k.resumed();
        const told = k.journal.map(({ name, body }) => (name === "news" ? body.i : name === "sync:reset" ? body.reason : undefined));
        assert.deepEqual(told.filter((what) => what !== undefined), [1, "truncate", 2]);
        k.verify();
      }
      const reset = keepers[0].journal.find(({ name }) => name === "sync:reset").body.cursor;
      const later = new Keeper(t, user, { cursor: reset });
      await later.resumed();
      assert.deepEqual(later.journal.filter(({ name }) => name === "news").map(({ body }) => body.i), [2]);
      await write(chatId, "live");
      await later.next("message:new", (m) => m.content === "live");
    });
  },

  cursors() {
    const strangers = {
      garbage: () => "nonsense",
      "not base64": () => "ä\u0000!",
      "over 2 KB": (own) => own + "A".repeat(2049),
      "cut off": (own) => own.slice(0, -4),
      number: () => 42,
      object: () => ({ cursor: "x" }),
      "another cluster's": (own) => forged(own, { system: 1 }),
      "ahead by its id": (own) => forged(own, { sequence: 1n << 40n }),
      "ahead by its place in the WAL": (own) => forged(own, { lsn: 1n << 50n }),
    };
    for (const [name, make] of Object.entries(strangers)) {
      test(`sync:reset for a cursor that is unknown: ${name}`, async (t) => {
        const { user, chatId } = await house();
        const { began } = await Keeper.live(t, user);
        await write(chatId, "missed");
        const keeper = new Keeper(t, user, { cursor: make(began) });
        assert.equal((await keeper.next("connected")).resumed, false);
        const reset = await keeper.next("sync:reset");
        assert.equal(reset.reason, "unknown_cursor");
        await write(chatId, "live");
        await keeper.next("message:new", (m) => m.content === "live");
        assert.deepEqual(keeper.contents(), ["live"]);
        assert.equal(keeper.take("sync:complete"), undefined);
        await keeper.exact(reset.cursor);
        const heir = new Keeper(t, user, { cursor: reset.cursor });
        await heir.resumed();
        assert.deepEqual(heir.contents(), ["live"]);
      });
    }

    for (const none of [undefined, null, ""]) {
      test(`a cursor that is ${JSON.stringify(none)} is none`, async (t) => {
        const { user } = await house();
        const keeper = await Keeper.live(t, user, { cursor: none });
        await keeper.silent(user, "sync:reset");
        assert.equal(keeper.take("sync:complete"), undefined);
        assert.equal(keeper.journal[0].body.resumed, false);
      });
    }

    // What a crash takes back makes transactions of before look like ones to come, so a forged snapshot cannot be told from a true one.
    for (const [name, change] of Object.entries({
      "of the beginning": { sequence: 0n, xmax: 3n, lsn: 0n },
      "that knows all transactions to come": { xmax: 1n << 40n },
      "that knows no transaction": { xmax: 3n },
    })) {
      test(`a forged cursor ${name} gives no more than one's own rights`, async (t) => {
        const [mine, theirs] = [await house("employee"), await house()];
        const secret = await chat(mine.organizationId, true);
        const { began } = await Keeper.live(t, mine.user);
        for (const id of [secret, theirs.chatId]) await write(id, "not for me");
        await sql`SELECT notify_user(${mine.users[1].id}, 'personal', '{}')`;
        await write(mine.chatId, "mine");
        const keeper = await Keeper.live(t, mine.user, { cursor: forged(began, change) });
        await write(mine.chatId, "live");
        await keeper.next("message:new", (m) => m.content === "live");
        assert.deepEqual(keeper.contents(), ["mine", "live"]);
        assert.ok(keeper.journal.every(({ name, body }) => name !== "personal" && (body.organizationId ?? mine.organizationId) === mine.organizationId));
        keeper.verify();
      });
    }

    test("a cursor of somebody else's gives no more than one's own rights", async (t) => {
      const [mine, theirs] = [await house(), await house()];
      const { began } = await Keeper.live(t, theirs.user);
      await write(theirs.chatId, "theirs");
      await write(mine.chatId, "mine");
      const keeper = new Keeper(t, mine.user, { cursor: began });
      await keeper.resumed();
      assert.ok(keeper.contents().includes("mine"));
      assert.ok(keeper.journal.every(({ body }) => body.organizationId !== theirs.organizationId && body.content !== "theirs"));
    });

    test("every event's cursor begins after it", async (t) => {
      const { user } = await house();
      const keeper = await Keeper.live(t, user);
      for (let i = 0; i < 10; i++) await announce(user, i);
      for (let i = 0; i < 10; i++) {
        const { cursor } = await keeper.next("news");
        assert.ok(cursor.length <= 64, `${cursor.length} characters`);
        const heir = new Keeper(t, user, { cursor });
        assert.equal(await heir.resumed(), 9 - i);
        assert.deepEqual(heir.journal.filter(({ name }) => name === "news").map(({ body }) => body.i), Array.from({ length: 9 - i }, (_, n) => i + 1 + n));
        heir.socket.disconnect();
      }
    });

    test("nothing was missed", async (t) => {
      const { user } = await house();
      const [keeper] = await Keeper.fleet(t, user);
      await keeper.silent(user, "sync:complete");
      await control("/cut");
      assert.equal(await keeper.resumed(), 0);
      await announce(user, 1);
      assert.equal((await keeper.next("news")).i, 1);
      keeper.verify();
    });
  },

  limit() {
    const limit = Number(process.env.LIMIT);
    const missing = async (t, events, others = 0) => {
      const { user, users: [, other] } = await house("employee");
      const keepers = await Keeper.fleet(t, user);
      await control("/hold");
      for (const k of keepers) await k.next("disconnect");
      for (let i = 0; i < others; i++) await sql`SELECT notify_user(${other.id}, 'other', '{}')`;
      for (let i = 0; i < events; i++) await announce(user, i);
      await control("/route?node=a");
      return { user, keepers };
    };
    const news = (keeper) => keeper.journal.filter(({ name }) => name === "news").map(({ body }) => body.i);

    test("as many as the limit are given", async (t) => {
      const { keepers } = await missing(t, limit);
      for (const k of keepers) {
        assert.equal(await k.resumed(), limit);
        assert.equal(news(k).length, limit);
        k.verify();
      }
    });
    test("one more is too many, and none of them is given", async (t) => {
      const { user, keepers } = await missing(t, limit + 1);
      for (const k of keepers) {
        assert.equal((await k.next("connected")).resumed, false);
        assert.equal((await k.next("sync:reset")).reason, "too_many");
      }
      await announce(user, "live");
      for (const k of keepers) {
        await k.next("news");
        assert.deepEqual(news(k), ["live"]);
      }
      await cut(keepers);
      for (const k of keepers) {
        assert.equal(await k.resumed(), 0);
        k.verify();
      }
    });
    test("what others are given does not count", async (t) => {
      const { keepers } = await missing(t, limit - 1, 3 * limit);
      for (const k of keepers) assert.equal(await k.resumed(), limit - 1);
    });
  },

  retention() {
    // passes writes for somebody else until retention has removed what is in the log now.
    async function passes() {
      const { user } = await house();
      const [{ newest }] = await sql`SELECT max(id) AS newest FROM event_log`;
      for (const end = Date.now() + patience; Date.now() < end; await pause(50)) {
        await announce(user, 0);
        const [{ removed }] = await sql`SELECT max(max_id) AS removed FROM event_log_trim`;
        if (removed >= newest) return;
      }
      assert.fail("retention removes nothing");
    }

    // forget has a new process take over: what the old one had in memory would still be exact.
    async function forget() {
      await control("/kill?node=a");
      await control("/start?node=a");
    }

    test("who was away for longer than the retention is told", async (t) => {
      const { user, chatId } = await house();
      const keepers = await Keeper.fleet(t, user);
      await control("/hold");
      for (const k of keepers) await k.next("disconnect");
      await write(chatId, "missed");
      await passes();
      await forget();
      for (const k of keepers) {
        assert.equal((await k.next("connected")).resumed, false);
        assert.equal((await k.next("sync:reset")).reason, "retention");
      }
      await write(chatId, "live");
      for (const k of keepers) {
        await k.next("message:new");
        assert.deepEqual(k.contents(), ["live"]);
        k.verify();
      }
    });

    test("sync:cursor keeps a quiet client young", async (t) => {
      const { user, chatId } = await house();
      const keepers = await Keeper.fleet(t, user);
      await write(chatId, "before");
      for (const k of keepers) await k.next("message:new");
      await passes();
      await control("/hold");
      for (const k of keepers) {
        await k.next("disconnect");
        assert.ok(k.take("sync:cursor")?.body.cursor);
      }
      await write(chatId, "missed");
      await forget();
      for (const k of keepers) {
        assert.ok((await k.resumed()) >= 1);
        assert.deepEqual(k.contents(), ["before", "missed"]);
        k.verify();
      }
      const old = new Keeper(t, user, { cursor: keepers[0].began });
      assert.equal((await old.next("sync:reset")).reason, "retention");
    });
  },

  postgres() {
    for (const [name, end] of [["restart", "/postgres/stop"], ["crash", "/postgres/crash"]]) {
      test(`a ${name} of Postgres while clients are away`, (t) => outage(t, async (_, missed) => {
        await missed();
        await control(end);
        await control("/postgres/start");
        await control("/route?node=a");
      }));
      test(`a ${name} of Postgres and of the server`, (t) => outage(t, async (_, missed) => {
        await control("/kill?node=a");
        await missed();
        await control(end);
        await control("/start?node=a");
        await control("/postgres/start");
      }));
      test(`a ${name} of Postgres while messages are written, and cuts`, (t) => storm(t, async (round, keepers) => {
        await control(end);
        if (round % 2) await cut(keepers);
        await control("/postgres/start");
        if (round % 2 === 0) await cut(keepers);
      }));
    }
  },
};

// dies kills a client after n packets of the server: what is still on its way reaches nobody.
function dies(keeper, n) {
  return new Promise((resolve) => {
    const die = () => {
      keeper.socket.offAny();
      keeper.socket.io.engine.transport.ws.terminate();
      keeper.socket.disconnect();
      resolve();
    };
    if (n === 0) keeper.socket.once("connect", die);
    else keeper.socket.onAny(() => keeper.journal.length === n && die());
  });
}

// forged is a cursor with some of its numbers changed; internal/eventlog/cursor.go has its form.
function forged(cursor, change) {
  const bytes = Buffer.from(cursor, "base64url");
  let at = 4;
  const number = () => {
    let value = 0n;
    for (let shift = 0n; at < bytes.length; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw new Error(`${cursor} ends too early`);
  };
  const distances = (count, order) => {
    let bit = 8 * at;
    const one = () => (bytes[bit >> 3] >> (7 - (bit++ % 8))) & 1;
    for (; count > 0; count--) {
      let width = order;
      while (bit < 8 * bytes.length && !one()) width++;
      bit += width;
    }
    at = Math.ceil(bit / 8);
  };
  const is = { system: bytes[3], lsn: number(), xmax: number() };
  const running = Number(number());
  distances(running >> 3, running & 7);
  Object.assign(is, { era: number(), sequence: number() });
  const now = { ...is, ...change };
  const put = (value) => (value < 128n ? [Number(value)] : [Number(value & 127n) | 128, ...put(value >> 7n)]);
  return Buffer.from([
    ...bytes.subarray(0, 3), now.system, ...put(now.lsn), ...put(now.xmax), 0, ...put(now.era & ~1n), ...put(now.sequence),
  ]).toString("base64url");
}

suites[process.env.SUITE]();
