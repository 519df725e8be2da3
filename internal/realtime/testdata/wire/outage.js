// The database goes away and comes back, under sockets that stay. One case after the other: there is one database.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, chat, control, organization, sql } from "./client.js";

test("sockets outlive the database", async (t) => {
  const { id, users: [a, b] } = await organization("employee", "employee");
  const chatId = await chat(id);
  const [one, two] = [await Client.live(t, a), await Client.live(t, b, { transports: ["polling"] })];
  for (const c of [one, two]) await c.ask("subscribe:chat", chatId);
  await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, 'before')`;
  for (const c of [one, two]) await c.next("message:new");

  await control("/crash");
  await one.ask("typing:start", chatId);
  assert.equal((await two.next("typing:start")).userId, a.id);
  assert.equal((await one.ask("subscribe:chat", chatId + 1)).error.code, "unavailable");
  assert.equal((await two.ask("presence:list")).users.length, 2);
  const late = new Client(t, { token: a.token });
  await late.next("disconnect");
  assert.equal(late.take("connected"), undefined);
  assert.ok(late.socket.active, "it goes on trying");

  await control("/start");
  for (let i = 0; i < 50; i++) await sql`INSERT INTO messages (chat_id, content) VALUES (${chatId}, ${`${i}`})`;
  for (const c of [one, two]) {
    for (let i = 0; i < 50; i++) assert.equal((await c.next("message:new")).content, `${i}`);
    assert.equal(c.take("disconnect"), undefined);
  }
  await late.next("connected");
});

test("truncate resets every client, and takes chats away", async (t) => {
  const [mine, theirs] = [await organization("employee"), await organization("employee")];
  const chatId = await chat(mine.id);
  const [a, b] = [await Client.live(t, mine.users[0]), await Client.live(t, theirs.users[0])];
  await a.ask("subscribe:chat", chatId);
  await sql`TRUNCATE chats CASCADE`;
  for (const c of [a, b]) {
    const reset = await c.next("sync:reset");
    assert.equal(reset.reason, "truncate");
    assert.equal(typeof reset.cursor, "string");
  }
  await a.next("chat:deleted", (e) => e.chatId === chatId);
  assert.equal((await a.ask("typing:start", chatId)).error.code, "not_subscribed");
});
