// The contract's section 3 as the real client sees it. Every case has organizations of its own.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { Client, chat, organization, sql, token } from "./client.js";

const lease = Number(process.env.LEASE);
const grace = Number(process.env.GRACE);

test("refusals have their message and code", async (t) => {
  const { id, users: [user, other] } = await organization("employee", "employee");
  await sql`UPDATE users SET active = false WHERE id = ${other.id}`;
  const claims = { userId: user.id, organizationId: id };
  const cases = [
    [undefined, "no_token", "No token provided"],
    [{}, "no_token", "No token provided"],
    [{ token: "" }, "no_token", "No token provided"],
    [{ token: "garbage" }, "invalid_token", "Invalid token"],
    [{ token: 42 }, "invalid_token", "Invalid token"],
    [{ token: token(claims, { secret: "x".repeat(32) }) }, "invalid_token", "Invalid token"],
    [{ token: token({ userId: 999999999, organizationId: id }) }, "invalid_token", "Invalid token"],
    [{ token: token({ userId: user.id, organizationId: id + 1 }) }, "invalid_token", "Invalid token"],
    [{ token: token({ userId: user.id }) }, "invalid_token", "Invalid token"],
    [{ token: token(claims, { seconds: -40 }) }, "token_expired", "Token expired"],
    [{ token: other.token }, "user_disabled", "User disabled"],
  ];
  for (const [auth, code, message] of cases) {
    const client = new Client(t, auth);
    const error = await client.next("connect_error");
    assert.equal(error.message, `Authentication error: ${message}`);
    assert.deepEqual(error.data, { code });
    assert.equal(client.socket.active, false, "a refused client must not try again by itself");
  }
});

test("a refused client may connect again with another token", async (t) => {
  const { users: [user] } = await organization("employee");
  const client = new Client(t, { token: "garbage" });
  await client.next("connect_error");
  client.socket.auth = { token: user.token };
  client.socket.connect();
  await client.next("connected");
});

test("a token may come in the header, and its claims as strings", async (t) => {
  const { id, users: [user] } = await organization("employee");
  const forms = [
    { userId: user.id, organizationId: id },
    { userId: String(user.id), organizationId: String(id) },
    { sub: String(user.id), organizationId: id },
  ];
  for (const claims of forms) {
    for (const transport of ["websocket", "polling"]) {
      const header = new Client(t, {}, { transports: [transport], extraHeaders: { Authorization: `Bearer ${token(claims)}` } });
      assert.equal((await header.next("connected")).userId, user.id);
    }
    const auth = new Client(t, { token: token(claims) });
    assert.equal((await auth.next("connected")).userId, user.id);
  }
});

test("connected is the first event", async (t) => {
  const { id, users: [user] } = await organization("employee");
  const client = await Client.live(t, user, { autoConnect: true });
  client.socket.disconnect();
  client.heard = [];
  client.socket.connect();
  const connected = await client.next("connected");
  assert.equal(client.heard[0].name, "connect");
  assert.ok(!client.heard.slice(1, -1).some((h) => h.name === "connected"));
  assert.equal(connected.userId, user.id);
  assert.equal(connected.organizationId, id);
  assert.equal(connected.resumed, false);
  assert.equal(typeof connected.cursor, "string");
  assert.ok(connected.cursor.length > 0 && connected.message.length > 0);
  assert.ok(Math.abs(new Date(connected.timestamp) - Date.now()) < 60_000);
});

test("a write after connect is heard", async (t) => {
  const { id, users: [user] } = await organization("employee");
  const chatId = await chat(id);
  await Promise.all([...Array(20).keys()].map(async (i) => {
    const client = new Client(t, { token: user.token });
    await client.next("connect"); // and no wait for connected
    await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, ${`after ${i}`})`;
    await client.next("message:new", (m) => m.content === `after ${i}`);
    const names = client.heard.map((h) => h.name);
    assert.ok(names.includes("connected"), "connected comes before every event");
  }));
});

test("a cursor that is not known is answered by sync:reset", async (t) => {
  const { users: [user] } = await organization("employee");
  const client = new Client(t, { token: user.token, cursor: "nonsense" });
  const connected = await client.next("connected");
  const reset = await client.next("sync:reset");
  assert.equal(connected.resumed, false);
  assert.equal(connected.cursor, "nonsense", "until the reset has arrived the client keeps its own");
  assert.equal(reset.reason, "unknown_cursor");
  assert.ok(reset.cursor && reset.cursor !== connected.cursor);
});

describe("transports", () => {
  const kinds = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };
  for (const [name, transports] of Object.entries(kinds)) {
    test(`events, acknowledgements and refusals over ${name}`, async (t) => {
      const { id, users: [user] } = await organization("employee");
      const chatId = await chat(id);
      const refused = new Client(t, { token: "x" }, { transports });
      assert.equal((await refused.next("connect_error")).data.code, "invalid_token");
      const client = await Client.live(t, user, { transports });
      if (name === "upgrade" && client.socket.io.engine.transport.name !== "websocket") {
        await new Promise((resolve) => client.socket.io.engine.once("upgrade", resolve));
      }
      assert.equal(client.socket.io.engine.transport.name, name === "polling" ? "polling" : "websocket");
      assert.deepEqual(await client.ask("subscribe:chat", chatId), { ok: true, chatId });
      await client.next("subscribed:chat");
      for (let i = 0; i < 20; i++) await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, ${`${i}`})`;
      for (let i = 0; i < 20; i++) assert.equal((await client.next("message:new")).content, `${i}`);
    });
  }

  test("nothing is lost or doubled while the transport is upgraded", async (t) => {
    const { id, users: [user] } = await organization("employee");
    const chatId = await chat(id);
    const clients = [];
    for (let i = 0; i < 10; i++) clients.push(new Client(t, { token: user.token }, { transports: ["polling", "websocket"] }));
    await Promise.all(clients.map((c) => c.next("connected")));
    await sql`INSERT INTO messages (chat_id, content) SELECT ${chatId}, 'n' || i FROM generate_series(0, 99) i`;
    for (let i = 100; i < 150; i++) await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, ${`n${i}`})`;
    for (const c of clients) {
      for (let i = 0; i < 150; i++) assert.equal((await c.next("message:new")).content, `n${i}`);
      await c.silent(user, "message:new");
    }
  });
});

test("subscribe and unsubscribe take a number, a numeric string or {chatId}", async (t) => {
  const { id, users: [user] } = await organization("employee");
  const chatId = await chat(id);
  const client = await Client.live(t, user);
  for (const form of [chatId, String(chatId), { chatId }, { chatId: String(chatId) }]) {
    assert.deepEqual(await client.ask("subscribe:chat", form), { ok: true, chatId });
    assert.deepEqual(await client.next("subscribed:chat"), { chatId });
    assert.deepEqual(await client.ask("unsubscribe:chat", form), { ok: true, chatId });
    assert.deepEqual(await client.next("unsubscribed:chat"), { chatId });
  }
  client.socket.emit("subscribe:chat", chatId); // no acknowledgement asked for
  await client.next("subscribed:chat");
});

test("a chat of another organization is not found", async (t) => {
  const [mine, theirs] = [await organization("admin"), await organization("admin")];
  const foreign = await chat(theirs.id);
  const client = await Client.live(t, mine.users[0]);
  for (const id of [foreign, 999999999, "9223372036854775807"]) {
    const answer = await client.ask("subscribe:chat", id);
    assert.equal(answer.ok, false);
    assert.equal(answer.error.code, "chat_not_found");
  }
  client.socket.emit("subscribe:chat", foreign);
  const error = await client.next("error");
  assert.equal(error.code, "chat_not_found");
  assert.equal(error.event, "subscribe:chat");
  assert.equal((await client.ask("typing:start", foreign)).error.code, "not_subscribed");
});

test("typing is heard by the other users, and ends by itself", async (t) => {
  const { id, users: [a, b] } = await organization("employee", "employee");
  const chatId = await chat(id);
  const [typer, twin, other] = [await Client.live(t, a), await Client.live(t, a), await Client.live(t, b)];
  for (const c of [typer, twin, other]) await c.ask("subscribe:chat", chatId);
  assert.deepEqual(await typer.ask("typing:start", chatId), { ok: true });
  const start = await other.next("typing:start");
  assert.deepEqual({ ...start, timestamp: "" }, { chatId, userId: a.id, userEmail: a.email, timestamp: "" });
  assert.ok(Math.abs(new Date(start.timestamp) - Date.now()) < 60_000);
  await typer.ask("typing:stop", { chatId });
  await other.next("typing:stop", (e) => e.userId === a.id && e.chatId === chatId);

  await typer.ask("typing:start", String(chatId));
  await pause(lease * 0.6);
  await typer.ask("typing:start", chatId);
  const renewed = performance.now();
  await other.next("typing:stop");
  assert.ok(performance.now() - renewed > lease * 0.8, "the second start counts");
  await twin.silent(a, "typing:start");
  await typer.silent(a, "typing:start");
});

test("typing ends when its socket goes", async (t) => {
  const { id, users: [a, b] } = await organization("employee", "employee");
  const chatId = await chat(id);
  const [typer, other] = [await Client.live(t, a), await Client.live(t, b)];
  for (const c of [typer, other]) await c.ask("subscribe:chat", chatId);
  const began = performance.now();
  await typer.ask("typing:start", chatId);
  await other.next("typing:start");
  typer.socket.disconnect();
  await other.next("typing:stop");
  assert.ok(performance.now() - began < lease, "at once, not at the lease's end");
  await other.next("chat:left", (e) => e.userId === a.id && e.chatId === chatId);
});

test("joined and left are told once for each user", async (t) => {
  const { id, users: [a, b] } = await organization("employee", "employee");
  const chatId = await chat(id);
  const [first, second, other] = [await Client.live(t, a), await Client.live(t, a), await Client.live(t, b)];
  await other.ask("subscribe:chat", chatId);
  await first.ask("subscribe:chat", chatId);
  assert.deepEqual(await other.next("chat:joined"), { chatId, userId: a.id });
  await second.ask("subscribe:chat", chatId);
  await other.silent(b, "chat:joined");
  await first.silent(a, "chat:joined", (e) => e.userId === a.id);
  first.socket.disconnect();
  await other.silent(b, "chat:left");
  await second.ask("unsubscribe:chat", chatId);
  assert.deepEqual(await other.next("chat:left"), { chatId, userId: a.id });
});

test("presence knows several sockets of a user", async (t) => {
  const { users: [a, b] } = await organization("employee", "employee");
  const watcher = await Client.live(t, b);
  const of = (status) => (e) => e.userId === a.id && e.status === status;
  const first = await Client.live(t, a);
  assert.ok(Math.abs(new Date((await watcher.next("presence:changed", of("online"))).lastSeenAt) - Date.now()) < 60_000);
  const second = await Client.live(t, a);
  await first.ask("presence:set", { status: "away" });
  await watcher.silent(b, "presence:changed", of("away"));
  assert.equal((await second.ask("presence:set", { status: "away" })).ok, true);
  await watcher.next("presence:changed", of("away"));
  await second.ask("presence:set", { status: "online" });
  await watcher.next("presence:changed", of("online"));
  const list = await watcher.ask("presence:list");
  assert.deepEqual(list.users.map((u) => [u.userId, u.status]), [[a.id, "online"], [b.id, "online"]]);
  second.socket.disconnect();
  await watcher.next("presence:changed", of("away"));
  const began = performance.now();
  first.socket.disconnect();
  await watcher.next("presence:changed", of("offline"));
  assert.ok(performance.now() - began > grace * 0.8);
  assert.deepEqual((await watcher.ask("presence:list")).users.map((u) => u.userId), [b.id]);
  assert.equal((await watcher.ask("presence:set", { status: "offline" })).error.code, "bad_request");
});

test("too many events are limited, and the socket stays usable", async (t) => {
  const { users: [user] } = await organization("employee");
  const client = await Client.live(t, user);
  const answers = await Promise.all([...Array(200).keys()].map(() => client.ask("presence:list")));
  const limited = answers.filter((a) => a.error?.code === "rate_limited").length;
  assert.ok(limited >= 100 && answers.filter((a) => a.ok).length >= 40, `${limited} of 200 limited`);
  client.socket.emit("presence:set", { status: "away" });
  await client.next("error", (e) => e.code === "rate_limited" && e.event === "presence:set");
  await pause(300);
  assert.equal((await client.ask("presence:list")).ok, true);
});

test("a token's end is announced, closes the transport, and is told to who comes back", async (t) => {
  const { id, users: [user] } = await organization("employee");
  const client = new Client(t, { token: token({ userId: user.id, organizationId: id, exp: Date.now() / 1000 - 26 }) });
  await client.next("connected");
  const expiring = await client.next("auth:expiring");
  assert.ok(new Date(expiring.expiresAt) < Date.now());
  assert.equal(await client.next("disconnect"), "transport close");
  assert.equal((await client.next("connect_error")).data.code, "token_expired");
});

test("auth:refresh takes a token of the same user only", async (t) => {
  const { id, users: [user, other] } = await organization("employee", "employee");
  const short = token({ userId: user.id, organizationId: id }, { seconds: 2 });
  const client = new Client(t, { token: short });
  await client.next("auth:expiring");
  const codes = { no_token: "", invalid_token: other.token, token_expired: token({ userId: user.id, organizationId: id }, { seconds: -40 }) };
  for (const [code, bad] of Object.entries(codes)) {
    assert.equal((await client.ask("auth:refresh", { token: bad })).error.code, code);
  }
  assert.equal((await client.ask("auth:refresh", { token: token({ userId: user.id, organizationId: id + 1 }) })).error.code, "invalid_token");
  assert.equal((await client.ask("auth:refresh", "x")).error.code, "bad_request");
  const answer = await client.ask("auth:refresh", { token: user.token });
  assert.equal(answer.ok, true);
  assert.ok(new Date(answer.expiresAt) - Date.now() > 3_000_000);
  await pause(2500);
  assert.equal(client.take("disconnect"), undefined);
  assert.equal((await client.ask("presence:list")).ok, true);
});

test("a thousand messages come in order, to everybody the same", async (t) => {
  const { id, users: [a, b] } = await organization("employee", "employee");
  const chats = [await chat(id), await chat(id), await chat(id), await chat(id)];
  const clients = [await Client.live(t, a), await Client.live(t, b), await Client.live(t, b, { transports: ["polling"] })];
  await clients[0].ask("subscribe:chat", chats[0]);
  await Promise.all(chats.map(async (chatId) => {
    for (let i = 0; i < 250; i++) await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, ${`${i}`})`;
  }));
  for (const client of clients) {
    const counts = Object.fromEntries(chats.map((c) => [c, 0]));
    const seen = new Set();
    let cursor;
    for (let i = 0; i < 1000; i++) {
      const m = await client.next("message:new");
      assert.equal(m.content, String(counts[m.chatId]++), "a chat's messages keep the order of their commits");
      assert.ok(!seen.has(m.eventId) && m.cursor !== cursor);
      assert.ok(Number.isSafeInteger(m.eventId) && typeof m.recordedAt === "string");
      seen.add(m.eventId);
      cursor = m.cursor;
    }
  }
});

test("three organizations under concurrent writers hear their own only, and once", async (t) => {
  const organizations = await Promise.all([1, 2, 3].map(() => organization("admin", "employee")));
  const houses = await Promise.all(organizations.map(async (o) => {
    const house = { ...o, chats: [await chat(o.id), await chat(o.id)], secret: await chat(o.id, true) };
    await sql`INSERT INTO chat_members (chat_id, user_id) VALUES (${house.secret}, ${o.users[1].id})`;
    house.clients = [await Client.live(t, o.users[0]), await Client.live(t, o.users[1]), await Client.live(t, o.users[1], { transports: ["polling"] })];
    for (const c of house.clients) for (const id of [...house.chats, house.secret]) assert.equal((await c.ask("subscribe:chat", id)).ok, true);
    return house;
  }));
  await Promise.all(houses.flatMap((h) => [...h.chats, h.secret].map(async (chatId) => {
    for (let i = 0; i < 40; i++) {
      await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, ${`${h.id}`})`;
      if (i % 10 === 0) await sql`SELECT broadcast_to_organization(${h.id}, 'wire:all', ${`{"organization": ${h.id}}`})`;
    }
  })));
  for (const h of houses) {
    for (const client of h.clients) {
      const ids = [];
      for (let i = 0; i < 120; i++) {
        const m = await client.next("message:new");
        assert.equal(m.organizationId, h.id);
        ids.push(m.id);
      }
      assert.equal(new Set(ids).size, 120);
      for (let i = 0; i < 12; i++) assert.equal((await client.next("wire:all")).organization, h.id);
    }
    await h.clients[0].silent(h.users[0], "message:new");
    await h.clients[1].silent(h.users[1], "wire:all");
  }
});

test("a restricted chat is heard and seen by members, assignee and admins", async (t) => {
  const { id, users } = await organization("admin", "manager", "employee", "employee");
  const [admin, manager, member, assignee] = users;
  const secret = await chat(id, true);
  await sql`INSERT INTO chat_members (chat_id, user_id) VALUES (${secret}, ${member.id})`;
  await sql`UPDATE chats SET assigned_user_id = ${assignee.id} WHERE id = ${secret}`;
  const clients = await Promise.all(users.map((u) => Client.live(t, u)));
  for (const [i, user] of users.entries()) {
    const answer = await clients[i].ask("subscribe:chat", secret);
    assert.equal(answer.ok, user !== manager);
    if (user === manager) assert.equal(answer.error.code, "chat_not_found");
  }
  await sql`INSERT INTO messages (chat_id, content) VALUES (${secret}, 'secret')`;
  for (const [i, user] of users.entries()) {
    if (user === manager) continue;
    assert.equal((await clients[i].next("message:new")).content, "secret");
    await clients[i].silent(user, "message:new");
  }
  await clients[1].silent(manager, "message:new");
  assert.ok(admin);
});

describe("losing access", () => {
  const within = async (what) => {
    const began = performance.now();
    await what();
    assert.ok(performance.now() - began < 1000, "within a second");
  };

  test("a member who is removed leaves the chat", async (t) => {
    const { id, users: [member, other] } = await organization("employee", "employee");
    const secret = await chat(id, true);
    await sql`INSERT INTO chat_members (chat_id, user_id) VALUES (${secret}, ${member.id}), (${secret}, ${other.id})`;
    const [client, watcher] = [await Client.live(t, member), await Client.live(t, other)];
    for (const c of [client, watcher]) await c.ask("subscribe:chat", secret);
    await within(async () => {
      await sql`DELETE FROM chat_members WHERE chat_id = ${secret} AND user_id = ${member.id}`;
      const deleted = await client.next("chat:deleted");
      assert.equal(deleted.chatId, secret);
      assert.equal(deleted.reason, "access");
      await watcher.next("chat:left", (e) => e.userId === member.id);
    });
    assert.equal((await client.ask("typing:start", secret)).error.code, "not_subscribed");
    assert.equal((await client.ask("subscribe:chat", secret)).error.code, "chat_not_found");
    await watcher.ask("typing:start", secret);
    await sql`INSERT INTO messages (chat_id, content) VALUES (${secret}, 'secret')`;
    await watcher.next("message:new");
    await client.silent(member, "message:new");
    await client.silent(member, "typing:start");
    await sql`INSERT INTO chat_members (chat_id, user_id) VALUES (${secret}, ${member.id})`;
    assert.equal((await client.next("chat:new")).id, secret);
    assert.equal((await client.ask("subscribe:chat", secret)).ok, true);
  });

  test("a chat that becomes restricted is lost by the others", async (t) => {
    const { id, users: [admin, employee] } = await organization("admin", "employee");
    const chatId = await chat(id);
    const [client, watcher] = [await Client.live(t, employee), await Client.live(t, admin)];
    for (const c of [client, watcher]) await c.ask("subscribe:chat", chatId);
    await within(async () => {
      await sql`UPDATE chats SET restricted = true WHERE id = ${chatId}`;
      await client.next("chat:deleted", (e) => e.chatId === chatId && e.reason === "access");
      await watcher.next("chat:left", (e) => e.userId === employee.id);
    });
    assert.equal((await client.ask("typing:start", chatId)).error.code, "not_subscribed");
  });

  test("many chats that become restricted at once are lost, too", async (t) => {
    const { id, users: [admin, employee] } = await organization("admin", "employee");
    await sql`INSERT INTO chats (organization_id, name) SELECT ${id}, 'wire' FROM generate_series(1, 400)`;
    const [{ chatId }] = await sql`SELECT max(id) AS "chatId" FROM chats WHERE organization_id = ${id}`;
    const [client, watcher] = [await Client.live(t, employee), await Client.live(t, admin)];
    for (const c of [client, watcher]) assert.equal((await c.ask("subscribe:chat", chatId)).ok, true);
    await sql`UPDATE chats SET restricted = true WHERE organization_id = ${id}`;
    await within(async () => {
      await client.next("chat:deleted", (e) => e.chatId === chatId && e.reason === "access");
      await watcher.next("chat:left", (e) => e.userId === employee.id);
    });
    assert.equal((await client.ask("typing:start", chatId)).error.code, "not_subscribed");
    await watcher.silent(admin, "chat:deleted");
  });

  test("an admin who becomes an employee loses the restricted chats", async (t) => {
    const { id, users: [admin] } = await organization("admin");
    const [secret, open] = [await chat(id, true), await chat(id)];
    const client = await Client.live(t, admin);
    for (const c of [secret, open]) assert.equal((await client.ask("subscribe:chat", c)).ok, true);
    await within(async () => {
      await sql`UPDATE users SET role = 'employee' WHERE id = ${admin.id}`;
      await client.next("chat:deleted", (e) => e.chatId === secret && e.reason === "access");
    });
    assert.equal((await client.ask("typing:start", secret)).error.code, "not_subscribed");
    assert.equal((await client.ask("typing:start", open)).ok, true);
  });

  for (const [how, statement] of Object.entries({
    disabled: (id) => sql`UPDATE users SET active = false WHERE id = ${id}`,
    deleted: (id) => sql`DELETE FROM users WHERE id = ${id}`,
  })) {
    test(`a user who is ${how} is disconnected for good`, async (t) => {
      const { users: [user, other] } = await organization("employee", "employee");
      const clients = [await Client.live(t, user), await Client.live(t, user, { transports: ["polling"] })];
      const bystander = await Client.live(t, other);
      await within(async () => {
        await statement(user.id);
        for (const c of clients) assert.equal(await c.next("disconnect"), "io server disconnect");
      });
      for (const c of clients) {
        assert.equal(c.socket.active, false);
        c.socket.connect();
        const code = (await c.next("connect_error")).data.code;
        assert.equal(code, how === "disabled" ? "user_disabled" : "invalid_token");
      }
      await bystander.silent(other, "disconnect");
    });
  }

  test("a deleted chat is left by everybody", async (t) => {
    const { id, users: [a, b] } = await organization("employee", "employee");
    const chatId = await chat(id);
    const clients = [await Client.live(t, a), await Client.live(t, b)];
    for (const c of clients) await c.ask("subscribe:chat", chatId);
    await sql`DELETE FROM chats WHERE id = ${chatId}`;
    for (const c of clients) {
      const deleted = await c.next("chat:deleted");
      assert.equal(deleted.chatId, chatId);
      assert.equal(deleted.reason, undefined);
      assert.equal((await c.ask("typing:start", chatId)).error.code, "not_subscribed");
    }
  });
});

test("users' own events reach one user or one organization", async (t) => {
  const [mine, theirs] = [await organization("employee", "employee"), await organization("employee")];
  const [a, b, c] = [await Client.live(t, mine.users[0]), await Client.live(t, mine.users[1]), await Client.live(t, theirs.users[0])];
  await sql`SELECT notify_user(${mine.users[0].id}, 'call "in"', '{"line": 2, "eventId": "mine"}')`;
  const call = await a.next('call "in"');
  assert.equal(call.line, 2);
  assert.ok(Number.isSafeInteger(call.eventId) && typeof call.cursor === "string" && typeof call.timestamp === "string");
  await b.silent(mine.users[1], 'call "in"');
  await sql`SELECT broadcast_to_organization(${mine.id}, 'tea', '[1, 2]')`;
  for (const client of [a, b]) assert.deepEqual((await client.next("tea")).data, [1, 2]);
  await c.silent(theirs.users[0], "tea");
  await sql`INSERT INTO notifications (user_id, type, message) VALUES (${mine.users[0].id}, 'note', 'hello')`;
  assert.equal((await a.next("user:notification")).message, "hello");
  await b.silent(mine.users[1], "user:notification");
});

test("bad input is answered, and the socket stays usable", async (t) => {
  const { id, users: [user] } = await organization("employee");
  const chatId = await chat(id);
  const client = await Client.live(t, user, { transports: ["websocket"] });
  const deep = JSON.parse("[".repeat(500) + "]".repeat(500));
  const bad = [
    ["subscribe:chat"], ["subscribe:chat", null], ["subscribe:chat", NaN], ["subscribe:chat", 2 ** 60], ["subscribe:chat", -1],
    ["subscribe:chat", 1.5], ["subscribe:chat", ""], ["subscribe:chat", "1e3"], ["subscribe:chat", deep],
    ["subscribe:chat", Buffer.from("5")], ["subscribe:chat", { chatId: Buffer.from("5") }],
    ["subscribe:chat", JSON.parse('{"__proto__": {"chatId": 1}}')], ["subscribe:chat", "9".repeat(500_000)],
    ["typing:start", [chatId]], ["presence:set", "away"], ["presence:set", { status: "invisible" }], ["auth:refresh", {}],
    ["no:such:event", {}], ["__proto__", {}], ["constructor"], ["x".repeat(500_000), 1], ["message:new", { id: 1 }],
  ];
  for (const [i, [name, ...args]] of bad.entries()) {
    const answer = await client.ask(name, ...args);
    assert.equal(answer.error?.code, "bad_request", `case ${i}`);
    if (i % 15 === 14) await pause(1000); // within the rate
  }
  await pause(1000);
  client.socket.emit("no:such:event", 1);
  assert.equal((await client.next("error")).code, "bad_request");
  assert.equal((await client.ask("subscribe:chat", chatId)).ok, true);
  assert.equal(client.take("disconnect"), undefined);
});

test("a packet over a megabyte closes the connection, and the client comes back", async (t) => {
  const { users: [user] } = await organization("employee");
  for (const transports of [["websocket"], ["polling"]]) {
    const client = await Client.live(t, user, { transports });
    client.socket.emit("subscribe:chat", "x".repeat(1_100_000));
    await client.next("disconnect");
    await client.next("connected");
  }
});

test("the socket limit of a user does not send anybody away for good", async (t) => {
  const { users: [user] } = await organization("employee");
  const clients = [];
  for (let i = 0; i < Number(process.env.SOCKETS); i++) clients.push(await Client.live(t, user));
  const late = new Client(t, { token: user.token });
  await late.next("disconnect");
  assert.equal(late.take("connected"), undefined);
  assert.ok(late.socket.active);
  clients[0].socket.disconnect();
  await late.next("connected");
});
